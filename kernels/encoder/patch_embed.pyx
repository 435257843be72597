"""TinyViT's patch embedding as one pass: the first convolution's map lives in a ring of three rows."""
from cython.parallel cimport parallel, prange
from libc.string cimport memcpy, memset

from core.common cimport *

from mobilesam.kernels.core import check
from mobilesam.kernels.core.gemm import as_panels
from mobilesam.kernels.core.threads import resolve

cdef const runtime *rt = shared_runtime()

cdef struct embed_pass:
    const float *x  # (height, width, c)
    matrix w1
    const float *b1
    matrix w2
    const float *b2
    float *y  # (h2, w2_, c2)
    int64_t height, width, c, h1, width1, c1, h2, width2, c2, band


def patch_embed(x, w1, b1, w2, b2, *, out=None, threads=None):
    """y = conv 3×3(gelu(conv 3×3(x, w1) + b1), w2) + b2, both with stride 2 and pad 1.

    Args:
        x: (H, W, C) float32.
        w1: (C1, 3, 3, C), b1: (C1,); w2: (C2, 3, 3, C1), b2: (C2,).
        out: of the output's shape, to write into.

    Returns:
        (ceil(ceil(H / 2) / 2), ceil(ceil(W / 2) / 2), C2) float32.

    Source: ``PatchEmbed`` in the reference's modeling/tiny_vit_sam.py.
    """
    cdef embed_pass p
    cdef int nthreads = resolve(threads)
    x = check.array(x, "x", ("H", "W", "C"))
    p.height, p.width, p.c = x.shape
    first = as_panels(w1, "w1", ("C1", 3, 3, p.c), threads=threads)
    second = as_panels(w2, "w2", ("C2", 3, 3, first.n), threads=threads)
    p.w1, p.w2 = as_matrix(rt, first), as_matrix(rt, second)
    check_same_isa(&p.w2, &p.w1, "w2")
    p.c1, p.c2 = first.n, second.n
    p.h1, p.width1 = (p.height + 1) // 2, (p.width + 1) // 2
    p.h2, p.width2 = (p.h1 + 1) // 2, (p.width1 + 1) // 2
    y = check.output(out, (p.h2, p.width2, p.c2), x, b1, b2)
    cdef const float[::1] xv = x.reshape(-1), b1v = check.array(b1, "b1", (p.c1,)), b2v = check.array(b2, "b2", (p.c2,))
    cdef float[::1] yv = y.reshape(-1)
    p.x, p.b1, p.b2, p.y = &xv[0], &b1v[0], &b2v[0], &yv[0]

    cdef int64_t bands = max(1, min(p.h2 // 8, 4 * nthreads)), unit
    p.band = (p.h2 + bands - 1) // bands
    cdef size_t size = sizeof(float) * (3 * round_up((p.width1 + 2) * p.c1, 16) + round_up(9 * p.c, 16) + 3 * round_up(p.width * p.c, 16)
                                        + max(operand_floats(&p.w1, p.width1), operand_floats(&p.w2, p.width2)))
    cdef float *scratch
    cdef int failed = 0
    with nogil, parallel(num_threads=nthreads):
        scratch = <float *>rt.scratch(size)
        for unit in prange(bands, schedule="dynamic"):
            if scratch == NULL:
                failed += 1
            else:
                one_band(&p, unit * p.band, scratch)
    if failed:
        raise MemoryError(f"patch_embed: no memory for {size} bytes of scratch")
    return y


cdef void one_band(const embed_pass *p, int64_t h0, float *free) noexcept nogil:
    """Output rows h0 to h0 + band; row r of the first map is in ring slot (r + 3) % 3."""
    cdef int64_t h, r, i, next_row = 2 * h0 - 1
    cdef int64_t offset[3]
    cdef float *ring[3]
    cdef float *border[3]
    cdef float *edge
    for i in range(3):
        ring[i] = take(&free, (p.width1 + 2) * p.c1)
        border[i] = take(&free, p.width * p.c)
    edge = take(&free, 9 * p.c)
    for h in range(h0, min(h0 + p.band, p.h2)):
        r = 2 * h - 1
        while next_row < r + 3:
            embed_row(p, next_row, border, edge, ring[(next_row + 3) % 3], free)
            next_row += 1
        for i in range(3):
            offset[i] = ring[(r + i + 3) % 3] - ring[0]
        strided_product(&p.w2, p.width2, offset, ring[0], 2 * p.c1, p.b2, p.y + h * p.width2 * p.c2, ACT_NONE, free)


cdef void embed_row(const embed_pass *p, int64_t r, float **border, float *edge, float *hidden, float *operand) noexcept nogil:
    """Row r of the first map, after its GELU, between two pixels of zeros; all zeros outside the map.

    It reads x in place, but where rows are outside x, which ``border`` then completes with zeros.
    """
    cdef int64_t i, h, inside = (p.width - 2) // 2  # the pixels 1 to inside have all their columns in x
    cdef int64_t offset[3]
    cdef const float *rows[3]
    if not 0 <= r < p.h1:
        memset(hidden, 0, (p.width1 + 2) * p.c1 * sizeof(float))
        return
    for i in range(3):
        h = 2 * r - 1 + i
        rows[i] = p.x + h * p.width * p.c
    if r == 0 or 2 * r + 1 >= p.height:
        for i in range(3):
            h = 2 * r - 1 + i
            if 0 <= h < p.height:
                memcpy(border[i], rows[i], p.width * p.c * sizeof(float))
            else:
                memset(border[i], 0, p.width * p.c * sizeof(float))
            rows[i] = border[i]
    for i in range(3):
        offset[i] = rows[i] - rows[0]
    memset(hidden, 0, p.c1 * sizeof(float))
    edge_pixel(p, 0, rows, edge, hidden + p.c1, operand)
    if inside > 0:
        strided_product(&p.w1, inside, offset, rows[0] + p.c, 2 * p.c, p.b1, hidden + 2 * p.c1, ACT_GELU, operand)
    if inside + 1 < p.width1:
        edge_pixel(p, p.width1 - 1, rows, edge, hidden + p.width1 * p.c1, operand)
    memset(hidden + (p.width1 + 1) * p.c1, 0, p.c1 * sizeof(float))


cdef void edge_pixel(const embed_pass *p, int64_t w, const float **rows, float *edge, float *y, float *operand) noexcept nogil:
    """Pixel w of the first map, of which some columns are outside x."""
    cdef int64_t i, j, column
    cdef int64_t offset[3]
    for i in range(3):
        offset[i] = 3 * i * p.c
        for j in range(3):
            column = 2 * w - 1 + j
            if 0 <= column < p.width:
                memcpy(edge + (3 * i + j) * p.c, rows[i] + column * p.c, p.c * sizeof(float))
            else:
                memset(edge + (3 * i + j) * p.c, 0, p.c * sizeof(float))
    strided_product(&p.w1, 1, offset, edge, 3 * p.c, p.b1, y, ACT_GELU, operand)


cdef inline void strided_product(const matrix *w, int64_t m, const int64_t *offset, const float *a, int64_t lda,
                                 const float *bias, float *y, int act, float *operand) noexcept nogil:
    """Three segments, one per input row."""
    cdef gemm_args g = new_gemm(m, w.n, w.k // 3)
    g.segments, g.offset = 3, offset
    g.a, g.lda = a, lda
    g.b, g.ldb, g.panel = w.data, w.u.weight.columns, w.panel
    g.bias, g.act = bias, act
    g.y, g.ldy, g.operand = y, w.n, operand
    w.u.product(&g)
