"""The image's tokens as a prompt of many tokens updates them: the channels that the heads mix are the basis.

As in low_rank_update.pyx, but where 8·tokens are more than the channels, little is to be had from what a prompt's tokens make of the
update's constants: the constants are the products' rows, and the image's keys, values and next queries are computed, of a chunk.
`mobilesam/network/low_rank.py` has the algebra.
"""

from typing import NamedTuple

import numpy as np

from cython.parallel cimport parallel, prange
from libc.math cimport sqrtf
from libc.string cimport memcpy

from decoder.chunks cimport *
from core.common cimport *

from mobilesam.kernels.core import check, memory
from mobilesam.kernels.core import isa as isas
from mobilesam.kernels.decoder.image_maps import check_maps
from mobilesam.kernels.core.threads import resolve

cdef const runtime *rt = shared_runtime()

cdef enum:
    PIXELS = 32  # of a block, whose maps, of all rows of a product, stay in L1 or L2 beside its operand; whole panels


class MixedImage(NamedTuple):
    """An image of n tokens as updates have left it, but for what is its own: scale[n]·Σ_r basis[r, n]·rows[r].

    data: (chunks, 3·E + 3, STRIDE): of each chunk first the scale, one over the deviations; the basis, of which ``rank`` rows are
        filled, E an update and one between two; then, between the updates, what is known of the second's deviations and, in panels,
        the E queries that it asks. The rows are constants.
    """

    n: int
    rank: int
    data: np.ndarray


cdef struct mixed_pass:
    asking_pass ask
    map_rows rows
    map_rows forms  # (e + 1, e), of a first update
    map_rows asked  # (8·asking, 2·e + 1), of a second update
    int64_t n, tokens, e, channels
    int64_t maps_step, pe_step, image_step  # a chunk's floats
    const float *maps  # the update's own: e queries, what the basis' products are added to, e keys, e values
    const float *form_weights  # (e, 2)
    const float *squares
    const float *query_pe  # of the second update
    const float *key_pe
    const float *keys  # (tokens, e)
    const float *values
    const float *key_rows  # (e, key_wide), of a second update
    int64_t key_wide
    float *image
    float between, eps


def update_image_mixed(maps, pe, update, keys, values, queries, before=None, *, channels=256, eps=1e-5, queue=None, threads=None):
    """As :func:`update_image`, of one prompt of many tokens.

    Args:
        maps, pe, channels, eps, queue: as there.
        update: a :class:`mobilesam.kernels.MixedUpdate`, whose rows have the ISA.
        keys, values: (T, E) float32, the prompt's tokens; keys scaled.
        queries: (T2, E) float32, scaled, of the attention to the result.
        before: the MixedImage that the first of two updates made, which the second continues, in its own memory; else None.

    Returns:
        (MixedImage, attended): attended (T2, E) float32 are the attention's heads, concatenated.
    """
    cdef int nthreads = resolve(threads)
    rows, own = update.rows, update.update
    later = queue is not None
    keys = check.array(keys, "keys", ("T", own.value_bias.shape[0]), later=later)
    values = check.array(values, "values", keys.shape, later=later)
    queries = check.array(queries, "queries", ("T2", keys.shape[1]), later=later)
    cdef int64_t e = keys.shape[1]
    if before is not None:
        check.instance(before, "before", MixedImage)
    if (before is None) != (own.query_rows is None) or (before is not None and before.rank != e):
        raise ValueError(f"before: expected an image for the second of two updates, and for that alone, got {before!r}")
    first = before is None  # which reads more, for the second
    check.array(rows.rows, "update.rows", (3 * e, e) if first else (e, 2 * e + 1))
    check_maps(maps, pe, own.squares + 1 + first, own.pe_at + (3 if first else 2) * e, () if first else (before,))
    y = np.empty(queries.shape, np.float32)
    cdef const float[:, ::1] kv = keys, vv = values, qv = queries, value_rows = own.value_rows
    cdef const float[::1] bias = own.value_bias
    cdef float[:, ::1] yv = y
    storage = np.zeros(sizeof(mixed_pass), np.uint8)
    cdef uint8_t[::1] bytes = storage
    cdef mixed_pass *p = <mixed_pass *>&bytes[0]
    p.rows = as_map_rows(rt, rows)
    p.n, p.tokens, p.e, p.channels, p.eps, p.between = maps.n, kv.shape[0], e, channels, eps, update.between
    p.keys, p.values = &kv[0, 0], &vv[0, 0]
    p.ask.asking, p.ask.e, p.ask.rank = qv.shape[0], e, 0 if first else 2 * e + 1
    p.ask.columns = round_up(HEADS * qv.shape[0], p.rows.u.nr)
    p.ask.queries, p.ask.values, p.ask.value_wide = &qv[0, 0], &value_rows[0, 0], value_rows.shape[1]
    p.ask.bias, p.ask.y = &bias[0], &yv[0, 0]
    set_maps(p, maps, pe, own)
    set_constants(p, update)
    image = set_image(p, before)
    do_work("update_image_mixed", update_mixed, storage, (maps, pe, update, keys, values, queries, image, y), queue, nthreads)
    return image, y


cdef set_maps(mixed_pass *p, maps, pe, own):
    """Where the image's maps are that the update reads."""
    cdef const float[:, :, ::1] mv = maps.data, ev = pe.data
    cdef int64_t at = own.at, squares = own.squares, pe_at = own.pe_at
    p.maps_step, p.pe_step = mv.shape[1] * IMAGE_CHUNK, ev.shape[1] * IMAGE_CHUNK
    p.maps, p.squares, p.key_pe = &mv[0, at, 0], &mv[0, squares, 0], &ev[0, pe_at + p.e, 0]
    p.query_pe = NULL if p.ask.rank else &ev[0, pe_at + 2 * p.e, 0]


cdef set_constants(mixed_pass *p, update):
    cdef const float[:, ::1] view
    if p.ask.rank:
        view = update.update.key_rows
        p.key_rows, p.key_wide = &view[0, 0], view.shape[1]
        return
    if update.forms.isa != update.rows.isa:
        raise ValueError(f"update.forms: packed for ISA {isas.name_of(update.forms.isa)}, but update.rows "
                         f"for {isas.name_of(update.rows.isa)}")
    check.array(update.forms.rows, "update.forms", (p.e + 1, p.e))
    view = check.array(update.form_weights, "update.form_weights", (p.e, 2), later=True)
    p.forms, p.form_weights = as_map_rows(rt, update.forms), &view[0, 0]


cdef set_image(mixed_pass *p, before):
    """The image that the pass will fill."""
    cdef int64_t room = 3 * p.e + 3
    shape = (p.n + IMAGE_CHUNK - 1) // IMAGE_CHUNK, room, STRIDE
    data = memory.empty(shape) if before is None else check.array(before.data, "before.data", shape, later=True)
    cdef float[:, :, ::1] dv = data
    p.image, p.image_step = &dv[0, 0, 0], room * STRIDE
    return MixedImage(p.n, p.ask.rank or p.e, data)


cdef size_t update_mixed(void *storage, int nthreads) noexcept nogil:
    cdef mixed_pass *p = <mixed_pass *>storage
    cdef const micro *u = p.rows.u
    cdef int64_t chunks = (p.n + IMAGE_CHUNK - 1) // IMAGE_CHUNK, unit
    cdef size_t size = sizeof(float) * (second_floats(p) if p.ask.rank else first_floats(p))
    cdef size_t room = sizeof(float) * (asked_floats(&p.ask, chunks) + folded_floats(u, p.ask.asking, p.key_wide, p.ask.rank))
    cdef float *free = <float *>rt.room(room)
    if free == NULL:
        return room
    take_asked(&p.ask, chunks, &free)
    if p.ask.rank:
        folded_rows(u, &p.asked, p.ask.asking, p.e, p.ask.queries, p.key_rows, p.key_wide, p.ask.rank, &free)
    cdef float *scratch
    cdef int failed = 0
    with parallel(num_threads=nthreads):
        scratch = <float *>rt.scratch(size)
        for unit in prange(chunks, schedule="dynamic"):
            if scratch == NULL:
                failed += 1
            elif p.ask.rank == 0:
                first_chunk(u, p, unit, unit + nthreads if unit + nthreads < chunks else 0, scratch)
            else:
                second_chunk(u, p, unit, unit + nthreads if unit + nthreads < chunks else 0, scratch)
    if failed:
        return size
    combine(u, &p.ask, sizeof(mixed_pass), 1, chunks, nthreads)
    return 0


cdef inline float *image_rows(const mixed_pass *p, int64_t chunk, int64_t row) noexcept nogil:
    """Of a chunk of the image, from a row on."""
    return p.image + chunk * p.image_step + row * STRIDE


cdef inline float *scale_of(const mixed_pass *p, int64_t chunk) noexcept nogil:
    return image_rows(p, chunk, 0)


cdef inline float *basis_of(const mixed_pass *p, int64_t chunk) noexcept nogil:
    return image_rows(p, chunk, 1)


cdef inline float *squares_of(const mixed_pass *p, int64_t chunk) noexcept nogil:
    """What is known of the second update's deviations."""
    return image_rows(p, chunk, 2 * p.e + 2)


cdef inline float *queries_of(const mixed_pass *p, int64_t chunk) noexcept nogil:
    """What the second update asks, (e, nr) of each panel."""
    return image_rows(p, chunk, 2 * p.e + 3)


cdef void mix_tokens(const micro *u, const mixed_pass *p, const float *queries, int64_t ldq, int64_t panel, float *y, float *weights,
                     const float *ahead) noexcept nogil:
    """y (e, STRIDE) of a chunk: what each head mixes of the tokens' values, by queries (e, ldq) in panels.

    weights has tokens rows. Fetched are e maps at ``ahead``, and the rows of y before they are written.
    """
    cdef int64_t d = p.e // HEADS, h
    cdef gemm_args scores = new_gemm(p.tokens, IMAGE_CHUNK, d), mixed = new_gemm(d, IMAGE_CHUNK, p.tokens)
    scores.lda, scores.ldb, scores.panel, scores.y, scores.ldy = p.e, ldq, panel, weights, STRIDE
    mixed.lda, mixed.step, mixed.b, mixed.ldb, mixed.panel, mixed.ldy = 1, p.e, weights, STRIDE, u.nr, STRIDE
    for h in range(HEADS):
        scores.a, scores.b = p.keys + h * d, queries + h * d * ldq
        fetch_with(&scores, ahead, h * d * IMAGE_CHUNK, d * IMAGE_CHUNK)
        u.gemm(&scores)
        u.softmax_columns(weights, STRIDE, p.tokens, IMAGE_CHUNK)
        mixed.a, mixed.y = p.values + h * d, y + h * d * STRIDE
        fetch_with(&mixed, y, (h + 1) * d * STRIDE, d * STRIDE if h < HEADS - 1 else 0)
        u.gemm(&mixed)


cdef int64_t first_floats(const mixed_pass *p) noexcept nogil:
    return (max(p.tokens, p.ask.asking) + 2 * p.e + 1) * STRIDE + p.rows.m * PIXELS + panels_of(&p.rows, IMAGE_CHUNK) + 96


cdef int64_t second_floats(const mixed_pass *p) noexcept nogil:
    return (p.tokens + p.e + p.ask.columns) * STRIDE + IMAGE_CHUNK * p.ask.columns + panels_of(&p.rows, IMAGE_CHUNK) + 96


cdef int64_t panels_of(const map_rows *rows, int64_t pixels) noexcept nogil:
    return pixels // rows.u.weight.columns * panel_words(rows.u, rows.k, False)


cdef void first_chunk(const micro *u, const mixed_pass *p, int64_t chunk, int64_t next_chunk, float *free) noexcept nogil:
    """Softmax over the tokens, the deviations, keys and values of the next attention, and its sums over these image tokens."""
    cdef int64_t e = p.e, count = min(IMAGE_CHUNK, p.n - chunk * IMAGE_CHUNK), i
    cdef float *weights = take(&free, max(p.tokens, p.ask.asking) * STRIDE)
    cdef float *keys = take(&free, (2 * e + 1) * STRIDE)  # and values; before them, what makes squares
    cdef float *linear = take(&free, p.rows.m * PIXELS)
    cdef const float *maps = p.maps + chunk * p.maps_step
    cdef float *basis = basis_of(p, chunk)
    cdef next_maps after
    mix_tokens(u, p, maps, IMAGE_CHUNK, u.nr, basis, weights, maps + 5 * e * IMAGE_CHUNK)
    pack_map_columns(u, e, IMAGE_CHUNK, basis, STRIDE, free)
    map_product(&p.forms, free, IMAGE_CHUNK, NULL, 0, keys, STRIDE, p.key_pe + chunk * p.pe_step, 2 * e * IMAGE_CHUNK)
    set_deviations(u, p, chunk, keys)
    for i in range(IMAGE_CHUNK // PIXELS):
        first_block(u, p, chunk, i * PIXELS, free + i * panels_of(&p.rows, PIXELS), keys + i * PIXELS, linear)
    after.with_scores = after.with_sums = after.last = NULL
    if next_chunk:
        maps = p.maps + next_chunk * p.maps_step
        after.with_scores, after.with_sums, after.last = maps + e * IMAGE_CHUNK, maps, maps + (e - e // HEADS) * IMAGE_CHUNK
    ask_maps(u, &p.ask, chunk, count, keys, keys + e * STRIDE, STRIDE, weights, &after)


cdef void set_deviations(const micro *u, const mixed_pass *p, int64_t chunk, const float *forms) noexcept nogil:
    """The scale, the basis' row between the updates, and what is known of the second one's deviations; forms (e + 1, STRIDE)."""
    cdef int64_t e = p.e, i
    cdef const float *own = p.squares + chunk * p.maps_step
    cdef const float *maps = p.maps + chunk * p.maps_step
    cdef const float *own_between = maps + 6 * e * IMAGE_CHUNK
    cdef float *scale = scale_of(p, chunk)
    cdef float *squares = squares_of(p, chunk)
    cdef float *basis = basis_of(p, chunk)
    cdef float *between = basis + e * STRIDE
    memcpy(scale, own, IMAGE_CHUNK * sizeof(float))
    memcpy(squares, own + IMAGE_CHUNK, IMAGE_CHUNK * sizeof(float))
    u.dot_columns(scale, basis, STRIDE, maps + e * IMAGE_CHUNK, IMAGE_CHUNK, e, IMAGE_CHUNK)
    u.dot_columns(squares, basis, STRIDE, maps + 5 * e * IMAGE_CHUNK, IMAGE_CHUNK, e, IMAGE_CHUNK)
    u.square_columns(scale, squares, forms, STRIDE, p.form_weights, e, IMAGE_CHUNK)
    forms += e * STRIDE
    for i in range(IMAGE_CHUNK):
        between[i] = sqrtf(max(scale[i], 0) / p.channels + p.eps)
        scale[i] = 1 / between[i]
        squares[i] += between[i] * (own_between[i] + forms[i] + p.between * between[i])


cdef void first_block(const micro *u, const mixed_pass *p, int64_t chunk, int64_t at, const float *panels, float *keys,
                      float *linear) noexcept nogil:
    """A block's keys and values (2·e, STRIDE), and the second update's queries, in panels as its products take them."""
    cdef int64_t e = p.e, i
    cdef const float *scale = scale_of(p, chunk) + at
    cdef const float *key_pe = p.key_pe + chunk * p.pe_step + at
    cdef const float *query_pe = p.query_pe + chunk * p.pe_step + at
    map_product(&p.rows, panels, PIXELS, p.maps + chunk * p.maps_step + 2 * e * IMAGE_CHUNK + at, IMAGE_CHUNK, linear, PIXELS,
                queries_of(p, chunk) + at * e, e * PIXELS)
    u.scale_columns(keys, STRIDE, linear, PIXELS, e, PIXELS, scale, key_pe, IMAGE_CHUNK)
    linear += e * PIXELS
    u.scale_columns(keys + e * STRIDE, STRIDE, linear, PIXELS, e, PIXELS, scale, NULL, 0)
    linear += e * PIXELS
    cdef int64_t panel
    for i in range(PIXELS // u.nr):
        panel = i * u.nr
        u.scale_columns(queries_of(p, chunk) + (at + panel) * e, u.nr, linear + panel, PIXELS, e, u.nr, scale + panel,
                        query_pe + panel, IMAGE_CHUNK)


cdef void second_chunk(const micro *u, const mixed_pass *p, int64_t chunk, int64_t next_chunk, float *free) noexcept nogil:
    """Softmax over the tokens, the deviations, scores of the next attention, and its sums over these image tokens."""
    cdef int64_t e = p.e, rank = p.ask.rank, count = min(IMAGE_CHUNK, p.n - chunk * IMAGE_CHUNK), i
    cdef const float *maps = p.maps + chunk * p.maps_step
    cdef float *basis = basis_of(p, chunk)
    cdef float *new = basis + (e + 1) * STRIDE
    cdef float *between = basis + e * STRIDE
    cdef float *scale = scale_of(p, chunk)
    cdef float *weights = take(&free, p.tokens * STRIDE)
    cdef float *linear = take(&free, e * STRIDE)
    cdef float *scores = take(&free, p.ask.columns * STRIDE)
    cdef float *turned = take(&free, IMAGE_CHUNK * p.ask.columns + u.nr)
    mix_tokens(u, p, queries_of(p, chunk), u.nr, e * u.nr, new, weights, basis)
    u.scale_columns(new, STRIDE, new, STRIDE, e, IMAGE_CHUNK, between, NULL, 0)
    pack_map_columns(u, rank, IMAGE_CHUNK, basis, STRIDE, free)
    map_product(&p.rows, free, IMAGE_CHUNK, maps + rank * IMAGE_CHUNK, IMAGE_CHUNK, linear, STRIDE, maps + (e + rank) * IMAGE_CHUNK,
                2 * e * IMAGE_CHUNK)
    memcpy(scale, squares_of(p, chunk), IMAGE_CHUNK * sizeof(float))
    u.dot_columns(scale, new, STRIDE, linear, STRIDE, e, IMAGE_CHUNK)
    for i in range(IMAGE_CHUNK):
        scale[i] = 1 / sqrtf(max(scale[i], 0) / p.channels + p.eps * between[i] * between[i])
    map_product(&p.asked, free, IMAGE_CHUNK, NULL, 0, scores, STRIDE, p.key_pe + chunk * p.pe_step, e * IMAGE_CHUNK)
    maps += (e + rank) * IMAGE_CHUNK
    heads(u, p.ask.asking, e, p.ask.queries, maps, IMAGE_CHUNK, True, scores)
    u.scale_columns(scores, STRIDE, scores, STRIDE, HEADS * p.ask.asking, IMAGE_CHUNK, scale, NULL, 0)
    heads(u, p.ask.asking, e, p.ask.queries, p.key_pe + chunk * p.pe_step, IMAGE_CHUNK, True, scores)
    ask_basis(u, &p.ask, chunk, count, scores, scale, maps + e * IMAGE_CHUNK, basis, STRIDE, turned,
              queries_of(p, next_chunk), e * IMAGE_CHUNK if next_chunk else 0)
