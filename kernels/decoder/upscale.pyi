from collections.abc import Sequence

from mobilesam.kernels.core.check import F32
from mobilesam.kernels.decoder.projection import PackedRows
from mobilesam.kernels.decoder.recorder import Array, Maps, Recorder

def upscale_masks(
    plan: Recorder,
    x: Maps,
    size: tuple[int, int],
    norm_weight: F32,
    norm_bias: F32,
    w2: PackedRows,
    b2: F32,
    hyper: Array,
    shift: F32,
    *,
    update: Sequence[Array] | None = None,
    eps: float = 1e-6,
) -> Array: ...
