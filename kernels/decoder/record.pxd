# How a kernel of the decoder records a step of a plan: a copy of its job, whose pointers to the plan's arrays are placeholders.
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport uint64_t

from core.common cimport *
from core.launch cimport *

cdef enum:
    HEADS = 8  # of the decoder's attentions
    PANEL = 32  # a multiple of every ISA's panel width
    # Floats from a row of IMAGE_CHUNK image tokens to the next in scratch and in a basis: whole cache lines, odd in number, so that
    # rows are spread over all of L1's sets.
    STRIDE = IMAGE_CHUNK + 16
    PLACEHOLDER = 0xFFF5  # the first 16 bits of a placeholder, which no address, size or finite float begins with


cdef inline int64_t chunks_of(int64_t n) noexcept nogil:
    """Chunks of an image of n tokens."""
    return (n + IMAGE_CHUNK - 1) // IMAGE_CHUNK


cdef inline float *address(array, int64_t element=0):
    """A placeholder of the address of an element of a plan's array, until the plan is compiled; NULL for None.

    PLACEHOLDER, 16 bits of the array's number, 32 bits of the element's.
    """
    return NULL if array is None else <float *>(<uint64_t>PLACEHOLDER << 48 | <uint64_t>array.number << 32 | <uint64_t>element)


cdef inline float *channel(maps, int64_t number=0):
    """`address` of a channel of Maps, in the first chunk."""
    return address(maps.array, (maps.first + number) * IMAGE_CHUNK)


cdef inline void no_buffers(void *job, arena *scratch) noexcept nogil:
    """The layout of a job that needs no scratch."""


cdef inline record(plan, unit_function run, layout_function layout, const void *job, size_t job_bytes, int64_t units, writes):
    """Record a step. ``writes``: the arrays that the step writes. The step reads the other arrays that the job points to."""
    plan.record(PyCapsule_New(<void *>run, "mobilesam.kernels.unit", NULL),
                PyCapsule_New(<void *>layout, "mobilesam.kernels.layout", NULL),
                PyBytes_FromStringAndSize(<const char *>job, job_bytes), units, [array.number for array in writes])
