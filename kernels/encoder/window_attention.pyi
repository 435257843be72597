import numpy as np
from numpy.typing import NDArray

from mobilesam.kernels.core.check import F32
from mobilesam.kernels.core.panels import Weight

def pack_attention_bias(table: F32, index: NDArray[np.intp]) -> F32: ...
def window_attention(
    x: F32,
    norm_weight: F32,
    norm_bias: F32,
    qkv_weight: Weight,
    qkv_bias: F32 | None,
    proj_weight: Weight,
    proj_bias: F32 | None,
    attention_bias: F32,
    *,
    window: int,
    eps: float = 1e-5,
    out: F32 | None = None,
    threads: int | None = None,
) -> F32: ...
