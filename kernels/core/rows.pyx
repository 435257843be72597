"""Row-wise kernels: LayerNorm."""
from core.common cimport *
from core.launch cimport *

from mobilesam.kernels.core import check
from mobilesam.kernels.core.threads import resolve

import_runtime()

cdef int64_t CHUNK = 1 << 14  # floats in a unit of work


def layer_norm(x, weight, bias, *, eps=1e-5, activation=None, out=None, threads=None):
    """y = act((x − mean) / sqrt(var + eps) · weight + bias) over the last axis, with the biased variance.

    This is ``torch.nn.LayerNorm`` with an activation. The reference's LayerNorm2d is this function with channels last and eps 1e-6.

    Args:
        x: (..., C) float32.
        weight: (C,) float32.
        bias: (C,) float32.
        eps: A number added to the variance.
        activation: None, "gelu" or "relu".
        out: (..., C) float32 that receives the result, or None. ``out`` may be ``x``.
        threads: The number of threads, or None for the default.

    Returns:
        (..., C) float32.
    """
    cdef int act = check.activation(activation), nthreads = resolve(threads)
    cdef bint in_place = out is not None and out is x
    x = check.array(x, "x", (None, "C"))
    cdef const float[::1] w = check.array(weight, "weight", (x.shape[-1],)), b = check.array(bias, "bias", (x.shape[-1],))
    eps = check.real(eps, "eps")
    y = check.output(out, x.shape, *(() if in_place else (x,)), weight, bias)
    cdef const float[::1] xv = x.reshape(-1)
    cdef float[::1] yv = y.reshape(-1)
    cdef norm_job p
    p.c = x.shape[-1]
    p.m, p.block = xv.shape[0] // p.c, max(1, CHUNK // p.c)
    p.u, p.x, p.y, p.weight, p.bias, p.eps, p.act = &rt.tables[rt.active[0]], &xv[0], &yv[0], &w[0], &b[0], eps, act
    launch("layer_norm", norm_block, &p, sizeof(p), (p.m + p.block - 1) // p.block, NULL, nthreads if p.m > 2 * p.block else 1)
    return y


cdef struct norm_job:
    const micro *u
    const float *x  # (m, c)
    float *y
    const float *weight
    const float *bias
    int64_t m, c, block  # block is the number of rows in a unit of work
    float eps
    int act


cdef void norm_block(void *job, int64_t unit) noexcept nogil:
    cdef const norm_job *p = <const norm_job *>job
    cdef int64_t first = unit * p.block, at = first * p.c
    cdef norm_args g
    g.m, g.n, g.x, g.ldx, g.y, g.ldy = min(p.block, p.m - first), p.c, p.x + at, p.c, p.y + at, p.c
    g.weight, g.bias, g.eps, g.act = p.weight, p.bias, p.eps, p.act
    p.u.layer_norm(&g)
