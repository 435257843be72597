# How a kernel of the decoder records a step of a plan: a copy of its job, and which fields of the job point to the plan's arrays.
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.pycapsule cimport PyCapsule_New

from core.common cimport *
from core.launch cimport *

cdef enum:
    HEADS = 8  # of the decoder's attentions
    PANEL = 32  # a multiple of every ISA's panel width
    # Floats from a row of IMAGE_CHUNK image tokens to the next in scratch and in a basis: whole cache lines, odd in number, so that
    # rows are spread over all of L1's sets.
    STRIDE = IMAGE_CHUNK + 16


cdef inline int64_t chunks_of(int64_t n) noexcept nogil:
    """Chunks of an image of n tokens."""
    return (n + IMAGE_CHUNK - 1) // IMAGE_CHUNK


cdef inline point(list pointers, const void *job, const void *field, array, int64_t at=0):
    """The job's field, a float pointer, is to point to element ``at`` of a plan's array; None leaves it NULL."""
    if array is not None:
        pointers.append((<const char *>field - <const char *>job, array.number, at))


cdef inline record(plan, unit_function run, layout_function layout, const void *job, size_t job_bytes, int64_t units, list pointers,
                   writes):
    """Record a step. ``writes``: the arrays that it writes; it reads the others of ``pointers``."""
    plan.record(PyCapsule_New(<void *>run, "mobilesam.kernels.unit", NULL),
                None if layout == NULL else PyCapsule_New(<void *>layout, "mobilesam.kernels.layout", NULL),
                PyBytes_FromStringAndSize(<const char *>job, job_bytes), units, pointers, [array.number for array in writes])
