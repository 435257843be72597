"""Kernels that see one row at a time: LayerNorm."""
from cython.parallel cimport prange
from core.common cimport *

from mobilesam.kernels.core import check
from mobilesam.kernels.core.threads import resolve

cdef const runtime *rt = shared_runtime()

cdef int64_t CHUNK = 1 << 14  # floats a thread takes at once


def layer_norm(x, weight, bias, *, eps=1e-5, activation=None, out=None, threads=None):
    """y = act((x − mean) / sqrt(var + eps) · weight + bias) over the last axis, var biased, as ``torch.nn.LayerNorm``.

    Args:
        x: (..., C) float32; LayerNorm2d of the reference is this on NHWC with eps 1e-6.
        weight, bias: (C,) float32.
        activation: None, "gelu" or "relu".
        out: (..., C) float32 to write into; may be ``x`` itself.
    """
    cdef int act = check.activation(activation), nthreads = resolve(threads)
    x = check.array(x, "x", (None, "C"))
    cdef const float[::1] w = check.array(weight, "weight", (x.shape[-1],)), b = check.array(bias, "bias", (x.shape[-1],))
    y = check.output(out, x.shape, *(() if out is x else (x,)), weight, bias)
    cdef const float[::1] xv = x.reshape(-1)
    cdef float[::1] yv = y.reshape(-1)
    cdef int64_t c = x.shape[-1], m = xv.shape[0] // c, block = max(1, CHUNK // c), i
    cdef float e = eps
    cdef const micro *u = &rt.tables[rt.active[0]]
    for i in prange((m + block - 1) // block, nogil=True, num_threads=nthreads, use_threads_if=m > 2 * block, schedule="dynamic"):
        u.layer_norm(&yv[i * block * c], c, &xv[i * block * c], c, min(block, m - i * block), c, &w[0], &b[0], e, act)
    return y
