"""Normalizes 8-bit pixels to the encoder's input."""
import numpy as np

from libc.string cimport memset

from core.common cimport *
from core.launch cimport *

from mobilesam.kernels.core import check
from mobilesam.kernels.core.threads import resolve

import_runtime()

cdef int64_t CHUNK = 1 << 14  # a result of at most CHUNK floats is computed by one thread


def normalize(image, mean, std, *, size, threads=None):
    """y[h,w,c] = (image[h,w,c] − mean[c]) / std[c] inside the image, 0 below and to the right of the image.

    Args:
        image: (H, W, C) uint8.
        mean: (C,) float32.
        std: (C,) float32.
        size: (h, w) of the result, at least the image's size.
        threads: The number of threads, or None for the default.

    Returns:
        (h, w, C) float32.

    Source: ``Sam.preprocess`` in the reference's modeling/sam.py.
    """
    cdef int nthreads = resolve(threads)
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        raise TypeError(f"image: expected a uint8 NumPy array, got {getattr(image, 'dtype', type(image).__name__)}")
    image = np.asarray(image)
    if image.ndim != 3 or image.size == 0:
        raise ValueError(f"image: expected shape (H, W, C), got {image.shape}")
    full = check.pair(size, "size", 1)
    if full[0] < image.shape[0] or full[1] < image.shape[1]:
        raise ValueError(f"size: expected at least the image's {image.shape[:2]}, got {size}")
    channels = (image.shape[2],)
    cdef const float[::1] m = np.tile(check.array(mean, "mean", channels), image.shape[1])
    cdef const float[::1] s = np.tile(check.array(std, "std", channels), image.shape[1])
    y = check.new((*full, image.shape[2]), "size")
    cdef const uint8_t[::1] xv = np.ascontiguousarray(image).reshape(-1)
    cdef float[::1] yv = y.reshape(-1)
    cdef normalize_job p
    cdef int64_t rows = full[0]
    p.u, p.x, p.y, p.mean, p.std = &rt.tables[rt.active[0]], &xv[0], &yv[0], &m[0], &s[0]
    p.height, p.row, p.stride = image.shape[0], image.shape[1] * image.shape[2], full[1] * image.shape[2]
    launch("normalize", normalize_row, &p, sizeof(p), rows, NULL, nthreads if rows * p.stride > CHUNK else 1)
    return y


cdef struct normalize_job:
    const micro *u
    const uint8_t *x  # (height, row)
    float *y  # (rows, stride)
    const float *mean  # (row)
    const float *std
    int64_t height, row, stride


cdef void normalize_row(void *job, int64_t unit) noexcept nogil:
    cdef const normalize_job *p = <const normalize_job *>job
    cdef float *y = p.y + unit * p.stride
    cdef int64_t row = p.row if unit < p.height else 0
    if row:
        p.u.normalize(y, p.x + unit * row, p.mean, p.std, row)
    memset(y + row, 0, (p.stride - row) * sizeof(float))
