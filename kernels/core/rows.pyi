from mobilesam.kernels.core.check import F32, Activation

def layer_norm(
    x: F32,
    weight: F32,
    bias: F32,
    *,
    eps: float = 1e-5,
    activation: Activation = None,
    out: F32 | None = None,
    threads: int | None = None,
) -> F32: ...
