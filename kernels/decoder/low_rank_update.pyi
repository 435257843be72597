from collections.abc import Sequence
from typing import NamedTuple

from mobilesam.kernels.core.check import F32
from mobilesam.kernels.decoder.constants import Update
from mobilesam.kernels.decoder.image_maps import ImageMaps, MapRows
from mobilesam.kernels.decoder.queue import Queue

class UpdatedImage(NamedTuple):
    n: int
    rank: int
    data: F32
    values: tuple[F32, ...]
    rows: MapRows | None

def update_image(
    maps: ImageMaps,
    pe: ImageMaps,
    update: Update,
    keys: F32,
    values: F32,
    queries: F32,
    before: Sequence[UpdatedImage] | None = None,
    *,
    channels: int = 256,
    eps: float = 1e-5,
    isa: str | None = None,
    queue: Queue | None = None,
    threads: int | None = None,
) -> tuple[list[UpdatedImage], F32]: ...
