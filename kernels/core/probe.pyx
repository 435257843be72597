"""Measures the peak speed of the FMA units. Benchmarks compare the kernels' speed with this peak speed."""
from time import perf_counter

from core.common cimport *
from core.launch cimport *

import numpy as np

from mobilesam.kernels.core.threads import checked, resolve

import_runtime()

cdef int64_t FMAS = 1 << 27  # number of scalar FMAs that one thread executes in one measurement


def fma_peak(*, repeats=5, threads=None):
    """Return the FLOP/s that all threads together reach with FMAs on registers, on the current ISA.

    An FMA counts as two operations. On an ISA without FMA instructions, a multiplication and an addition replace each FMA.

    Args:
        repeats: The number of measurements of a few milliseconds each. The fastest measurement counts.
        threads: The number of threads, or None for the default.
    """
    cdef int nthreads = resolve(threads)
    cdef const micro *u = &rt.tables[rt.active[0]]
    cdef probe_job p
    cdef int64_t chains = u.mr * u.nr
    cdef float[:, ::1] y = np.ones((nthreads, chains), np.float32)
    p.u, p.y, p.chains, p.steps = u, &y[0, 0], chains, FMAS // chains
    fastest = float("inf")
    for _ in range(checked(repeats, "repeats")):
        start = perf_counter()
        launch("fma_peak", probe, &p, sizeof(p), nthreads, NULL, nthreads)
        fastest = min(fastest, perf_counter() - start)
    return 2.0 * nthreads * chains * p.steps / fastest


cdef struct probe_job:
    const micro *u
    float *y  # (threads, chains)
    int64_t chains, steps


cdef void probe(void *job, int64_t unit) noexcept nogil:
    cdef const probe_job *p = <const probe_job *>job
    p.u.fma_probe(p.y + unit * p.chains, 1e-9, p.steps)
