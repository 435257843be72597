from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mobilesam.kernels.core.check import F32

class ImageMaps(NamedTuple):
    data: F32
    n: int

class MapRows(NamedTuple):
    rows: F32
    operand: NDArray[np.uint8]
    isa: int

def pack_rows(rows: F32, *, precision: str = "fp32", isa: str | None = None) -> MapRows: ...
def project_image(
    x: F32,
    shift: F32 | None,
    scale: F32 | None,
    rows: F32 | MapRows,
    added: tuple[ImageMaps, int] | None = None,
    *,
    precision: str = "fp32",
    isa: str | None = None,
    threads: int | None = None,
) -> ImageMaps: ...
