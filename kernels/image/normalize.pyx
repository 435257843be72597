"""An image's normalisation: the encoder's input from 8-bit pixels."""
import numpy as np

from cython.parallel cimport prange
from libc.string cimport memset

from core.common cimport *

from mobilesam.kernels.core import check, memory
from mobilesam.kernels.core.threads import resolve

cdef const runtime *rt = shared_runtime()

cdef int64_t CHUNK = 1 << 14  # floats a thread takes at once


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
