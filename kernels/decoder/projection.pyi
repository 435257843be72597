from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mobilesam.kernels.core.check import F32
from mobilesam.kernels.decoder.recorder import Array, Maps, Recorder

class PackedRows(NamedTuple):
    rows: F32
    packed: NDArray[np.uint8]
    isa: int

def pack_rows(rows: F32, *, precision: str = "fp32", isa: str | None = None) -> PackedRows: ...
def checked_rows(packed: object, name: str) -> PackedRows: ...
def project(
    plan: Recorder,
    x: Array,
    rows: PackedRows,
    added: Maps | None = None,
    *,
    shift: F32 | None = None,
    scale: F32 | None = None,
) -> Maps: ...
