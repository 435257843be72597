"""A step of plans that upscales the image tokens and computes mask logits, in one pass. Image tokens lie along the SIMD vectors."""
from decoder.record cimport *

from mobilesam.kernels.core import check
from mobilesam.kernels.core import isa as isas
from mobilesam.kernels.decoder.projection import checked_rows

import_runtime()

# Number of image tokens in a unit of work. TOKENS is a multiple of the GEMM panel width of every ISA and divides IMAGE_CHUNK.
# The 256 channels of TOKENS image tokens take 64 KB, which stay in L2.
cdef int64_t TOKENS = 64

cdef struct upscale_job:
    map_rows last  # (pixels1*c1, rank), rows of the field `last` of UpdatedImage in the low-rank form; rank is 0 in the plain form
    const float *maps  # (pixels1*c1, IMAGE_CHUNK), the first chunk of image tokens times the first transposed convolution's weight
    const float *basis  # (rank, STRIDE), the low-rank basis of UpdatedImage in the first chunk
    const float *scale  # (IMAGE_CHUNK), 1/σ of each image token in the first chunk, or NULL in the plain form
    int64_t maps_step, basis_step  # number of floats from a chunk to the next chunk in maps and basis
    const float *shift  # (pixels1*c1)
    const float *norm_weight
    const float *norm_bias
    map_rows w2  # (pixels2*c2, c1)
    const float *b2  # (c2)
    const float *hyper  # (masks, c2)
    float *y  # (masks, side*height, side*width), the mask logits
    int64_t height, width, masks, c2
    int64_t pixels1, pixels2  # number of pixels, 4 or 1, that each transposed convolution computes of the 2×2 that a pixel gives
    int64_t side  # side of the block of pixels of an image token: 4, 2 or 1
    float eps
    float *z  # (pixels1*c1, TOKENS), result of the first transposed convolution
    float *middle  # (c1, TOKENS), one pixel of each image token after LayerNorm and GELU
    float *fine  # (pixels2*c2, TOKENS), result of the second transposed convolution for one pixel of each image token
    float *drawn  # (masks, side, side, TOKENS), the mask logits of each image token
    void *part  # the rows of last, packed as A, if they are only a part of the packed rows
    float *panels
    float *basis_panels


def upscale_masks(plan, x, size, norm_weight, norm_bias, w2, b2, hyper, shift, *, update=None, eps=1e-6):
    """y[m] = hyper_m · gelu(conv_transpose(gelu(layer_norm(z)), w2) + b2), where z is the result of the first transposed convolution.

    Both transposed convolutions are 2×2 with stride 2. No upscaled image is stored: each image token gives 4×4 pixels of every mask.
    Either convolution may compute one of the 2×2 pixels, P1 and P2 being 1 instead of 4. A mask then has fewer pixels. With P1 = P2 = 1, a
    mask has one pixel for each image token.

    Args:
        plan: The Recorder that records the step.
        x: Maps with P1·C1 channels, the image tokens times the first transposed convolution's weight. Channels are ordered
            (i, j, o) for row i and column j of the 2×2 pixels and output channel o.
        size: (H, W), the numbers of rows and columns of image tokens. If x has more than H·W image tokens, the later ones are left out.
        norm_weight: (C1,) float32, the weight of the LayerNorm2d.
        norm_bias: (C1,) float32, the bias of the LayerNorm2d.
        w2: PackedRows (P2·C2, C1), the second transposed convolution's weight, with rows ordered (i, j, o) like the channels of x.
        b2: (C2,) float32, the second transposed convolution's bias.
        hyper: Array (M, C2), the outputs of M hypernetworks, one for each mask.
        shift: (P1·C1,) float32, a summand of z, which the entry ``update`` defines.
        update: None in the plain form, which has z = x + shift. In the low-rank form, three Arrays of one prompt, which UpdatedImage
            describes: data (chunks, rows, STRIDE), last (4·C1, rank), and the packed last. In the low-rank form,
            z = scale∘(x + last·basis) + shift, with ∘ for the product with each image token's scale. With P1 = 1, the first C1 rows of
            last count.
        eps: The eps of the LayerNorm2d.

    Returns:
        Array (M, S·H, S·W) of mask logits with S = √(P1·P2). The caller of `run` passes the NumPy array that receives the mask logits.

    Source: ``output_upscaling`` and ``predict_masks`` in the reference's modeling/mask_decoder.py.
    """
    cdef upscale_job p
    memset(&p, 0, sizeof(p))
    p.w2, p.eps, (p.height, p.width) = as_map_rows(checked_rows(w2, "w2")), check.real(eps, "eps"), check.pair(size, "size", 1)
    b2 = check.array(b2, "b2", ("C2",))
    n, c1, p.c2 = p.height * p.width, p.w2.k, b2.shape[0]
    plan.check_maps(x, "x", None)
    p.pixels1, p.pixels2 = 1 if x.channels == c1 else 4, 1 if p.w2.m == p.c2 else 4
    p.side = (1 if p.pixels1 == 1 else 2) * (1 if p.pixels2 == 1 else 2)
    check.array(w2.rows, "w2", (p.pixels2 * p.c2, "C1"))
    if isas.name_of(w2.isa) != plan.isa:
        raise ValueError(f"w2: expected PackedRows packed for {plan.isa}, got {isas.name_of(w2.isa)}")
    norm_weight, norm_bias = check.array(norm_weight, "norm_weight", (c1,)), check.array(norm_bias, "norm_bias", (c1,))
    shift = check.array(shift, "shift", (p.pixels1 * c1,))
    plan.check_maps(x, "x", p.pixels1 * c1)
    if n > x.n:
        raise ValueError(f"size: expected at most {x.n} image tokens, got {p.height}x{p.width}")
    plan.check(hyper, "hyper", ("M", p.c2))
    cdef const float[::1] nw = norm_weight, nb = norm_bias, bv = b2, shift_ = shift
    p.norm_weight, p.norm_bias, p.b2, p.shift, p.masks = &nw[0], &nb[0], &bv[0], &shift_[0], hyper.shape[0]
    p.maps, p.maps_step, p.last.u = channel(x), x.array.shape[1] * IMAGE_CHUNK, &rt.tables[<int>plan.table]
    if update is not None:
        if not isinstance(update, (tuple, list)) or len(update) != 3:
            raise TypeError(f"update: expected None or three Arrays, got {check.shortened(update)}")
        data, last, packed = update
        plan.check(data, "update", (chunks_of(x.n), "rows", STRIDE))
        plan.check(last, "update", (4 * c1, "rank"))
        if last.shape[1] >= data.shape[1]:
            raise ValueError(f"update: expected fewer than {data.shape[1]} basis rows, got {last.shape[1]}")
        p.last.m, p.last.k, p.last.lda, p.basis_step = p.pixels1 * c1, last.shape[1], last.shape[1], data.shape[1] * STRIDE
        plan.check(packed, "update", (max(1, operand_floats_of(p.last.u, 4 * c1, p.last.k)),))
        p.scale, p.basis, p.last.a, p.last.operand = address(data), address(data, STRIDE), address(last), address(packed)
    y = plan.given(p.masks, p.side * p.height, p.side * p.width)
    p.hyper, p.y = address(hyper), address(y)
    plan.keep(w2, norm_weight, norm_bias, b2, shift)
    record(plan, upscale_block, upscale_layout, &p, sizeof(p), (n + TOKENS - 1) // TOKENS, [y])
    return y


cdef int64_t panel_floats(const map_rows *rows) noexcept nogil:
    return TOKENS // rows.u.weight.columns * panel_words(rows.u, rows.k, False)


cdef void upscale_layout(void *job, arena *scratch) noexcept nogil:
    cdef upscale_job *p = <upscale_job *>job
    p.z = take_floats(scratch, p.last.m * TOKENS)
    p.middle = take_floats(scratch, p.w2.k * TOKENS)
    p.fine = take_floats(scratch, p.w2.m * TOKENS)
    p.drawn = take_floats(scratch, p.side * p.side * p.masks * TOKENS)
    p.part = take_floats(scratch, operand_floats_of(p.last.u, p.last.m, p.last.k) if p.pixels1 == 1 else 0)
    p.panels = take_floats(scratch, panel_floats(&p.w2))
    p.basis_panels = take_floats(scratch, panel_floats(&p.last))


cdef void upscale_block(void *job, int64_t unit) noexcept nogil:
    """Upscale TOKENS image tokens. An image token has ``pixels1`` pixels in z, and each gives ``pixels2`` pixels of every mask."""
    cdef const upscale_job *p = <const upscale_job *>job
    cdef const micro *u = p.w2.u
    cdef int64_t first = unit * TOKENS, chunk = first // IMAGE_CHUNK, at = first % IMAGE_CHUNK, c1 = p.w2.k, i, q
    cdef int64_t inner = 1 if p.pixels2 == 1 else 2  # side of the pixels that one pixel in z gives
    cdef map_rows last = p.last
    cdef const float *z = p.maps + chunk * p.maps_step + at
    cdef gemm_args g
    cdef norm_columns_args norm
    cdef draw_args draw
    norm.ldx, norm.scale = IMAGE_CHUNK, NULL
    if p.last.k:
        if p.pixels1 == 1:  # the packed form of all rows does not begin with that of the first rows on every ISA
            last.operand = p.part
            pack_map_rows(&last)
        pack_map_columns(last.u, p.last.k, TOKENS, p.basis + chunk * p.basis_step + at, STRIDE, p.basis_panels)
        g = of_maps(&last, p.basis_panels, TOKENS)
        g.residual, g.ldr, g.y, g.ldy = z, IMAGE_CHUNK, p.z, TOKENS
        map_product(&last, &g)
        z, norm.ldx, norm.scale = p.z, TOKENS, p.scale + chunk * p.basis_step + at
    norm.m, norm.n, norm.y, norm.ldy = c1, TOKENS, p.middle, TOKENS
    norm.weight, norm.bias, norm.eps, norm.act = p.norm_weight, p.norm_bias, p.eps, ACT_GELU
    draw.m, draw.n, draw.channels, draw.ldx, draw.bias, draw.w, draw.ldy = p.masks, TOKENS, p.c2, TOKENS, p.b2, p.hyper, p.side * p.side * TOKENS
    for i in range(p.pixels1):
        norm.x, norm.shift = z + i * c1 * norm.ldx, p.shift + i * c1
        u.norm_columns(&norm)
        pack_map_columns(u, c1, TOKENS, p.middle, TOKENS, p.panels)
        g = of_maps(&p.w2, p.panels, TOKENS)
        g.y, g.ldy = p.fine, TOKENS
        map_product(&p.w2, &g)
        for q in range(p.pixels2):
            draw.x = p.fine + q * p.c2 * TOKENS
            draw.y = p.drawn + (p.side * (inner * (i >> 1) + (q >> 1)) + inner * (i & 1) + (q & 1)) * TOKENS
            u.draw_columns(&draw)
    for i in range(p.masks * p.side):
        write_line(p, p.drawn + i * p.side * TOKENS, first, min(TOKENS, p.height * p.width - first), i)


cdef inline void write_line(const upscale_job *p, const float *drawn, int64_t first, int64_t count, int64_t line) noexcept nogil:
    """Write one of the ``side`` lines of the pixels that each of ``count`` image tokens has in a mask.

    ``drawn`` (side, TOKENS) has the pixels of line ``line`` % side in mask ``line`` // side. ``first`` is the first image token's number.
    """
    cdef int64_t h = first // p.width, w = first % p.width, side = p.side, i, j
    cdef float *y
    for i in range(count):
        y = p.y + ((line // side * p.height + h) * side + line % side) * side * p.width + side * w
        for j in range(side):
            y[j] = drawn[j * TOKENS + i]
        w += 1
        if w == p.width:
            h, w = h + 1, 0
