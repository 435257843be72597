from mobilesam.kernels.core.check import F32
from mobilesam.kernels.core.panels import Weight

def patch_embed(
    x: F32,
    w1: Weight,
    b1: F32 | None,
    w2: Weight,
    b2: F32 | None,
    *,
    out: F32 | None = None,
    threads: int | None = None,
) -> F32: ...
