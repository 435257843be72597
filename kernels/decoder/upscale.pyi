from mobilesam.kernels.core.check import F32
from mobilesam.kernels.decoder.image_maps import ImageMaps, MapRows
from mobilesam.kernels.decoder.low_rank_update import UpdatedImage
from mobilesam.kernels.decoder.mixed_update import MixedImage
from mobilesam.kernels.decoder.queue import Queue, Slot

def upscale_masks(
    x: tuple[ImageMaps, int, tuple[int, int]],
    norm_weight: F32,
    norm_bias: F32,
    w2: F32 | MapRows,
    b2: F32,
    hyper: F32,
    *,
    update: UpdatedImage | MixedImage | None = None,
    rows: MapRows | None = None,
    shift: F32 | None = None,
    eps: float = 1e-6,
    precision: str = "fp32",
    isa: str | None = None,
    out: F32 | Slot | None = None,
    queue: Queue | None = None,
    threads: int | None = None,
) -> F32: ...
