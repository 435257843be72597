"""Kernels that see one row, or one value, at a time: LayerNorm, softmax, GELU, an image's normalisation."""
import numpy as np

from cython.parallel cimport prange
from libc.string cimport memset

from common cimport *

from mobilesam.kernels import check, memory
from mobilesam.kernels.threads import resolve

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


def softmax(x, *, out=None, threads=None):
    """y = exp(x − max x) / Σ exp(x − max x) over the last axis of ``x`` (..., N) float32; ``out`` may be ``x`` itself."""
    cdef int nthreads = resolve(threads)
    x = check.array(x, "x", (None, "N"))
    y = check.output(out, x.shape, *(() if out is x else (x,)))
    cdef const float[::1] xv = x.reshape(-1)
    cdef float[::1] yv = y.reshape(-1)
    cdef int64_t n = x.shape[-1], m = xv.shape[0] // n, block = max(1, CHUNK // n), i
    cdef const micro *u = &rt.tables[rt.active[0]]
    for i in prange((m + block - 1) // block, nogil=True, num_threads=nthreads, use_threads_if=m > 2 * block, schedule="dynamic"):
        u.softmax(&yv[i * block * n], n, &xv[i * block * n], n, min(block, m - i * block), n)
    return y


def gelu(x, *, out=None, threads=None):
    """y = x · Φ(x), Φ the normal distribution (the exact, erf form), to an absolute error of 1e-6 (1 ulp where |y| > 8).

    ``x`` is float32 of any shape; ``out`` may be ``x`` itself. NaN stays NaN, −inf gives 0.
    """
    cdef int nthreads = resolve(threads)
    x = check.array(x, "x", (None,))
    y = check.output(out, x.shape, *(() if out is x else (x,)))
    cdef const float[::1] xv = x.reshape(-1)
    cdef float[::1] yv = y.reshape(-1)
    cdef int64_t n = xv.shape[0], i
    cdef const micro *u = &rt.tables[rt.active[0]]
    for i in prange((n + CHUNK - 1) // CHUNK, nogil=True, num_threads=nthreads, use_threads_if=n > 2 * CHUNK, schedule="dynamic"):
        u.activate(&yv[i * CHUNK], &xv[i * CHUNK], min(CHUNK, n - i * CHUNK), ACT_GELU)
    return y


def normalize(image, mean, std, *, size, threads=None):
    """y[h,w,c] = (image[h,w,c] − mean[c]) / std[c] inside the image, 0 below and beside it.

    Args:
        image: (H, W, C) uint8.
        mean, std: (C,) float32.
        size: (h, w) of the result, at least the image's.

    Returns:
        (h, w, C) float32.

    Source: ``Sam.preprocess`` in the reference's modeling/sam.py.
    """
    cdef int nthreads = resolve(threads)
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        raise TypeError(f"image: expected a uint8 NumPy array, got {getattr(image, 'dtype', type(image).__name__)}")
    if image.ndim != 3 or image.size == 0:
        raise ValueError(f"image: expected shape (H, W, C), got {image.shape}")
    cdef int64_t height = image.shape[0], row = image.shape[1] * image.shape[2], stride, h
    full = check.pair(size, "size", 1)
    if full[0] < image.shape[0] or full[1] < image.shape[1]:
        raise ValueError(f"size: expected at least the image's {image.shape[:2]}, got {size}")
    channels = (image.shape[2],)
    cdef const float[::1] m = np.tile(check.array(mean, "mean", channels), image.shape[1])
    cdef const float[::1] s = np.tile(check.array(std, "std", channels), image.shape[1])
    y = memory.empty((*full, image.shape[2]))
    cdef int64_t rows = full[0]
    stride = full[1] * image.shape[2]
    cdef const uint8_t[::1] xv = np.ascontiguousarray(image).reshape(-1)
    cdef float[::1] yv = y.reshape(-1)
    cdef const micro *u = &rt.tables[rt.active[0]]
    for h in prange(rows, nogil=True, num_threads=nthreads, use_threads_if=rows * stride > CHUNK, schedule="dynamic"):
        if h < height:
            u.normalize(&yv[h * stride], &xv[h * row], &m[0], &s[0], row)
            memset(&yv[h * stride] + row, 0, (stride - row) * sizeof(float))
        else:
            memset(&yv[h * stride], 0, stride * sizeof(float))
    return y
