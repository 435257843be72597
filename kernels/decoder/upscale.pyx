"""The step that upscales the image and draws the masks, in one pass. Pixels lie along the vectors."""
from decoder.record cimport *

from mobilesam.kernels.core import check
from mobilesam.kernels.decoder.image_maps import MapRows

import_runtime()

# Pixels of a unit. PIXELS is a multiple of every ISA's panel width and divides IMAGE_CHUNK; 256 channels of PIXELS pixels are 64 KB,
# which stay in L2.
cdef int64_t PIXELS = 64

cdef struct upscale_job:
    map_rows rows  # (4*c1, k), what makes z
    const float *x  # tokens (height*width, k); NULL where z is made of maps
    const float *maps  # (4*c1, IMAGE_CHUNK) of the first chunk, added
    const float *basis  # (k, STRIDE) of the first chunk
    const float *scale  # (IMAGE_CHUNK) of the first chunk, NULL for 1
    int64_t maps_step, basis_step  # floats from a chunk to the next
    const float *shift  # (4*c1)
    const float *norm_weight
    const float *norm_bias
    map_rows w2  # (4*c2, c1)
    const float *b2  # (c2)
    const float *hyper  # (masks, c2)
    float *y  # (masks, 4*height, 4*width)
    int64_t height, width, masks, c2
    float eps
    float *z  # (4*c1, PIXELS)
    float *middle  # (c1, PIXELS)
    float *fine  # (4*c2, PIXELS)
    float *drawn  # (masks, 4, 4, PIXELS)
    float *panels
    float *z_panels


def upscale_masks(plan, x, size, norm_weight, norm_bias, w2, b2, hyper, shift, *, rows=None, update=None, eps=1e-6):
    """y[m] = hyper_m · gelu(conv_transpose(gelu(layer_norm(z)), w2) + b2), where z is a first transposed convolution, both 2×2 with
    stride 2.

    Neither upscaled map is written: an embedding's pixel becomes 4×4 of every mask.

    Args:
        plan: a Recorder.
        x: with ``rows``, the image's tokens, Array (H·W, K); with ``update``, Maps of 4·C1 channels.
        size: (H, W), of the image's tokens.
        norm_weight, norm_bias: (C1,) of the LayerNorm2d.
        w2: MapRows (4·C2, C1), rows (i, j, o), a transposed convolution's (OC, 2, 2, C) with its axes moved; b2: (C2,).
        hyper: Array (M, C2), what the hypernetworks made of each mask's token.
        shift: (4·C1,).
        rows: MapRows (4·C1, K): z is rows · x + shift.
        update: three Arrays of an UpdatedImage: its data of one prompt (chunks, rows, STRIDE), its last (4·C1, rank) and the operand of
            these. z is scale∘(x + last·basis) + shift.

    Returns:
        Array (M, 4H, 4W) of logits, which the caller of each run gives.

    Source: ``output_upscaling`` and ``predict_masks`` in the reference's modeling/mask_decoder.py.
    """
    cdef upscale_job p
    memset(&p, 0, sizeof(p))
    check.instance(w2, "w2", MapRows)
    p.w2, p.eps, (p.height, p.width) = as_map_rows(w2), eps, size
    n, c1 = p.height * p.width, w2.rows.shape[1]
    p.c2 = in_fours(w2.rows, "w2")
    norm_weight, norm_bias = check.array(norm_weight, "norm_weight", (c1,)), check.array(norm_bias, "norm_bias", (c1,))
    b2, shift = check.array(b2, "b2", (p.c2,)), check.array(shift, "shift", (4 * c1,))
    plan.check(hyper, "hyper", ("M", p.c2))
    if (rows is None) == (update is None):
        raise ValueError("rows: expected either rows or an update")
    p.masks = hyper.shape[0]
    cdef const float[::1] nw = norm_weight, nb = norm_bias, bv = b2, shift_ = shift
    p.norm_weight, p.norm_bias, p.b2, p.shift = &nw[0], &nb[0], &bv[0], &shift_[0]
    pointers = []
    if rows is not None:
        check.instance(rows, "rows", MapRows)
        check.array(rows.rows, "rows", (4 * c1, "K"))
        plan.check(x, "x", (n, rows.rows.shape[1]))
        p.rows = as_map_rows(rows)
        point(pointers, &p, &p.x, x)
    else:
        plan.check_maps(x, "x", 4 * c1, n)
        data, last, operand = update
        plan.check(data, "update", (chunks_of(n), "rows", STRIDE))
        plan.check(last, "update", (4 * c1, "rank"))
        if last.shape[1] >= data.shape[1]:
            raise ValueError(f"update: expected less than {data.shape[1]} rows of a basis, got {last.shape[1]}")
        p.rows.u, p.rows.m, p.rows.k, p.rows.lda = &rt.tables[<int>plan.table], last.shape[0], last.shape[1], last.shape[1]
        plan.check(operand, "update", (max(1, operand_floats_of(p.rows.u, p.rows.m, p.rows.k)),))
        p.maps_step, p.basis_step = x.array.shape[1] * IMAGE_CHUNK, data.shape[1] * STRIDE
        point(pointers, &p, &p.maps, x.array, x.first * IMAGE_CHUNK)
        point(pointers, &p, &p.scale, data)
        point(pointers, &p, &p.basis, data, STRIDE)
        point(pointers, &p, &p.rows.a, last)
        point(pointers, &p, &p.rows.operand, operand)
    y = plan.given(p.masks, 4 * p.height, 4 * p.width)
    point(pointers, &p, &p.hyper, hyper)
    point(pointers, &p, &p.y, y)
    plan.keep(w2, norm_weight, norm_bias, b2, shift, rows)
    record(plan, upscale_block, upscale_layout, &p, sizeof(p), (n + PIXELS - 1) // PIXELS, pointers, [y])
    return y


def in_fours(rows, name):
    """How many channels a transposed convolution's (i, j, OC) rows make."""
    if rows.shape[0] % 4:
        raise ValueError(f"{name}: expected a multiple of 4 rows, got shape {rows.shape}")
    return rows.shape[0] // 4


cdef int64_t panel_floats(const map_rows *rows) noexcept nogil:
    return PIXELS // rows.u.weight.columns * panel_words(rows.u, rows.k, False)


cdef void upscale_layout(void *job, arena *scratch) noexcept nogil:
    cdef upscale_job *p = <upscale_job *>job
    p.z = take_floats(scratch, 4 * p.w2.k * PIXELS)
    p.middle = take_floats(scratch, p.w2.k * PIXELS)
    p.fine = take_floats(scratch, p.w2.m * PIXELS)
    p.drawn = take_floats(scratch, 16 * p.masks * PIXELS)
    p.panels = take_floats(scratch, panel_floats(&p.w2))
    p.z_panels = take_floats(scratch, panel_floats(&p.rows))


cdef void make_z(const upscale_job *p, int64_t first, int64_t count) noexcept nogil:
    """z (4*c1, PIXELS) of ``count`` pixels, less the shift and the scale; what lies behind them is of no use."""
    cdef int64_t chunk = first // IMAGE_CHUNK, at = first % IMAGE_CHUNK, columns = p.rows.u.weight.columns, i
    cdef gemm_args g = of_maps(&p.rows, p.z_panels, PIXELS)
    g.y, g.ldy = p.z, PIXELS
    if p.x != NULL:  # pixels are packed as rows of a weight
        for i in range((count + columns - 1) // columns):
            p.rows.u.pack(p.z_panels + i * g.panel, p.x + (first + i * columns) * p.rows.k, 0, min(columns, count - i * columns), p.rows.k,
                          p.rows.k)
        g.n = count
    else:
        pack_map_columns(p.rows.u, p.rows.k, PIXELS, p.basis + chunk * p.basis_step + at, STRIDE, p.z_panels)
        g.residual, g.ldr = p.maps + chunk * p.maps_step + at, IMAGE_CHUNK
    map_product(&p.rows, &g)
    for i in range(p.rows.m if count < PIXELS else 0):
        memset(p.z + i * PIXELS + count, 0, (PIXELS - count) * sizeof(float))


cdef void upscale_block(void *job, int64_t unit) noexcept nogil:
    """PIXELS pixels: z, and for each of a pixel's four of z the norm, the product and the masks' four."""
    cdef const upscale_job *p = <const upscale_job *>job
    cdef const micro *u = p.w2.u
    cdef int64_t first = unit * PIXELS, c1 = p.w2.k, count = min(PIXELS, p.height * p.width - first), i, q
    cdef gemm_args g
    cdef norm_columns_args norm
    cdef draw_args draw
    make_z(p, first, count)
    norm.scale = NULL if p.scale == NULL else p.scale + first // IMAGE_CHUNK * p.basis_step + first % IMAGE_CHUNK
    norm.m, norm.n, norm.ldx, norm.y, norm.ldy = c1, PIXELS, PIXELS, p.middle, PIXELS
    norm.weight, norm.bias, norm.eps, norm.act = p.norm_weight, p.norm_bias, p.eps, ACT_GELU
    draw.m, draw.n, draw.channels, draw.ldx, draw.bias, draw.w, draw.ldy = p.masks, PIXELS, p.c2, PIXELS, p.b2, p.hyper, 16 * PIXELS
    for i in range(4):
        norm.x, norm.shift = p.z + i * c1 * PIXELS, p.shift + i * c1
        u.norm_columns(&norm)
        pack_map_columns(u, c1, PIXELS, p.middle, PIXELS, p.panels)
        g = of_maps(&p.w2, p.panels, PIXELS)
        g.y, g.ldy = p.fine, PIXELS
        map_product(&p.w2, &g)
        for q in range(4):
            draw.x = p.fine + q * p.c2 * PIXELS
            draw.y = p.drawn + (4 * (2 * (i >> 1) + (q >> 1)) + 2 * (i & 1) + (q & 1)) * PIXELS
            u.draw_columns(&draw)
    for i in range(p.masks * 4):
        spread_line(p, p.drawn + i * 4 * PIXELS, first, count, i)


cdef inline void spread_line(const upscale_job *p, const float *drawn, int64_t first, int64_t count, int64_t line) noexcept nogil:
    """One of four lines (4, PIXELS) of a mask, a pixel's four neighbours side by side."""
    cdef int64_t h = first // p.width, w = first % p.width, i, j
    cdef float *y
    for i in range(count):
        y = p.y + ((line // 4 * p.height + h) * 4 + line % 4) * 4 * p.width + 4 * w
        for j in range(4):
            y[j] = drawn[j * PIXELS + i]
        w += 1
        if w == p.width:
            h, w = h + 1, 0
