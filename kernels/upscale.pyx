"""The decoder's upscaling and the masks drawn from it, as one pass per row of the embedding."""
import numpy as np

from cython.parallel cimport parallel, prange

from common cimport *

from mobilesam.kernels import check
from mobilesam.kernels.threads import resolve

cdef const runtime *rt = shared_runtime()

cdef struct upscale_pass:
    const float *x  # (height, width, c)
    const float *w1  # (4*c1, c), rows (i, j, o)
    const float *b1  # (4*c1, columns)
    const float *norm_weight
    const float *norm_bias
    const float *w2  # (4*c2, c1)
    const float *b2  # (4*c2, columns)
    const float *hyper  # (masks, c2)
    float *y  # (masks, 4*height, 4*width)
    int64_t height, width, columns, c, c1, c2, masks
    float eps


def upscale_masks(x, w1, b1, norm_weight, norm_bias, w2, b2, hyper, *, eps=1e-6, out=None, threads=None):
    """y[m] = hyper_m · gelu(conv_transpose(gelu(layer_norm(conv_transpose(x, w1) + b1)), w2) + b2), both 2×2 with stride 2.

    Neither upscaled map is written: an embedding row becomes four rows of every mask.

    Args:
        x: (H, W, C) float32.
        w1: (4·C1, C) float32, rows (i, j, o), a transposed convolution's (OC, 2, 2, C) with its axes moved; b1: (C1,).
        norm_weight, norm_bias: (C1,) of the LayerNorm2d.
        w2: (4·C2, C1) likewise; b2: (C2,).
        hyper: (M, C2) float32, what the hypernetworks made of each mask's token.
        out: (M, 4H, 4W) to write into.

    Returns:
        (M, 4H, 4W) float32 logits.

    Source: ``output_upscaling`` and ``predict_masks`` in the reference's modeling/mask_decoder.py.
    """
    cdef upscale_pass p
    cdef int nthreads = resolve(threads)
    cdef const micro *u = &rt.tables[rt.active[0]]
    x = check.array(x, "x", ("H", "W", "C"))
    p.height, p.width, p.c = x.shape
    w1 = check.array(w1, "w1", ("4·C1", p.c))
    p.c1, p.eps = in_fours(w1, "w1"), eps
    w2 = check.array(w2, "w2", ("4·C2", p.c1))
    p.c2 = in_fours(w2, "w2")
    hyper = check.array(hyper, "hyper", ("M", p.c2))
    p.masks = hyper.shape[0]
    p.columns = round_up(p.width, u.nr)
    b1, b2 = over_pixels(check.array(b1, "b1", (p.c1,)), p.columns), over_pixels(check.array(b2, "b2", (p.c2,)), p.columns)
    cdef const float[:, ::1] w1v = w1, w2v = w2, hv = hyper, b1v = b1, b2v = b2
    cdef const float[::1] nw = check.array(norm_weight, "norm_weight", (p.c1,)), nb = check.array(norm_bias, "norm_bias", (p.c1,))
    y = check.output(out, (p.masks, 4 * p.height, 4 * p.width), x, norm_weight, norm_bias, w1, w2, hyper)
    cdef const float[::1] xv = x.reshape(-1)
    cdef float[::1] yv = y.reshape(-1)
    p.x, p.w1, p.w2, p.hyper, p.y = &xv[0], &w1v[0, 0], &w2v[0, 0], &hv[0, 0], &yv[0]
    p.b1, p.b2, p.norm_weight, p.norm_bias = &b1v[0, 0], &b2v[0, 0], &nw[0], &nb[0]

    cdef int64_t unit
    cdef size_t size = sizeof(float) * (p.columns * (p.c + 4 * p.c1 + 4 * p.c2 + 16 * p.masks) + 64)
    cdef float *scratch
    cdef int failed = 0
    with nogil, parallel(num_threads=nthreads):
        scratch = <float *>rt.scratch(size)
        for unit in prange(p.height, schedule="dynamic"):
            if scratch == NULL:
                failed += 1
            else:
                upscale_row(u, &p, unit, scratch)
    if failed:
        raise MemoryError(f"upscale_masks: no memory for {size} bytes of scratch")
    return y


def in_fours(rows, name):
    """How many channels a transposed convolution's (i, j, OC) rows make."""
    if rows.shape[0] % 4:
        raise ValueError(f"{name}: expected a multiple of 4 rows, got shape {rows.shape}")
    return rows.shape[0] // 4


def over_pixels(bias, columns):
    """A transposed convolution's bias (OC,) as what is added to (i, j, OC) rows of ``columns`` pixels."""
    return np.ascontiguousarray(np.broadcast_to(np.tile(bias, 4)[:, None], (4 * len(bias), columns)))


cdef void upscale_row(const micro *u, const upscale_pass *p, int64_t h, float *free) noexcept nogil:
    """Embedding row h, channels outside and its pixels contiguous, so that the few masks need no horizontal sums."""
    cdef int64_t i, j, c, n = p.columns
    cdef float *x = take(&free, n * p.c)
    cdef float *middle = take(&free, n * 4 * p.c1)  # (i, j, c1, n)
    cdef float *fine = take(&free, n * 4 * p.c2)  # (i2, j2, c2, n), of one (i, j)
    cdef float *drawn = take(&free, n * 16 * p.masks)  # (i, j, i2, j2, masks, n)
    for j in range(n // u.nr):
        u.pack(x + j * p.c * u.nr, p.x + (h * p.width + j * u.nr) * p.c, 0, min(u.nr, p.width - j * u.nr), p.c, p.c)
    column_gemm(u, 4 * p.c1, n, p.c, p.w1, x, u.nr, p.c * u.nr, p.b1, middle, ACT_NONE)
    for i in range(4):
        u.layer_norm_columns(middle + i * p.c1 * n, n, p.c1, n, p.norm_weight, p.norm_bias, p.eps, ACT_GELU)
        column_gemm(u, 4 * p.c2, n, p.c1, p.w2, middle + i * p.c1 * n, n, u.nr, p.b2, fine, ACT_GELU)
        for j in range(4):
            column_gemm(u, p.masks, n, p.c2, p.hyper, fine + j * p.c2 * n, n, u.nr, NULL, drawn + (4 * i + j) * p.masks * n, ACT_NONE)
    for i in range(4):
        for j in range(p.masks):
            for c in range(4):
                interleave(p, drawn + j * n, h, i, j, c)


cdef inline void interleave(const upscale_pass *p, const float *drawn, int64_t h, int64_t row, int64_t mask, int64_t column) noexcept nogil:
    """Pixels 4w + column of row 4h + row of a mask: sub-pixel (i, i2) = row, (j, j2) = column in bits."""
    cdef int64_t sub = (row >> 1) * 8 + (column >> 1) * 4 + (row & 1) * 2 + (column & 1), w
    cdef const float *source = drawn + sub * p.masks * p.columns
    cdef float *y = p.y + ((mask * p.height + h) * 4 + row) * 4 * p.width + column
    for w in range(p.width):
        y[4 * w] = source[w]


cdef inline void column_gemm(const micro *u, int64_t m, int64_t n, int64_t k, const float *a, const float *b, int64_t ldb,
                             int64_t panel, const float *bias, float *y, int act) noexcept nogil:
    """y (m, n) = act(a (m, k) · b (k, n) + bias (m, n)), b's columns pixels."""
    cdef gemm_args g
    g.m, g.n, g.k, g.segments, g.offset = m, n, k, 1, NULL
    g.a, g.lda, g.step = a, k, 1
    g.b, g.ldb, g.panel = b, ldb, panel
    g.bias, g.residual, g.ldr = NULL, bias, n
    g.y, g.ldy, g.act = y, n, act
    u.gemm(&g)
