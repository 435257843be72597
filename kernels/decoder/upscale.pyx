"""The decoder's upscaling and the masks drawn from it, as one pass over the embedding's pixels, which lie along the vectors."""
import numpy as np

from cython.parallel cimport parallel, prange
from libc.string cimport memcpy, memset

from core.common cimport *

from mobilesam.kernels.core import check
from mobilesam.kernels.decoder.image_maps import ImageMaps, MapRows, pack_rows
from mobilesam.kernels.decoder.queue import Slot
from mobilesam.kernels.core.threads import resolve

cdef const runtime *rt = shared_runtime()

# Pixels of a block: whole panels of every ISA, a part of a chunk; its maps of 256 channels stay in L1 and L2.
cdef int64_t PIXELS = 64

cdef struct upscale_pass:
    const float *x  # (4*c1, pixels) in chunks
    int64_t map_step, chunk_step  # floats from one map to the next, and from a chunk's to the next one's
    const float *basis  # (rank, stride) of an updated image's first chunk, NULL for none
    const float *scale  # (IMAGE_CHUNK) of that
    int64_t stride, image_step
    map_rows rows  # (4*c1, rank)
    const float *shift  # (4*c1), NULL for none
    const float *norm_weight
    const float *norm_bias
    map_rows w2  # (4*c2, c1)
    const float *b2  # (c2)
    const float *hyper  # (masks, c2)
    float *y  # (masks, 4*height, 4*width)
    float **place  # of y, where that is a Slot
    int64_t height, width, masks, c2
    float eps


def upscale_masks(x, norm_weight, norm_bias, w2, b2, hyper, *, update=None, rows=None, shift=None, eps=1e-6, precision="fp32",
                  isa=None, out=None, queue=None, threads=None):
    """y[m] = hyper_m · gelu(conv_transpose(gelu(layer_norm(z)), w2) + b2), 2×2 with stride 2, where z is x upscaled likewise.

    Neither upscaled map is written: an embedding's pixel becomes 4×4 of every mask.

    Args:
        x: ImageMaps of H·W tokens, the first of their maps that is x's, and (H, W): 4·C1 maps, what a first transposed
            convolution makes, z's (i, j, C1) for each pixel.
        norm_weight, norm_bias: (C1,) of the LayerNorm2d.
        w2: (4·C2, C1), rows (i, j, o), a transposed convolution's (OC, 2, 2, C) with its axes moved, or MapRows of them, which
            have a precision and an ISA; b2: (C2,).
        hyper: (M, C2) float32, what the hypernetworks made of each mask's token.
        update: None, or an UpdatedImage of as many tokens, and MapRows (4·C1, rank): z is then
            scale∘(x + rows·basis) + shift.
        rows: without an update, MapRows (4·C1, K): z is rows times K of them, + shift.
        shift: (4·C1,), or None.
        precision: "fp32" or "bf16": of the product with a w2 that is no MapRows.
        isa: the name of the ISA to run on where it is none; by default the one in force.
        out: (M, 4H, 4W) to write into; or, with a queue, a Slot of such.
        queue: a Queue to leave the work to.

    Returns:
        (M, 4H, 4W) float32 logits.

    Source: ``output_upscaling`` and ``predict_masks`` in the reference's modeling/mask_decoder.py.
    """
    storage = np.zeros(sizeof(upscale_pass), np.uint8)
    cdef uint8_t[::1] bytes = storage
    cdef upscale_pass *p = <upscale_pass *>&bytes[0]
    cdef int nthreads = resolve(threads)
    if not isinstance(w2, MapRows):
        w2 = pack_rows(check.array(w2, "w2", ("4·C2", "C1")), precision=precision, isa=isa)
    p.w2 = as_map_rows(rt, w2)
    c1 = p.w2.k
    check.array(w2.rows, "w2", ("4·C2", c1))
    p.c2 = in_fours(w2.rows, "w2")
    own = rows is not None and update is None
    if rows is not None:
        check.instance(rows, "rows", MapRows)
        check.array(rows.rows, "rows", (4 * c1, "K" if own else update.rank))
    data = set_maps(p, x, rows.rows.shape[1] if own else 4 * c1, update)
    norm_weight, norm_bias = check.array(norm_weight, "norm_weight", (c1,)), check.array(norm_bias, "norm_bias", (c1,))
    b2, hyper = check.array(b2, "b2", (p.c2,)), check.array(hyper, "hyper", ("M", p.c2), later=queue is not None)
    shift = check.optional(shift, "shift", (4 * c1,))
    p.masks, p.eps = hyper.shape[0], eps
    cdef const float[::1] nw = norm_weight, nb = norm_bias, bv = b2, shift_ = shift
    cdef const float[:, ::1] hv = hyper
    y = set_output(p, out, queue, (data, norm_weight, norm_bias, w2.rows, b2, hyper, shift))
    p.norm_weight, p.norm_bias, p.b2, p.hyper, p.shift = &nw[0], &nb[0], &bv[0], &hv[0, 0], floats(shift_)
    p.basis, p.scale = NULL, NULL
    if update is not None:
        check.instance(rows, "rows", MapRows)
        set_update(p, update, rows)
    elif own:
        p.basis, p.stride, p.image_step, p.x = p.x, p.map_step, p.chunk_step, NULL
        p.rows = as_map_rows(rt, rows)

    do_work("upscale_masks", upscale, storage, (x, norm_weight, norm_bias, w2, b2, hyper, update, rows, shift, y, out), queue, nthreads)
    return y


cdef size_t upscale(void *storage, int nthreads) noexcept nogil:
    cdef upscale_pass *p = <upscale_pass *>storage
    if p.place != NULL:
        p.y = p.place[0]
    cdef int64_t pixels = p.height * p.width, unit
    cdef size_t size = sizeof(float) * (PIXELS * (5 * p.w2.k + p.w2.m + 16 * p.masks) + panel_floats(&p.w2) + 64
                                        + (0 if p.basis == NULL else panel_floats(&p.rows)))
    cdef float *scratch
    cdef int failed = 0
    with parallel(num_threads=nthreads):
        scratch = <float *>rt.scratch(size)
        for unit in prange((pixels + PIXELS - 1) // PIXELS, schedule="dynamic"):
            if scratch == NULL:
                failed += 1
            else:
                upscale_block(p.w2.u, p, unit * PIXELS, scratch)
    return size if failed else 0


def in_fours(rows, name):
    """How many channels a transposed convolution's (i, j, OC) rows or maps make."""
    if rows.shape[0] % 4:
        raise ValueError(f"{name}: expected a multiple of 4 rows, got shape {rows.shape}")
    return rows.shape[0] // 4


cdef set_maps(upscale_pass *p, x, int64_t count, update):
    """Where x is. Returns the array that holds it."""
    cdef const float[:, :, ::1] maps
    if type(x) is not tuple or len(x) != 3:
        raise TypeError(f"x: expected (ImageMaps, the first map, (H, W)), got {type(x).__name__}")
    source, first, (p.height, p.width) = x
    if source.n != p.height * p.width or not 0 <= first <= source.data.shape[1] - count:
        raise ValueError(f"x: expected {count} maps of {p.height}x{p.width} tokens from map {first} on, "
                         f"got {source.data.shape[1]} of {source.n}")
    if update is not None and update.n != source.n:
        raise ValueError(f"update: expected one of {source.n} tokens, got {update.n}")
    maps = source.data
    p.x, p.map_step, p.chunk_step = &maps[0, <int64_t>first, 0], IMAGE_CHUNK, maps.shape[1] * IMAGE_CHUNK
    return source.data


cdef set_output(upscale_pass *p, out, queue, tuple inputs):
    """Returns the array that is filled, at first."""
    size = p.masks, 4 * p.height, 4 * p.width
    if queue is None and isinstance(out, Slot):
        raise ValueError("out: expected an array, or None, got a Slot, which only a queue fills")
    if not isinstance(out, Slot):
        out = check.output(out, size, *inputs)
        p.y = first_float(out.reshape(-1))
        return out
    if out.shape != size:
        raise ValueError(f"out: expected a Slot of shape {size}, got {out.shape}")
    p.place = <float **>PyCapsule_GetPointer(out.place, "mobilesam.kernels.slot")
    return out.array


cdef float *first_float(float[::1] view) noexcept:
    return &view[0]


cdef set_update(upscale_pass *p, update, rows):
    cdef const float[:, :, ::1] dv = update.data
    p.scale, p.basis, p.stride, p.image_step = &dv[0, 0, 0], &dv[0, 1, 0], dv.shape[2], dv.shape[1] * dv.shape[2]
    p.rows = as_map_rows(rt, rows)


cdef int64_t panel_floats(const map_rows *rows) noexcept nogil:
    return PIXELS // rows.u.weight.columns * panel_words(rows.u, rows.k, False)


cdef void upscale_block(const micro *u, const upscale_pass *p, int64_t first, float *free) noexcept nogil:
    """The pixels from `first` on: z, and for each of a pixel's four of z the norm, the product and the masks' four."""
    cdef int64_t c1 = p.w2.k, count = min(PIXELS, p.height * p.width - first), i, q, chunk = first // IMAGE_CHUNK
    cdef int64_t at = first % IMAGE_CHUNK
    cdef const float *x = NULL if p.x == NULL else p.x + chunk * p.chunk_step + at
    cdef const float *scale = NULL if p.scale == NULL else p.scale + chunk * p.image_step + at
    cdef float *z = take(&free, 4 * c1 * PIXELS)
    cdef float *middle = take(&free, c1 * PIXELS)
    cdef float *fine = take(&free, p.w2.m * PIXELS)
    cdef float *drawn = take(&free, 16 * p.masks * PIXELS)  # (masks, 4, 4, PIXELS)
    cdef float *panels = take(&free, panel_floats(&p.w2))
    if p.basis != NULL:
        pack_map_columns(p.rows.u, p.rows.k, PIXELS, p.basis + chunk * p.image_step + at, p.stride, free)
        map_product(&p.rows, free, PIXELS, x, p.map_step, z, PIXELS)
    else:
        for i in range(4 * c1):
            memcpy(z + i * PIXELS, x + i * p.map_step, count * sizeof(float))
            memset(z + i * PIXELS + count, 0, (PIXELS - count) * sizeof(float))
    for i in range(4):
        u.norm_columns(middle, PIXELS, z + i * c1 * PIXELS, PIXELS, c1, PIXELS, scale,
                       NULL if p.shift == NULL else p.shift + i * c1, p.norm_weight, p.norm_bias, p.eps, ACT_GELU)
        pack_map_columns(u, c1, PIXELS, middle, PIXELS, panels)
        map_product(&p.w2, panels, PIXELS, NULL, 0, fine, PIXELS)
        for q in range(4):
            u.draw_columns(drawn + (4 * (2 * (i >> 1) + (q >> 1)) + 2 * (i & 1) + (q & 1)) * PIXELS, 16 * PIXELS,
                           fine + q * p.c2 * PIXELS, PIXELS, p.c2, PIXELS, p.b2, p.hyper, p.masks)
    for i in range(p.masks * 4):
        spread_line(p, drawn + i * 4 * PIXELS, first, count, i)


cdef inline void spread_line(const upscale_pass *p, const float *drawn, int64_t first, int64_t count, int64_t line) noexcept nogil:
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
