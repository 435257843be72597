import numpy as np
from numpy.typing import NDArray

from mobilesam.kernels.core.check import F32

def encode_positions(
    xy: F32,
    size: int,
    gaussian: F32,
    kinds: NDArray[np.intp],
    embeddings: F32,
    *,
    threads: int | None = None,
) -> F32: ...
