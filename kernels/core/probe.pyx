"""The speed of the FMA units, which kernels are measured against."""
from time import perf_counter

from cython.parallel cimport prange

from core.common cimport *

import numpy as np

from mobilesam.kernels.core.threads import checked, resolve

cdef const runtime *rt = shared_runtime()

cdef int64_t FMAS = 1 << 27  # of a thread's try, scalars


def fma_peak(*, repeats=5, threads=None):
    """FLOP/s, two operations an FMA, that the current ISA reaches in registers on all threads together.

    The best of ``repeats`` tries of a few milliseconds each. Where an ISA has no FMA, a multiplication and an addition.
    """
    cdef int nthreads = resolve(threads), t
    cdef const micro *u = &rt.tables[rt.active[0]]
    cdef int64_t chains = u.mr * u.nr, steps = FMAS // chains
    cdef float[:, ::1] y = np.ones((nthreads, chains), np.float32)
    fastest = float("inf")
    for _ in range(checked(repeats, "repeats")):
        start = perf_counter()
        for t in prange(nthreads, nogil=True, num_threads=nthreads, schedule="static"):
            u.fma_probe(&y[t, 0], 1e-9, steps)
        fastest = min(fastest, perf_counter() - start)
    return 2.0 * nthreads * chains * steps / fastest
