"""The decoder's upscaling and the masks drawn from it, as one pass per row of the embedding."""
import numpy as np

from cython.parallel cimport parallel, prange

from common cimport *

from mobilesam.kernels import check
from mobilesam.kernels.gemm import as_panels, pack
from mobilesam.kernels.panels import Panels
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
        w2: (4·C2, C1) likewise; b2: (C2,). Both as Panels of bf16 compute in that; C2 is then a multiple of 8.
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
    if isinstance(w1, Panels):
        return upscale_narrow(x, w1, b1, norm_weight, norm_bias, w2, b2, hyper, eps, out, nthreads)
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


cdef struct narrow_pass:
    const float *x  # (height, width, c)
    matrix w1  # (4*c1, c)
    const float *b1  # (4*c1)
    const float *norm_weight
    const float *norm_bias
    matrix w2  # (4*c2, c1)
    const float *b2  # (4*c2)
    matrix hyper  # (4*masks, 4*c2): the masks' vectors, once for each of the four pixels that a row of w2's makes
    float *y  # (masks, 4*height, 4*width)
    int64_t height, width, masks
    float eps


def upscale_narrow(x, w1, b1, norm_weight, norm_bias, w2, b2, hyper, eps, out, int nthreads):
    """The same with pixels as rows: three products in bf16, the second's result read by the third where it lies."""
    cdef narrow_pass p
    p.height, p.width, c = x.shape
    w1 = as_panels(w1, "w1", ("4·C1", c))
    c1 = in_fours(w1, "w1")
    w2 = as_panels(w2, "w2", ("4·C2", c1))
    c2 = in_fours(w2, "w2")
    hyper = check.array(hyper, "hyper", ("M", c2))
    p.masks, p.eps = hyper.shape[0], eps
    if c2 % 8:
        raise ValueError(f"w2: expected a multiple of 32 rows in bf16, got shape {w2.shape}")
    each = np.zeros((4, p.masks, 4, c2), np.float32)
    for i in range(4):
        each[i, :, i] = hyper
    packed = pack(each.reshape(4 * p.masks, 4 * c2), precision="bf16", threads=1)
    p.w1, p.w2, p.hyper = as_matrix(rt, w1), as_matrix(rt, w2), as_matrix(rt, packed)
    if p.w2.u != p.w1.u or p.hyper.u != p.w1.u:
        raise ValueError("w2: expected Panels of bf16 for the ISA in force, as w1")
    cdef const float[::1] b1v = np.tile(check.array(b1, "b1", (c1,)), 4), b2v = np.tile(check.array(b2, "b2", (c2,)), 4)
    cdef const float[::1] nw = check.array(norm_weight, "norm_weight", (c1,)), nb = check.array(norm_bias, "norm_bias", (c1,))
    y = check.output(out, (p.masks, 4 * p.height, 4 * p.width), x, norm_weight, norm_bias, hyper)
    cdef const float[::1] xv = x.reshape(-1)
    cdef float[::1] yv = y.reshape(-1)
    p.x, p.y, p.b1, p.b2, p.norm_weight, p.norm_bias = &xv[0], &yv[0], &b1v[0], &b2v[0], &nw[0], &nb[0]

    cdef int64_t unit, rows = 4 * p.width
    cdef size_t size = sizeof(float) * (rows * (p.w2.k + p.hyper.n) + 64 + operand_floats(&p.hyper, rows)
                                        + max(operand_floats(&p.w1, p.width), operand_floats(&p.w2, rows)))
    cdef float *scratch
    cdef int failed = 0
    with nogil, parallel(num_threads=nthreads):
        scratch = <float *>rt.scratch(size)
        for unit in prange(p.height, schedule="dynamic"):
            if scratch == NULL:
                failed += 1
            else:
                narrow_row(&p, unit, scratch)
    if failed:
        raise MemoryError(f"upscale_masks: no memory for {size} bytes of scratch")
    return y


cdef void narrow_row(const narrow_pass *p, int64_t h, float *free) noexcept nogil:
    """Row h of the embedding: (w, i, j) are rows of the second product, (i2, j2, mask) columns of the third."""
    cdef int64_t n = p.width, c1 = p.w2.k, columns = p.hyper.n, w, i, j, m
    cdef const float *from_pixel
    cdef float *to_pixel
    cdef float *middle = take(&free, 4 * n * c1)
    cdef float *drawn = take(&free, 4 * n * columns)
    cdef float *fine = take(&free, operand_floats(&p.hyper, 4 * n))
    product(&p.w1, n, p.x + h * n * p.w1.k, p.w1.k, p.b1, NULL, 0, middle, 4 * c1, ACT_NONE, free)
    p.w1.u.layer_norm(middle, c1, middle, c1, 4 * n, c1, p.norm_weight, p.norm_bias, p.eps, ACT_NONE)
    product(&p.w2, 4 * n, middle, c1, p.b2, NULL, 0, NULL, 0, ACT_GELU, free, ACT_GELU, fine)
    product(&p.hyper, 4 * n, NULL, 0, NULL, NULL, 0, drawn, columns, ACT_NONE, fine)
    for m in range(p.masks):
        for i in range(4):
            for w in range(n):
                to_pixel = p.y + ((m * p.height + h) * 4 + i) * 4 * n + 4 * w
                from_pixel = drawn + (4 * w + (i >> 1) * 2) * columns + (i & 1) * 2 * p.masks + m
                for j in range(4):
                    to_pixel[j] = from_pixel[(j >> 1) * columns + (j & 1) * p.masks]


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
