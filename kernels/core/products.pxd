# The product of a linear layer, divided into units of work for the threads.
# A unit of work multiplies a block of rows by a range of panels of the weight.
from core.common cimport *
from core.launch cimport *

cdef enum:
    BLOCK = 168  # rows of x in a unit of work; these rows stay in L2 while the unit reads its panels of the weight

cdef struct layer_product:
    matrix w
    int64_t m
    const float *x  # (m, k)
    const float *bias
    const float *residual
    float *y  # (m, n)
    int act
    float scale  # factor that multiplies the result
    int64_t width, column_blocks, units  # width: number of weight panels in a unit of work
    float *operand  # buffer for packed A, the packed rows of x


cdef inline void divide_product(layer_product *p, int nthreads) noexcept nogil:
    """Divide the product into about four units of work for each thread.

    If all rows fit in one block, each thread gets only one unit of work, because every unit packs the same rows again.
    """
    cdef int64_t nr = p.w.u.weight.columns, panels = round_up(p.w.n, nr) // nr, row_blocks = (p.m + BLOCK - 1) // BLOCK
    cdef int64_t wanted = nthreads if row_blocks == 1 else 4 * nthreads
    cdef int64_t column_blocks = 1 if nthreads == 1 else max(1, min(panels, (wanted + row_blocks - 1) // row_blocks))
    p.width = (panels + column_blocks - 1) // column_blocks
    p.column_blocks = (panels + p.width - 1) // p.width
    p.units = row_blocks * p.column_blocks


cdef inline void product_layout(void *job, arena *scratch) noexcept nogil:
    cdef layer_product *p = <layer_product *>job
    p.operand = take_floats(scratch, operand_floats(&p.w, min(p.m, BLOCK)))


cdef inline void product_unit(void *job, int64_t unit) noexcept nogil:
    cdef const layer_product *p = <const layer_product *>job
    cdef int64_t i = unit // p.column_blocks * BLOCK, panel = unit % p.column_blocks * p.width
    cdef int64_t j = panel * p.w.u.weight.columns, at = i * p.w.n + j, row, column
    cdef gemm_args g = of_rows(&p.w, min(BLOCK, p.m - i), p.x + i * p.w.k, p.w.k)
    g.b, g.n = p.w.data + panel * p.w.panel, min(p.width * p.w.u.weight.columns, p.w.n - j)
    g.bias = NULL if p.bias == NULL else p.bias + j
    g.residual, g.ldr = NULL if p.residual == NULL else p.residual + at, p.w.n
    g.y, g.ldy, g.act = p.y + at, p.w.n, p.act
    product(p.w.u, &g, p.operand)
    for row in range(0 if p.scale == 1 else g.m):
        for column in range(g.n):
            g.y[row * p.w.n + column] *= p.scale
