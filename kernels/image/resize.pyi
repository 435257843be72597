from typing import overload

import numpy as np
from numpy.typing import NDArray

from mobilesam.kernels.core.check import F32

@overload
def resize_logits(
    x: F32,
    *,
    padded: tuple[int, int] = (1024, 1024),
    crop: tuple[int, int],
    size: tuple[int, int],
    threshold: None = None,
    out: F32 | None = None,
    threads: int | None = None,
) -> F32: ...
@overload
def resize_logits(
    x: F32,
    *,
    padded: tuple[int, int] = (1024, 1024),
    crop: tuple[int, int],
    size: tuple[int, int],
    threshold: float,
    out: NDArray[np.bool_] | None = None,
    threads: int | None = None,
) -> NDArray[np.bool_]: ...
def mask_runs(
    x: F32,
    *,
    padded: tuple[int, int] = (1024, 1024),
    crop: tuple[int, int],
    size: tuple[int, int],
    threshold: float = 0.0,
    offset: float = 1.0,
    threads: int | None = None,
) -> tuple[list[NDArray[np.int32]], NDArray[np.int64]]: ...
