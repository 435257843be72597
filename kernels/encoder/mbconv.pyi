from mobilesam.kernels.core.check import F32
from mobilesam.kernels.core.panels import Weight

def mbconv(
    x: F32,
    w1: Weight,
    b1: F32 | None,
    w2: F32,
    b2: F32,
    w3: Weight,
    b3: F32 | None,
    *,
    stride: int = 1,
    residual: bool = False,
    out: F32 | None = None,
    threads: int | None = None,
) -> F32: ...
