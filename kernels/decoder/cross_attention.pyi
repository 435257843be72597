from mobilesam.kernels.core.check import F32

def cross_attention(
    q: F32,
    k: F32,
    v: F32,
    *,
    heads: int,
    out: F32 | None = None,
    threads: int | None = None,
) -> F32: ...
