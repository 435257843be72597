from mobilesam.kernels.core.check import F32, Activation, Pair
from mobilesam.kernels.core.panels import Weight

def conv2d(
    x: F32,
    weight: Weight,
    bias: F32 | None = None,
    *,
    stride: Pair = 1,
    pad: Pair = 0,
    dilation: Pair = 1,
    activation: Activation = None,
    residual: F32 | None = None,
    out: F32 | None = None,
    threads: int | None = None,
) -> F32: ...
