# A linear layer's product divided among threads: blocks of rows, and where those are too few, ranges of panels.
from core.common cimport *

cdef enum:
    BLOCK = 168  # rows, whole tiles on x86; a block's slice of x stays in L2 while the panels pass

cdef struct layer_product:
    matrix w
    int64_t m
    const float *x  # (m, k)
    const float *bias
    const float *residual
    float *y  # (m, n)
    int act
    float scale  # of all that, where not 1
    int64_t width, column_blocks, units  # panels of a unit


cdef inline void divide_product(layer_product *p, int nthreads) noexcept nogil:
    """Into a few units a thread; into one, where they are of the same rows, as each makes an operand of all of them."""
    cdef int64_t nr = p.w.u.weight.columns, panels = round_up(p.w.n, nr) // nr, row_blocks = (p.m + BLOCK - 1) // BLOCK
    cdef int64_t wanted = nthreads if row_blocks == 1 else 4 * nthreads
    cdef int64_t column_blocks = 1 if nthreads == 1 else max(1, min(panels, (wanted + row_blocks - 1) // row_blocks))
    p.width = (panels + column_blocks - 1) // column_blocks
    p.column_blocks = (panels + p.width - 1) // p.width
    p.units = row_blocks * p.column_blocks


cdef inline size_t product_bytes(const layer_product *p) noexcept nogil:
    """Of scratch, for a unit."""
    return sizeof(float) * operand_floats(&p.w, min(p.m, BLOCK))


cdef inline void product_unit(const layer_product *p, int64_t unit, float *operand) noexcept nogil:
    cdef int64_t i = unit // p.column_blocks * BLOCK, panel = unit % p.column_blocks * p.width
    cdef int64_t j = panel * p.w.u.weight.columns, at = i * p.w.n + j, row, column
    cdef matrix part = p.w
    part.data += panel * p.w.panel
    part.n = min(p.width * p.w.u.weight.columns, p.w.n - j)
    product(&part, min(BLOCK, p.m - i), p.x + i * p.w.k, p.w.k, NULL if p.bias == NULL else p.bias + j,
            NULL if p.residual == NULL else p.residual + at, p.w.n, p.y + at, p.w.n, p.act, operand)
    for row in range(0 if p.scale == 1 else min(BLOCK, p.m - i)):
        for column in range(part.n):
            p.y[at + row * p.w.n + column] *= p.scale
