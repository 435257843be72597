"""Output arrays whose memory is used again: a large array from the system is paid for page by page, each cleared at first touch.

What is let go is kept for the next array of about its size, up to a limit; what is small, or finds nothing, is NumPy's. What a
model keeps lies together in large pages.
"""
import os
from threading import Lock

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


cdef int64_t count_of(shape) except -1:
    cdef int64_t count = 1
    for length in shape:
        count *= length
    return count


def empty(shape, dtype=np.float32):
    """As ``np.empty``."""
    dtype = np.dtype(dtype)
    cdef int64_t count = count_of(shape)
    cdef size_t bytes = count * dtype.itemsize
    if bytes < POOL_LEAST:
        return np.empty(shape, dtype)
    return np.frombuffer(Block(bytes), dtype, count).reshape(shape)


cdef size_t SHELF = 8 << 20  # bytes of a block that lasting arrays share
_lock = Lock()
_shelf = None
cdef size_t _used = 0


def _renew_lock():
    """In a child forked while another thread held it."""
    global _lock
    _lock = Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


def lasting(shape, dtype=np.float32):
    """As ``np.empty``, for what is kept as long as its neighbours, such as a model's weights.

    Arrays made one after the other lie in one block of large pages, which lives until the last of them is gone and another
    block has been begun.
    """
    global _shelf, _used
    dtype = np.dtype(dtype)
    cdef int64_t count = count_of(shape)
    cdef size_t bytes = (count * dtype.itemsize + 63) // 64 * 64, at
    if bytes > SHELF // 2:
        return empty(shape, dtype)
    with _lock:
        if _shelf is None or _used + bytes > SHELF:
            _shelf, _used = Block(SHELF), 0
        block, at = _shelf, _used
        _used += bytes
    return np.frombuffer(block, dtype, count, at).reshape(shape)
