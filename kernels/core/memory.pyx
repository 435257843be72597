"""Memory for output arrays and weights.

The operating system clears each page of new memory at first touch, which is slow for large arrays. A freed large array's memory is
therefore kept in a pool (pool.h), up to a limit, and reused for the next array of about the same size. The memory of small arrays comes
from NumPy. A model's weights share blocks of large pages.
"""
import math
import os
from threading import Lock

import numpy as np

from cpython.buffer cimport PyBuffer_FillInfo
from libc.stdint cimport int64_t

cdef extern from "pool.h" nogil:
    void *pool_take(size_t bytes, size_t *got)
    void pool_give(void *memory, size_t bytes)
    const size_t POOL_LEAST, SHARED_BYTES


cdef class Block:
    """A block of memory that returns to the pool when the last array that uses the block is freed."""

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


cdef int64_t MOST_ELEMENTS = 1 << 47  # largest number of elements of an array; 2^47 bytes are the address space of a process


cdef int64_t count_of(shape) except -1:
    """Return the number of elements. Raises ValueError for a negative length, and MemoryError for more than MOST_ELEMENTS."""
    if any(length < 0 for length in shape):
        raise ValueError(f"shape: expected lengths of at least 0, got {shape!r:.100}")
    count = math.prod(shape)
    if count > MOST_ELEMENTS:
        raise MemoryError(f"shape: no memory for an array {shape!r:.100}")
    return count


def empty(shape, dtype=np.float32):
    """Return an uninitialized array like ``np.empty``. A large array's memory comes from the pool."""
    dtype = np.dtype(dtype)
    cdef int64_t count = count_of(shape)
    cdef size_t bytes = count * dtype.itemsize
    if bytes < POOL_LEAST:
        return np.empty(shape, dtype)
    return np.frombuffer(Block(bytes), dtype, count).reshape(shape)


_lock = Lock()
_shared_block = None
cdef size_t _used = 0


def _renew_lock():
    """Replace the lock in a forked child, where no thread is left to release it."""
    global _lock
    _lock = Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


def lasting(shape, dtype=np.float32):
    """Return an uninitialized array like ``np.empty``, for data that is kept long, such as a model's weights.

    Arrays of successive calls share a block of large pages. The block is freed after its last array has been freed and a later call
    has begun another block.
    """
    global _shared_block, _used
    dtype = np.dtype(dtype)
    cdef int64_t count = count_of(shape)
    cdef size_t bytes = (count * dtype.itemsize + 63) // 64 * 64, at
    if not 0 < bytes <= SHARED_BYTES // 2:
        return empty(shape, dtype)
    with _lock:
        if _shared_block is None or _used + bytes > SHARED_BYTES:
            _shared_block, _used = Block(SHARED_BYTES), 0
        block, at = _shared_block, _used
        _used += bytes
    return np.frombuffer(block, dtype, count, at).reshape(shape)
