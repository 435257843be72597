from mobilesam.kernels.core.check import F32
from mobilesam.kernels.core.panels import Weight

def local_mlp(
    x: F32,
    conv_weight: F32,
    conv_bias: F32,
    norm_weight: F32,
    norm_bias: F32,
    fc1_weight: Weight,
    fc1_bias: F32 | None,
    fc2_weight: Weight,
    fc2_bias: F32 | None,
    *,
    eps: float = 1e-5,
    out: F32 | None = None,
    threads: int | None = None,
) -> F32: ...
