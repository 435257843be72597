from typing import NamedTuple

from mobilesam.kernels.core.check import F32
from mobilesam.kernels.decoder.constants import MixedUpdate
from mobilesam.kernels.decoder.image_maps import ImageMaps
from mobilesam.kernels.decoder.queue import Queue

class MixedImage(NamedTuple):
    n: int
    rank: int
    data: F32

def update_image_mixed(
    maps: ImageMaps,
    pe: ImageMaps,
    update: MixedUpdate,
    keys: F32,
    values: F32,
    queries: F32,
    before: MixedImage | None = None,
    *,
    channels: int = 256,
    eps: float = 1e-5,
    queue: Queue | None = None,
    threads: int | None = None,
) -> tuple[MixedImage, F32]: ...
