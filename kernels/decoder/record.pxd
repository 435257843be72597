# Helpers with which kernels of the decoder record a step of a plan. The plan stores a copy of the step's job, a C struct.
# In the stored job, placeholders stand for pointers to the plan's arrays. Recorder.compile and Recorder.run replace the placeholders.
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport uint64_t

from core.common cimport *
from core.launch cimport *

cdef enum:
    HEADS = 8  # number of heads of every attention in the mask decoder
    PANEL = 32  # a multiple of the GEMM panel width of every ISA
    # Row stride, in floats, of matrices with IMAGE_CHUNK columns. The stride is an odd number of cache lines, so rows do not alias in L1.
    STRIDE = IMAGE_CHUNK + 16
    PLACEHOLDER = 0xFFF5  # the top 16 bits of a placeholder; no address, no size and no finite float starts with these bits


cdef inline int64_t chunks_of(int64_t n) noexcept nogil:
    """Return the number of chunks (of IMAGE_CHUNK image tokens) of an image with n tokens."""
    return (n + IMAGE_CHUNK - 1) // IMAGE_CHUNK


cdef inline float *address(array, int64_t element=0):
    """Return a placeholder for the address of an element of a plan's array, or NULL if ``array`` is None.

    A placeholder has PLACEHOLDER in its top 16 bits, then 16 bits for the array's number and 32 bits for the element's index.
    """
    return NULL if array is None else <float *>(<uint64_t>PLACEHOLDER << 48 | <uint64_t>array.number << 32 | <uint64_t>element)


cdef inline float *channel(maps, int64_t number=0):
    """Return a placeholder for the address of channel ``number`` of the Maps, in the first chunk of image tokens."""
    return address(maps.array, (maps.first + number) * IMAGE_CHUNK)


cdef inline void no_buffers(void *job, arena *scratch) noexcept nogil:
    """The layout function of jobs without scratch buffers."""


cdef inline record(plan, unit_function run, layout_function layout, const void *job, size_t job_bytes, int64_t units, writes):
    """Record a step that writes the arrays ``writes``. All other arrays that the job points to are inputs of the step."""
    plan.record(PyCapsule_New(<void *>run, "mobilesam.kernels.unit", NULL),
                PyCapsule_New(<void *>layout, "mobilesam.kernels.layout", NULL),
                PyBytes_FromStringAndSize(<const char *>job, job_bytes), units, [array.number for array in writes])
