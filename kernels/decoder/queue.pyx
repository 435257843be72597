"""Calls that wait for one another, as one: between two of them no Python runs, for which all threads would wait."""
from threading import Lock

import numpy as np

from core.common cimport *

from mobilesam.kernels.core import memory
from mobilesam.kernels.core.threads import resolve

cdef struct queued:
    work run
    void *storage


cdef class Queue:
    """Calls to be made together, in order, as often as they are wanted.

    A kernel that is called with ``queue`` checks what it is given, leaves its work to the queue and returns arrays that each run
    fills. Until then they are not to be read, but may be handed on, as they are, to further calls of the queue. A run reads what
    is then in the arrays that the calls were given, which are C-contiguous; how many threads there are, it says.
    """

    cdef list _calls  # names, and what their work is and needs
    cdef object _queued, _lock

    def __init__(self):
        self._calls, self._queued, self._lock = [], None, Lock()

    def __reduce__(self):
        raise TypeError("a Queue cannot be copied: its calls point to memory")

    def add(self, name, work_, storage, kept):
        """For kernels: ``work_`` is a capsule of a C function, of ``storage``, an array of bytes that points to what is ``kept``."""
        PyCapsule_GetPointer(work_, "mobilesam.kernels.work")
        self._calls.append((name, work_, storage, kept))
        self._queued = None

    def run(self, *, threads=None):
        """Make the calls. MemoryError names the call that found none; RuntimeError where another thread makes them."""
        cdef int nthreads = resolve(threads)
        if not self._lock.acquire(False):
            raise RuntimeError("the queue is being run by another thread")
        try:
            if self._calls:
                self._run(nthreads)
        finally:
            self._lock.release()

    cdef _run(self, int nthreads):
        if self._queued is None:
            self._queued = self._collected()
        cdef uint8_t[::1] bytes = self._queued
        cdef queued *calls = <queued *>&bytes[0]
        cdef int64_t count = len(self._calls), i
        cdef size_t lacking = 0
        with nogil:
            for i in range(count):
                lacking = calls[i].run(calls[i].storage, nthreads)
                if lacking:
                    break
        if lacking:
            raise MemoryError(f"{self._calls[i][0]}: no memory for {lacking} bytes")

    def _collected(self):
        collected = np.empty(len(self._calls) * sizeof(queued), np.uint8)
        cdef uint8_t[::1] bytes = collected, storage
        cdef queued *calls = <queued *>&bytes[0]
        cdef int64_t i
        for i, (_, work_, own, _) in enumerate(self._calls):
            storage = own
            calls[i].run, calls[i].storage = <work>PyCapsule_GetPointer(work_, "mobilesam.kernels.work"), &storage[0]
        return collected


cdef class Slot:
    """A place for float32 arrays: each run of a queue's call fills the one that is there then."""

    cdef readonly tuple shape
    cdef readonly object array
    cdef readonly object place  # for kernels: a capsule of the pointer to the array
    cdef float *_data

    def __init__(self, shape):
        self.shape = tuple(shape)
        self.place = PyCapsule_New(&self._data, "mobilesam.kernels.slot", NULL)
        self.take()

    def __reduce__(self):
        raise TypeError("a Slot cannot be copied: calls point to it")

    def take(self):
        """The array, which runs have filled; a new one is in its place."""
        taken, self.array = self.array, memory.empty(self.shape)
        cdef float[::1] view = self.array.reshape(-1)
        self._data = &view[0]
        return taken
