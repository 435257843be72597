"""The decoder's upscaling and the masks drawn from it, as one pass per row of the embedding."""
import numpy as np

from cython.parallel cimport parallel, prange

from common cimport *

from mobilesam.kernels import check
from mobilesam.kernels.gemm import as_panels
from mobilesam.kernels.threads import resolve

cdef const runtime *rt = shared_runtime()

cdef struct upscale_pass:
    const float *x  # (height, width, c)
    const float *w1  # packed (c, 4*c1), columns (i, j, o)
    const float *b1
    const float *norm_weight
    const float *norm_bias
    const float *w2  # packed (c1, 4*c2)
    const float *b2
    const float *hyper  # packed (c2, masks)
    float *y  # (masks, 4*height, 4*width)
    int64_t height, width, c, c1, c2, masks
    float eps


def upscale_masks(x, w1, b1, norm_weight, norm_bias, w2, b2, hyper, *, eps=1e-6, out=None, threads=None):
    """y[m] = hyper_m · gelu(conv_transpose(gelu(layer_norm(conv_transpose(x, w1) + b1)), w2) + b2), both 2×2 with stride 2.

    Neither upscaled map is written: an embedding row becomes four rows of every mask.

    Args:
        x: (H, W, C) float32.
        w1: (4·C1, C), rows (i, j, o), or Panels of it (see :func:`pack_transpose`); b1: (C1,).
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
    x = check.array(x, "x", ("H", "W", "C"))
    p.height, p.width, p.c = x.shape
    first = as_panels(w1, "w1", ("4·C1", p.c), threads=threads)
    second = as_panels(w2, "w2", ("4·C2", first.n // 4), threads=threads)
    if first.n % 4 or second.n % 4 or first.isa != second.isa:
        raise ValueError(f"w1, w2: expected 4·C1 and 4·C2 rows packed for one ISA, got {first.shape} and {second.shape}")
    p.c1, p.c2, p.eps = first.n // 4, second.n // 4, eps
    hyper = check.array(hyper, "hyper", ("M", p.c2))
    p.masks = hyper.shape[0]
    y = check.output(out, (p.masks, 4 * p.height, 4 * p.width), x, hyper)
    cdef const micro *u = rt.tables[<int>first.isa]
    hyper_rows = np.zeros((1, p.c2, round_up(p.masks, u.nr)), np.float32)
    hyper_rows[0, :, : p.masks] = hyper.T
    if p.masks > u.nr:
        raise ValueError(f"hyper: expected at most {u.nr} masks, got {p.masks}")
    cdef const float[::1] xv = x.reshape(-1)
    cdef const float[:, :, ::1] w1v = first.data, w2v = second.data, hv = hyper_rows
    cdef const float[::1] b1v = np.tile(check.array(b1, "b1", (p.c1,)), 4), b2v = np.tile(check.array(b2, "b2", (p.c2,)), 4)
    cdef const float[::1] nw = check.array(norm_weight, "norm_weight", (p.c1,)), nb = check.array(norm_bias, "norm_bias", (p.c1,))
    cdef float[::1] yv = y.reshape(-1)
    p.x, p.w1, p.w2, p.hyper, p.y = &xv[0], &w1v[0, 0, 0], &w2v[0, 0, 0], &hv[0, 0, 0], &yv[0]
    p.b1, p.b2, p.norm_weight, p.norm_bias = &b1v[0], &b2v[0], &nw[0], &nb[0]

    cdef int64_t unit
    cdef size_t size = sizeof(float) * p.width * (4 * p.c1 + 16 * p.c2 + 16 * p.masks + 48)
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


cdef void upscale_row(const micro *u, const upscale_pass *p, int64_t h, float *free) noexcept nogil:
    """Embedding row h: pixel (w, i, j, i2, j2) of the scratch is output pixel (4h + 2i + i2, 4w + 2j + j2)."""
    cdef int64_t w, pixel, sub, m, row, column, width = p.width
    cdef float *middle = take(&free, width * 4 * p.c1)
    cdef float *fine = take(&free, width * 16 * p.c2)
    cdef float *drawn = take(&free, width * 16 * p.masks)
    gemm(u, width, 4 * p.c1, p.c, p.x + h * width * p.c, p.c, p.w1, p.b1, NULL, 0, middle, 4 * p.c1, ACT_NONE)
    u.layer_norm(middle, p.c1, middle, p.c1, width * 4, p.c1, p.norm_weight, p.norm_bias, p.eps, ACT_GELU)
    gemm(u, width * 4, 4 * p.c2, p.c1, middle, p.c1, p.w2, p.b2, NULL, 0, fine, 4 * p.c2, ACT_GELU)
    gemm(u, width * 16, p.masks, p.c2, fine, p.c2, p.hyper, NULL, NULL, 0, drawn, p.masks, ACT_NONE)
    for m in range(p.masks):
        for w in range(width):
            for sub in range(16):
                pixel = w * 16 + sub
                row = 4 * h + (sub >> 3) * 2 + (sub >> 1 & 1)
                column = 4 * w + (sub >> 2 & 1) * 2 + (sub & 1)
                p.y[(m * 4 * p.height + row) * 4 * width + column] = drawn[pixel * p.masks + m]
