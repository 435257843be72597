from typing import NamedTuple

from mobilesam.kernels.core.check import F32

class WinogradPanels(NamedTuple):
    data: F32
    shape: tuple[int, int, int, int]
    isa: int

def pack_winograd(weight: F32, *, threads: int | None = None) -> WinogradPanels: ...
def winograd_conv3x3(
    x: F32, weight: F32 | WinogradPanels, *, out: F32 | None = None, threads: int | None = None
) -> F32: ...
