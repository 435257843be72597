from mobilesam.kernels.core.check import F32
from mobilesam.kernels.decoder.image_maps import ImageMaps
from mobilesam.kernels.decoder.queue import Queue

def attend_image(
    maps: ImageMaps,
    at: tuple[int, int],
    queries: F32,
    bias: F32,
    *,
    isa: str | None = None,
    queue: Queue | None = None,
    threads: int | None = None,
) -> F32: ...
