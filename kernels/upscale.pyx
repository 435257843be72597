"""The decoder's upscaling and the masks drawn from it, as one pass per row of the embedding."""
import numpy as np

from cython.parallel cimport parallel, prange
from libc.string cimport memset

from common cimport *

from mobilesam.kernels import check, isa
from mobilesam.kernels.gemm import as_panels, pack
from mobilesam.kernels.threads import resolve

cdef const runtime *rt = shared_runtime()

# Depths of a product that have no partial tile.
cdef int64_t PANEL = 32

cdef struct upscale_pass:
    const float *x  # (height, width, 4*c1)
    const float *basis  # (chunks, basis_room, stride) of an updated image, NULL for none
    const float *scale  # (chunks, chunk)
    matrix rows  # (4*c1, rank)
    const float *shift  # (4*c1)
    int64_t chunk, stride, basis_room, rank
    const float *norm_weight
    const float *norm_bias
    matrix w2  # (4*c2, c1)
    const float *b2  # (4*c2)
    matrix hyper  # (4*masks, 4*c2): every mask's vector for each of the four pixels that a row of w2's result holds
    float *y  # (masks, 4*height, 4*width)
    int64_t height, width, masks
    float eps
    bint chained  # what w2 makes goes to the last product as its operand


def upscale_masks(x, norm_weight, norm_bias, w2, b2, hyper, *, update=None, rows=None, shift=None, eps=1e-6, out=None,
                  threads=None):
    """y[m] = hyper_m · gelu(conv_transpose(gelu(layer_norm(z)), w2) + b2), 2×2 with stride 2, where z is x upscaled likewise.

    Neither upscaled map is written: an embedding row becomes four rows of every mask.

    Args:
        x: (H, W, 4·C1) float32, what a first transposed convolution makes: z's (i, j, C1) for each pixel.
        norm_weight, norm_bias: (C1,) of the LayerNorm2d.
        w2: (4·C2, C1), rows (i, j, o), a transposed convolution's (OC, 2, 2, C) with its axes moved; b2: (C2,).
        hyper: (M, C2) float32, what the hypernetworks made of each mask's token.
        update: None, or an UpdatedImage of H·W tokens, rows (rank, 4·C1) of its basis and shift (4·C1,): z is then
            scale∘(x + basisᵀ·rows) + shift, and 4·C1 a multiple of 32.
        out: (M, 4H, 4W) to write into.

    Returns:
        (M, 4H, 4W) float32 logits.

    Source: ``output_upscaling`` and ``predict_masks`` in the reference's modeling/mask_decoder.py.
    """
    cdef upscale_pass p
    cdef int nthreads = resolve(threads)
    x = check.array(x, "x", ("H", "W", "4·C1"))
    p.height, p.width, p.eps = x.shape[0], x.shape[1], eps
    if x.shape[2] % 4:
        raise ValueError(f"x: expected a multiple of 4 channels, got shape {x.shape}")
    c1 = x.shape[2] // 4
    w2 = as_panels(w2, "w2", ("4·C2", c1), threads=threads)
    c2 = in_fours(w2, "w2")
    p.w2 = as_matrix(rt, w2)
    hyper = check.array(hyper, "hyper", ("M", c2))
    p.masks = hyper.shape[0]
    each = np.zeros((4, p.masks, 4, c2), np.float32)
    for i in range(4):
        each[i, :, i] = hyper
    precision = "bf16" if isa.precision_of(w2.isa) == "bf16" else "fp32"
    drawers = pack(each.reshape(4 * p.masks, 4 * c2), precision=precision, isa=isa.name_of(w2.isa), threads=1)
    p.hyper = as_matrix(rt, drawers)
    p.chained = p.w2.u == p.hyper.u and p.w2.u.weight.terms == 2 and p.w2.n % p.w2.u.weight.columns == 0
    cdef const float[::1] b2v = np.tile(check.array(b2, "b2", (c2,)), 4)
    cdef const float[::1] nw = check.array(norm_weight, "norm_weight", (c1,)), nb = check.array(norm_bias, "norm_bias", (c1,))
    y = check.output(out, (p.masks, 4 * p.height, 4 * p.width), x, norm_weight, norm_bias, hyper)
    cdef const float[::1] xv = x.reshape(-1)
    cdef float[::1] yv = y.reshape(-1)
    p.x, p.y, p.b2, p.norm_weight, p.norm_bias = &xv[0], &yv[0], &b2v[0], &nw[0], &nb[0]
    p.basis = NULL
    kept = None if update is None else set_update(&p, x, update, rows, shift, w2.isa)

    cdef int64_t unit, fine = 4 * p.width
    cdef size_t size = sizeof(float) * (fine * (p.w2.k + p.hyper.n) + fine_floats(&p, fine) + 64
                                        + max(operand_floats(&p.w2, fine), operand_floats(&p.hyper, fine))
                                        + update_floats(&p))
    cdef float *scratch
    cdef int failed = 0
    with nogil, parallel(num_threads=nthreads):
        scratch = <float *>rt.scratch(size)
        for unit in prange(p.height, schedule="dynamic"):
            if scratch == NULL:
                failed += 1
            else:
                upscale_row(&p, unit, scratch)
    if failed:
        raise MemoryError(f"upscale_masks: no memory for {size} bytes of scratch")
    return y


cdef set_update(upscale_pass *p, x, update, rows, shift, isa_index):
    """Returns what to keep alive."""
    cdef int64_t n = 4 * p.w2.k
    if update.n != p.height * p.width:
        raise ValueError(f"update: expected one of {p.height * p.width} tokens, got {update.n}")
    if n % PANEL:
        raise ValueError(f"x: expected a multiple of {PANEL} channels with an update, got shape {x.shape}")
    p.rank = update.rank
    deep = np.zeros((n, round_up(p.rank, PANEL)), np.float32)  # whole words of every precision
    deep[:, : p.rank] = check.array(rows, "rows", (p.rank, n)).T
    packed = pack(deep, isa=isa.name_of(isa_index), threads=1)
    p.rows = as_matrix(rt, packed)
    cdef const float[:, :, ::1] bv = update.basis
    cdef const float[:, ::1] sv = update.scale
    shift = check.array(shift, "shift", (n,))
    cdef const float[::1] shift_ = shift
    p.basis, p.scale, p.shift = &bv[0, 0, 0], &sv[0, 0], &shift_[0]
    p.chunk, p.stride, p.basis_room = sv.shape[1], bv.shape[2], bv.shape[1]
    return update, packed, shift


def in_fours(rows, name):
    """How many channels a transposed convolution's (i, j, OC) rows make."""
    if rows.shape[0] % 4:
        raise ValueError(f"{name}: expected a multiple of 4 rows, got shape {rows.shape}")
    return rows.shape[0] // 4


cdef int64_t fine_floats(const upscale_pass *p, int64_t rows) noexcept nogil:
    return operand_floats(&p.hyper, rows) if p.chained else rows * p.w2.n


cdef void upscale_row(const upscale_pass *p, int64_t h, float *free) noexcept nogil:
    """Row h of the embedding: (w, i, j) are rows of the second product, (i2, j2, mask) columns of the third."""
    cdef int64_t n = p.width, c1 = p.w2.k, columns = p.hyper.n, m
    cdef bint narrow = p.w2.u.weight.terms > 1  # whose product applies the GELU as it reads
    cdef float *middle = take(&free, 4 * n * c1)
    cdef float *drawn = take(&free, 4 * n * columns)
    cdef float *fine = take(&free, fine_floats(p, 4 * n))
    cdef const float *x = p.x + h * n * 4 * c1
    if p.basis != NULL:
        updated_row(p, h, middle, free)
        x = middle
    p.w2.u.layer_norm(middle, c1, x, c1, 4 * n, c1, p.norm_weight, p.norm_bias, p.eps, ACT_NONE if narrow else ACT_GELU)
    product(&p.w2, 4 * n, middle, c1, p.b2, NULL, 0, fine, p.w2.n, ACT_GELU, free, ACT_GELU if narrow else ACT_NONE,
            fine if p.chained else NULL)
    product(&p.hyper, 4 * n, NULL if p.chained else fine, p.w2.n, NULL, NULL, 0, drawn, columns, ACT_NONE,
            fine if p.chained else free)
    for m in range(p.masks):
        interleave(p, drawn + m, h, m)


cdef int64_t update_floats(const upscale_pass *p) noexcept nogil:
    return 0 if p.basis == NULL else p.width * p.rows.k + operand_floats(&p.rows, p.width) + 32


cdef void updated_row(const upscale_pass *p, int64_t h, float *y, float *free) noexcept nogil:
    """Row h of z, as far as each chunk of the update's basis reaches."""
    cdef const micro *u = p.w2.u
    cdef int64_t i = h * p.width, end = i + p.width, n = 4 * p.w2.k, m, j
    cdef float *turned = take(&free, p.width * p.rows.k)
    if p.rows.k > p.rank:
        for j in range(p.width):
            memset(turned + j * p.rows.k + p.rank, 0, (p.rows.k - p.rank) * sizeof(float))
    while i < end:
        m = min(end, (i // p.chunk + 1) * p.chunk) - i
        u.transpose(turned, p.rows.k, p.basis + i // p.chunk * p.basis_room * p.stride + i % p.chunk, p.stride, p.rank, m)
        product(&p.rows, m, turned, p.rows.k, NULL, p.x + i * n, n, y, n, ACT_NONE, free)
        u.scale_rows(y, n, m, n, p.scale + i, p.shift)
        i += m
        y += m * n


cdef inline void interleave(const upscale_pass *p, const float *drawn, int64_t h, int64_t mask) noexcept nogil:
    """Four rows of a mask: pixel (2i + i2, 2j + j2) of an embedding's pixel w."""
    cdef int64_t n = p.width, columns = p.hyper.n, i, j, w
    cdef float *y
    cdef const float *source
    for i in range(4):
        for w in range(n):
            y = p.y + ((mask * p.height + h) * 4 + i) * 4 * n + 4 * w
            source = drawn + (4 * w + (i >> 1) * 2) * columns + (i & 1) * 2 * p.masks
            for j in range(4):
                y[j] = source[(j >> 1) * columns + (j & 1) * p.masks]
