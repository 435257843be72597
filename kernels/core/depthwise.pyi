from mobilesam.kernels.core.check import F32, Activation, Pair

def depthwise_conv2d(
    x: F32,
    weight: F32,
    bias: F32 | None = None,
    *,
    stride: Pair = 1,
    pad: Pair = 0,
    dilation: Pair = 1,
    activation: Activation = None,
    out: F32 | None = None,
    threads: int | None = None,
) -> F32: ...
