# How a kernel runs: the kernel fills a C struct, the job, and divides the job into units of work.
# A team of threads runs the units of work. Each thread has its own scratch buffers.
from cython.parallel cimport parallel, prange, threadid
from libc.string cimport memcpy

from core.common cimport *

cdef extern from "arena.h" nogil:
    enum:
        ARENA_PATTERN
    enum arena_use:
        ARENA_MEASURE
        ARENA_ASSIGN
        ARENA_CHECK
    ctypedef struct arena:
        char *memory
        size_t used
        arena_use use
        bint guarded
        int overwritten
    void ASAN_POISON_MEMORY_REGION(const void *memory, size_t bytes)
    void ASAN_UNPOISON_MEMORY_REGION(const void *memory, size_t bytes)
    size_t whole_lines(size_t bytes)
    void *arena_take(arena *a, size_t bytes)

# A unit function runs one unit of work of a job. Units of work are independent of one another, and any thread may run any of them.
ctypedef void (*unit_function)(void *job, int64_t unit) noexcept nogil
# A layout function points the job's scratch buffers into the arena. Only the layout function states the sizes of a job's scratch buffers.
ctypedef void (*layout_function)(void *job, arena *scratch) noexcept nogil


cdef inline float *take_floats(arena *scratch, int64_t count) noexcept nogil:
    return <float *>arena_take(scratch, count * sizeof(float))


cdef inline size_t scratch_bytes(void *job, size_t job_bytes, layout_function layout) noexcept nogil:
    """Return the bytes of scratch memory that a thread needs for its copy of the job and for the job's buffers."""
    cdef arena scratch
    scratch.memory, scratch.used, scratch.use, scratch.guarded = NULL, whole_lines(job_bytes), ARENA_MEASURE, rt.guards
    layout(job, &scratch)
    return scratch.used


cdef inline void *own_job(const void *job, size_t job_bytes, layout_function layout, void *memory) noexcept nogil:
    """Copy the job to ``memory``, which has `scratch_bytes` bytes, and place the copy's buffers behind it. Returns the copy."""
    cdef arena scratch
    (<char *>memory)[0] = 0  # a write, by which AddressSanitizer reports freed memory; the next line would hide the fault
    ASAN_UNPOISON_MEMORY_REGION(memory, job_bytes)  # the previous job's layout may have poisoned guards here
    memcpy(memory, job, job_bytes)
    scratch.memory, scratch.used, scratch.use, scratch.guarded = <char *>memory, whole_lines(job_bytes), ARENA_ASSIGN, rt.guards
    layout(memory, &scratch)
    return memory


cdef inline bint overran(void *own, size_t job_bytes, layout_function layout) noexcept nogil:
    """Return whether a unit of work has written past the end of a scratch buffer. Without guards (MOBILESAM_GUARDS), returns False."""
    cdef arena scratch
    if not rt.guards:
        return False
    scratch.memory, scratch.used, scratch.use, scratch.guarded = <char *>own, whole_lines(job_bytes), ARENA_CHECK, True
    scratch.overwritten = 0
    layout(own, &scratch)
    return scratch.overwritten > 0


cdef inline launch(name, unit_function run, void *job, size_t job_bytes, int64_t units, layout_function layout, int threads):
    """Call run(job, unit) for each unit of work from 0 to ``units`` - 1, on a team of threads.

    With a layout, each thread runs its units of work on its own copy of the job, with its own scratch buffers. If ``layout`` is NULL, all
    threads share the job.

    Raises:
        MemoryError: There is no memory for the scratch buffers. The message starts with ``name``.
        RuntimeError: Guards are on and a unit of work has written past the end of a scratch buffer.
    """
    cdef int64_t unit
    cdef size_t bytes
    cdef char *memory
    cdef void *own
    cdef int overrun = 0
    if layout == NULL:
        for unit in prange(units, nogil=True, num_threads=threads, schedule="dynamic"):
            run(job, unit)
        return
    bytes = scratch_bytes(job, job_bytes, layout)
    memory = <char *>rt.scratch(threads * bytes)
    if memory == NULL:
        raise MemoryError(f"{name}: no memory for {threads * bytes} bytes of scratch")
    with nogil, parallel(num_threads=threads):
        own = own_job(job, job_bytes, layout, memory + threadid() * bytes)
        for unit in prange(units, schedule="dynamic"):
            run(own, unit)
            overrun += overran(own, job_bytes, layout)
    if overrun:
        raise RuntimeError(f"{name}: wrote past the end of a scratch buffer")
