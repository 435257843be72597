import numpy as np
from numpy.typing import NDArray

from mobilesam.kernels.core.check import F32

def normalize(
    image: NDArray[np.uint8], mean: F32, std: F32, *, size: tuple[int, int], threads: int | None = None
) -> F32: ...
