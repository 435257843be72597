"""TinyViT's patch embedding, fused: a ring buffer holds three rows of the first convolution's output."""
from libc.string cimport memcpy, memset

from core.common cimport *
from core.launch cimport *

from mobilesam.kernels.core import check
from mobilesam.kernels.core.gemm import as_panels
from mobilesam.kernels.core.threads import resolve

import_runtime()

cdef struct embed_job:
    const float *x  # the input, (height, width, c)
    matrix w1
    const float *b1
    matrix w2
    const float *b2
    float *y  # the output, (h2, width2, c2)
    int64_t height, width, c, h1, width1, c1, h2, width2, c2, band
    float *ring[3]  # three rows of the first convolution's output, each (width1 + 2, c1)
    float *border[3]  # (width, c), copies of three input rows, for the first and last row of the first convolution; zeros outside x
    float *edge  # (3, 3, c), a copy of the input pixels of the first or last pixel of a row; zeros outside x
    float *operand  # packed A


def patch_embed(x, w1, b1, w2, b2, *, out=None, threads=None):
    """y = conv 3×3(gelu(conv 3×3(x, w1) + b1), w2) + b2, both with stride 2 and pad 1.

    Args:
        x: (H, W, C) float32.
        w1: (C1, 3, 3, C) float32, or Panels.
        b1: (C1,) float32.
        w2: (C2, 3, 3, C1) float32, or Panels.
        b2: (C2,) float32.
        out: Float32 of the output's shape that receives the result, or None.
        threads: The number of threads, or None for the default.

    Returns:
        (ceil(ceil(H / 2) / 2), ceil(ceil(W / 2) / 2), C2) float32.

    Source: ``PatchEmbed`` in the reference's modeling/tiny_vit_sam.py.
    """
    cdef embed_job p
    cdef int nthreads = resolve(threads)
    x = check.array(x, "x", ("H", "W", "C"))
    p.height, p.width, p.c = x.shape
    first = as_panels(w1, "w1", ("C1", 3, 3, p.c), threads=threads)
    second = as_panels(w2, "w2", ("C2", 3, 3, first.n), threads=threads)
    p.w1, p.w2 = as_matrix(first), as_matrix(second)
    check_same_isa(&p.w2, &p.w1, "w2")
    p.c1, p.c2 = first.n, second.n
    p.h1, p.width1 = (p.height + 1) // 2, (p.width + 1) // 2
    p.h2, p.width2 = (p.h1 + 1) // 2, (p.width1 + 1) // 2
    y = check.output(out, (p.h2, p.width2, p.c2), x, b1, b2)
    cdef const float[::1] xv = x.reshape(-1), b1v = check.array(b1, "b1", (p.c1,)), b2v = check.array(b2, "b2", (p.c2,))
    cdef float[::1] yv = y.reshape(-1)
    p.x, p.b1, p.b2, p.y = &xv[0], &b1v[0], &b2v[0], &yv[0]

    cdef int64_t bands = max(1, min(p.h2 // 8, 4 * nthreads))
    p.band = (p.h2 + bands - 1) // bands
    launch("patch_embed", one_band, &p, sizeof(p), bands, embed_layout, nthreads)
    return y


cdef void embed_layout(void *job, arena *scratch) noexcept nogil:
    cdef embed_job *p = <embed_job *>job
    cdef int64_t i
    for i in range(3):
        p.ring[i] = take_floats(scratch, (p.width1 + 2) * p.c1)
        p.border[i] = take_floats(scratch, p.width * p.c)
    p.edge = take_floats(scratch, 9 * p.c)
    p.operand = take_floats(scratch, max(operand_floats(&p.w1, p.width1), operand_floats(&p.w2, p.width2)))


cdef void one_band(void *job, int64_t unit) noexcept nogil:
    """Compute a band, ``band`` rows of y. Row r of the first convolution's output is in ring[(r + 3) % 3]."""
    cdef const embed_job *p = <const embed_job *>job
    cdef int64_t h0 = unit * p.band, h, r, i, next_row = 2 * h0 - 1
    cdef int64_t offset[3]
    for h in range(h0, min(h0 + p.band, p.h2)):
        r = 2 * h - 1
        while next_row < r + 3:
            embed_row(p, next_row, p.ring[(next_row + 3) % 3])
            next_row += 1
        for i in range(3):
            offset[i] = p.ring[(r + i + 3) % 3] - p.ring[0]
        strided_product(&p.w2, p.width2, offset, p.ring[0], 2 * p.c1, p.b2, p.y + h * p.width2 * p.c2, ACT_NONE, p.operand)


cdef void embed_row(const embed_job *p, int64_t r, float *hidden) noexcept nogil:
    """Compute row r of the first convolution's output, with GELU and with a pixel of zeros at either end.

    If r is outside the output, the row is all zeros. For the first and the last row, some input rows may be outside x, so the input
    rows are copied to ``border``. For all other rows, the GEMM reads x in place.
    """
    cdef int64_t i, h, inside = (p.width - 2) // 2  # output pixels 1 to `inside` need no input column outside x
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
                memcpy(p.border[i], rows[i], p.width * p.c * sizeof(float))
            else:
                memset(p.border[i], 0, p.width * p.c * sizeof(float))
            rows[i] = p.border[i]
    for i in range(3):
        offset[i] = rows[i] - rows[0]
    memset(hidden, 0, p.c1 * sizeof(float))
    edge_pixel(p, 0, rows, hidden + p.c1)
    if inside > 0:
        strided_product(&p.w1, inside, offset, rows[0] + p.c, 2 * p.c, p.b1, hidden + 2 * p.c1, ACT_GELU, p.operand)
    if inside + 1 < p.width1:
        edge_pixel(p, p.width1 - 1, rows, hidden + p.width1 * p.c1)
    memset(hidden + (p.width1 + 1) * p.c1, 0, p.c1 * sizeof(float))


cdef void edge_pixel(const embed_job *p, int64_t w, const float **rows, float *y) noexcept nogil:
    """Compute pixel w of a row of the first convolution's output. Some input columns of the pixel may be outside x."""
    cdef int64_t i, j, column
    cdef int64_t offset[3]
    for i in range(3):
        offset[i] = 3 * i * p.c
        for j in range(3):
            column = 2 * w - 1 + j
            if 0 <= column < p.width:
                memcpy(p.edge + (3 * i + j) * p.c, rows[i] + column * p.c, p.c * sizeof(float))
            else:
                memset(p.edge + (3 * i + j) * p.c, 0, p.c * sizeof(float))
    strided_product(&p.w1, 1, offset, p.edge, 3 * p.c, p.b1, y, ACT_GELU, p.operand)


cdef inline void strided_product(const matrix *w, int64_t m, const int64_t *offset, const float *a, int64_t lda,
                                 const float *bias, float *y, int act, float *operand) noexcept nogil:
    """Compute m pixels of a 3×3 convolution: a product with three segments, one for each input row."""
    cdef gemm_args g = of_rows(w, m, a, lda)
    g.k, g.segments, g.offset = w.k // 3, 3, offset
    g.bias, g.act, g.y, g.ldy = bias, act, y, w.n
    product(w.u, &g, operand)
