"""Output arrays whose memory is used again: a large array from the system is paid for page by page, each cleared at first touch.

What is let go is kept for the next array of about its size, up to a limit; what is small, or finds nothing, is NumPy's.
"""
import numpy as np

from cpython.buffer cimport PyBuffer_FillInfo
from libc.stdint cimport int64_t

cdef extern from "pool.h" nogil:
    void *pool_take(size_t bytes, size_t *got)
    void pool_give(void *memory, size_t bytes)
    const size_t POOL_LEAST


cdef class Block:
    """Memory that returns to the pool when the last array that uses it is gone."""

    cdef void *memory
    cdef size_t bytes

    def __cinit__(self, size_t bytes):
        self.memory = pool_take(bytes, &self.bytes)
        if self.memory == NULL:
            raise MemoryError(f"no memory for an array of {bytes} bytes")

    def __dealloc__(self):
        if self.memory != NULL:
            pool_give(self.memory, self.bytes)

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.memory, self.bytes, 0, flags)


def empty(shape, dtype=np.float32):
    """As ``np.empty``."""
    dtype = np.dtype(dtype)
    cdef int64_t count = 1
    for length in shape:
        count *= length
    cdef size_t bytes = count * dtype.itemsize
    if bytes < POOL_LEAST:
        return np.empty(shape, dtype)
    return np.frombuffer(Block(bytes), dtype, count).reshape(shape)
