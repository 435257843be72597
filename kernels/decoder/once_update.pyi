from mobilesam.kernels.core.check import F32
from mobilesam.kernels.decoder.constants import OnceAttention, OnceUpdate
from mobilesam.kernels.decoder.image_maps import ImageMaps
from mobilesam.kernels.decoder.queue import Queue

def update_image_once(
    x: ImageMaps,
    pe: ImageMaps,
    attention: OnceAttention,
    queries: F32,
    update: OnceUpdate | None = None,
    keys: F32 | None = None,
    values: F32 | None = None,
    *,
    eps: float = 1e-5,
    isa: str | None = None,
    queue: Queue | None = None,
    threads: int | None = None,
) -> tuple[ImageMaps, F32]: ...
