"""The image's tokens as a prompt of many tokens updates them: the channels that the heads mix are the basis.

As in two_way.pyx, but where 8·tokens are more than the channels, little is to be had from what a prompt's tokens make of the
update's constants: the constants are the products' rows, and the image's keys, values and next queries are computed, of a chunk.
`mobilesam/low_rank.py` has the algebra.
"""

from typing import NamedTuple

import numpy as np

from cython.parallel cimport parallel, prange
from libc.math cimport sqrtf
from libc.string cimport memcpy

from chunks cimport *
from common cimport *

from mobilesam.kernels import check, memory
from mobilesam.kernels import isa as isas
from mobilesam.kernels.project import check_maps
from mobilesam.kernels.threads import resolve

cdef const runtime *rt = shared_runtime()

cdef enum:
    PIXELS = 32  # of a block, whose maps, of all rows of a product, stay in L2 beside its operand


class MixedImage(NamedTuple):
    """An image of n tokens as updates have left it, but for what is its own: scale[n]·Σ_r basis[r, n]·rows[r].

    basis: (chunks, room, STRIDE), of which ``rank`` rows are filled, E an update and one between two; the rows are constants.
    scale: (chunks, 256), one over the deviations.
    queries: (chunks, E, 256), what the second update asks, and squares: (chunks, 256), what is known of its deviations; None
        after it.
    """

    n: int
    rank: int
    basis: np.ndarray
    scale: np.ndarray
    queries: np.ndarray | None
    squares: np.ndarray | None


cdef struct mixed_pass:
    asking_pass ask
    map_rows rows
    map_rows forms  # (e + 1, e), of a first update
    map_rows asked  # (8·asking, 2·e + 1), of a second update
    int64_t n, tokens, e, channels
    int64_t maps_step, pe_step, basis_step  # a chunk's floats
    const float *maps  # the update's own: e queries, what the basis' products are added to, e keys, e values
    const float *form_weights  # (e, 2)
    const float *squares
    const float *query_pe  # of the second update
    const float *key_pe
    const float *keys  # (tokens, e)
    const float *values
    const float *bias  # (e)
    float *basis
    float *scale
    float *queries  # (chunks, e, IMAGE_CHUNK)
    float *second_squares  # (chunks, IMAGE_CHUNK)
    float between, eps


def update_image_mixed(maps, pe, update, keys, values, queries, before=None, *, channels=256, eps=1e-5, threads=None):
    """As :func:`update_image`, of one prompt of many tokens.

    Args:
        maps, pe, channels, eps: as there.
        update: a :class:`mobilesam.mixed.MixedUpdate`, whose rows have the ISA.
        keys, values: (T, E) float32, the prompt's tokens; keys scaled.
        queries: (T2, E) float32, scaled, of the attention to the result.
        before: the MixedImage that the first of two updates made, which the second continues, in its own memory; else None.

    Returns:
        (MixedImage, attended): attended (T2, E) float32 are the attention's heads, concatenated.
    """
    cdef int nthreads = resolve(threads)
    cdef mixed_pass p
    rows, own = update.rows, update.update
    keys = check.array(keys, "keys", ("T", own.value_bias.shape[0]))
    values = check.array(values, "values", keys.shape)
    queries = check.array(queries, "queries", ("T2", keys.shape[1]))
    cdef int64_t e = keys.shape[1], chunks = maps.data.shape[0], unit
    if (before is None) != (own.query_rows is None) or (before is not None and before.rank != e):
        raise ValueError(f"before: expected an image for the second of two updates, and for that alone, got {before!r}")
    first = before is None  # which reads more, for the second
    check.array(rows.rows, "update.rows", (3 * e, e) if first else (e, 2 * e + 1))
    check_maps(maps, pe, own.squares + 1 + first, own.pe_at + (3 if first else 2) * e, () if first else (before,))
    p.rows = as_map_rows(rt, rows)
    cdef const micro *u = p.rows.u
    cdef const float[:, ::1] kv = keys, vv = values, qv = queries, value_rows = own.value_rows
    cdef const float[::1] bias = own.value_bias
    p.n, p.tokens, p.e, p.channels, p.eps, p.between = maps.n, keys.shape[0], e, channels, eps, update.between
    p.keys, p.values, p.bias = &kv[0, 0], &vv[0, 0], &bias[0]
    p.ask.asking, p.ask.e, p.ask.rank = queries.shape[0], e, 0 if before is None else 2 * e + 1
    p.ask.columns, p.ask.queries = round_up(HEADS * p.ask.asking, u.nr), &qv[0, 0]
    p.ask.values, p.ask.value_wide = &value_rows[0, 0], value_rows.shape[1]
    image = set_image(&p, maps, pe, update, before)
    kept = None if before is None else folded_rows(u, &p.asked, p.ask.asking, e, p.ask.queries, own.key_rows, p.ask.rank)

    room = asked_room(&p.ask, sizeof(p), 1, chunks)
    cdef size_t size = sizeof(float) * (first_floats(&p) if before is None else second_floats(&p))
    cdef float *scratch
    cdef int failed = 0
    with nogil, parallel(num_threads=nthreads):
        scratch = <float *>rt.scratch(size)
        for unit in prange(chunks, schedule="dynamic"):
            if scratch == NULL:
                failed += 1
            elif p.ask.rank == 0:
                first_chunk(u, &p, unit, unit + nthreads if unit + nthreads < chunks else 0, scratch)
            else:
                second_chunk(u, &p, unit, unit + nthreads if unit + nthreads < chunks else 0, scratch)
    if failed:
        raise MemoryError(f"update_image_mixed: no memory for {size} bytes of scratch")
    return image, combined(u, &p.ask, sizeof(p), room, bias, nthreads)[0]


cdef set_image(mixed_pass *p, maps, pe, update, before):
    """The image that the pass will fill, and where it reads the maps."""
    cdef int64_t chunks = maps.data.shape[0], e = p.e
    scale = memory.empty((chunks, IMAGE_CHUNK))
    if before is None:
        basis, squares = memory.empty((chunks, 2 * e + 1, STRIDE)), memory.empty((chunks, IMAGE_CHUNK))
        queries = memory.empty((chunks, e, IMAGE_CHUNK))
    else:
        basis, queries, squares = before.basis, before.queries, before.squares
    cdef const float[:, :, ::1] mv = maps.data, ev = pe.data
    cdef const float[:, ::1] form_weights
    own = update.update
    cdef int64_t at = own.at, own_squares = own.squares, pe_at = own.pe_at
    cdef float[:, :, ::1] bv = basis, qv = queries
    cdef float[:, ::1] sv = scale, nv = squares
    p.maps_step, p.pe_step, p.basis_step = mv.shape[1] * IMAGE_CHUNK, ev.shape[1] * IMAGE_CHUNK, bv.shape[1] * STRIDE
    p.maps, p.squares, p.key_pe = &mv[0, at, 0], &mv[0, own_squares, 0], &ev[0, pe_at + e, 0]
    p.query_pe = &ev[0, pe_at + 2 * e, 0] if before is None else NULL
    p.basis, p.scale, p.queries, p.second_squares = &bv[0, 0, 0], &sv[0, 0], &qv[0, 0, 0], &nv[0, 0]
    if before is None:
        if update.forms.isa != update.rows.isa:
            raise ValueError(f"update.forms: packed for ISA {isas.name_of(update.forms.isa)}, but update.rows "
                             f"for {isas.name_of(update.rows.isa)}")
        check.array(update.forms.rows, "update.forms", (e + 1, e))
        form_weights = check.array(update.form_weights, "update.form_weights", (e, 2))
        p.forms, p.form_weights = as_map_rows(rt, update.forms), &form_weights[0, 0]
        return MixedImage(p.n, e, basis, scale, queries, squares)
    return MixedImage(p.n, 2 * e + 1, basis, scale, None, None)


cdef void mix_tokens(const micro *u, const mixed_pass *p, const float *queries, float *y, float *weights, const float *with_scores,
                     const float *with_sums, int64_t maps) noexcept nogil:
    """y (e, STRIDE) of a chunk: what each head mixes of the tokens' values; ``weights`` has tokens rows.

    What will be read next: e maps at ``with_scores``, and so many at ``with_sums``.
    """
    cdef int64_t d = p.e // HEADS, h
    cdef gemm_args scores = new_gemm(p.tokens, IMAGE_CHUNK, d), mixed = new_gemm(d, IMAGE_CHUNK, p.tokens)
    scores.lda, scores.ldb, scores.panel, scores.y, scores.ldy = p.e, IMAGE_CHUNK, u.nr, weights, STRIDE
    mixed.lda, mixed.step, mixed.b, mixed.ldb, mixed.panel, mixed.ldy = 1, p.e, weights, STRIDE, u.nr, STRIDE
    for h in range(HEADS):
        scores.a, scores.b = p.keys + h * d, queries + h * d * IMAGE_CHUNK
        fetch_with(&scores, with_scores, h * d * IMAGE_CHUNK, d * IMAGE_CHUNK)
        u.gemm(&scores)
        u.softmax_columns(weights, STRIDE, p.tokens, IMAGE_CHUNK)
        mixed.a, mixed.y = p.values + h * d, y + h * d * STRIDE
        fetch_with(&mixed, with_sums, h * (maps // HEADS) * IMAGE_CHUNK, maps // HEADS * IMAGE_CHUNK)
        u.gemm(&mixed)


cdef int64_t first_floats(const mixed_pass *p) noexcept nogil:
    return ((max(p.tokens, p.ask.asking) + 2 * p.e) * STRIDE + (p.rows.m + p.forms.m) * PIXELS
            + panels_of(&p.rows, PIXELS) + 80)


cdef int64_t second_floats(const mixed_pass *p) noexcept nogil:
    return (p.tokens + p.e + p.ask.columns) * STRIDE + IMAGE_CHUNK * p.ask.columns + panels_of(&p.rows, IMAGE_CHUNK) + 96


cdef int64_t panels_of(const map_rows *rows, int64_t pixels) noexcept nogil:
    return pixels // rows.u.weight.columns * panel_words(rows.u, rows.k, False)


cdef void first_chunk(const micro *u, const mixed_pass *p, int64_t chunk, int64_t next_chunk, float *free) noexcept nogil:
    """Softmax over the tokens, the deviations, keys and values of the next attention, and its sums over these image tokens."""
    cdef int64_t e = p.e, count = min(IMAGE_CHUNK, p.n - chunk * IMAGE_CHUNK), i
    cdef float *weights = take(&free, max(p.tokens, p.ask.asking) * STRIDE)
    cdef float *keys = take(&free, 2 * e * STRIDE)
    cdef const float *maps = p.maps + chunk * p.maps_step
    cdef const float *own = p.squares + chunk * p.maps_step
    cdef float *basis = p.basis + chunk * p.basis_step
    cdef float *scale = p.scale + chunk * IMAGE_CHUNK
    cdef float *squares = p.second_squares + chunk * IMAGE_CHUNK
    cdef next_maps after
    mix_tokens(u, p, maps, basis, weights, maps + 5 * e * IMAGE_CHUNK, p.key_pe + chunk * p.pe_step, 2 * e)
    memcpy(scale, own, IMAGE_CHUNK * sizeof(float))
    memcpy(squares, own + IMAGE_CHUNK, IMAGE_CHUNK * sizeof(float))
    u.dot_columns(scale, basis, STRIDE, maps + e * IMAGE_CHUNK, IMAGE_CHUNK, e, IMAGE_CHUNK)
    u.dot_columns(squares, basis, STRIDE, maps + 5 * e * IMAGE_CHUNK, IMAGE_CHUNK, e, IMAGE_CHUNK)
    for i in range(IMAGE_CHUNK // PIXELS):
        first_block(u, p, chunk, i * PIXELS, keys + i * PIXELS, free)
    after.with_scores = after.with_sums = after.last = NULL
    if next_chunk:
        maps = p.maps + next_chunk * p.maps_step
        after.with_scores, after.with_sums, after.last = maps + e * IMAGE_CHUNK, maps, maps + (e - e // HEADS) * IMAGE_CHUNK
    ask_maps(u, &p.ask, chunk, count, keys, keys + e * STRIDE, STRIDE, weights, &after)


cdef void first_block(const micro *u, const mixed_pass *p, int64_t chunk, int64_t at, float *keys, float *free) noexcept nogil:
    """All that is asked of a block's basis, by products with the constants; keys and values (2·e, STRIDE)."""
    cdef int64_t e = p.e, i
    cdef float *basis = p.basis + chunk * p.basis_step + at
    cdef float *between = basis + e * STRIDE
    cdef float *scale = p.scale + chunk * IMAGE_CHUNK + at
    cdef float *squares = p.second_squares + chunk * IMAGE_CHUNK + at
    cdef const float *maps = p.maps + chunk * p.maps_step + at + 2 * e * IMAGE_CHUNK
    cdef const float *own_between = maps + 4 * e * IMAGE_CHUNK
    cdef const float *query_pe = p.query_pe + chunk * p.pe_step + at
    cdef const float *key_pe = p.key_pe + chunk * p.pe_step + at
    cdef float *linear = take(&free, p.rows.m * PIXELS)  # e keys, e values, e queries
    cdef float *forms = take(&free, p.forms.m * PIXELS)
    pack_map_columns(u, e, PIXELS, basis, STRIDE, free)
    map_product(&p.forms, free, PIXELS, NULL, 0, forms, PIXELS)
    map_product(&p.rows, free, PIXELS, maps, IMAGE_CHUNK, linear, PIXELS)
    u.square_columns(scale, squares, forms, PIXELS, p.form_weights, e, PIXELS)
    forms += e * PIXELS
    for i in range(PIXELS):
        between[i] = sqrtf(max(scale[i], 0) / p.channels + p.eps)
        scale[i] = 1 / between[i]
        squares[i] += between[i] * (own_between[i] + forms[i] + p.between * between[i])
    u.scale_columns(keys, STRIDE, linear, PIXELS, e, PIXELS, scale, key_pe, IMAGE_CHUNK)
    u.scale_columns(keys + e * STRIDE, STRIDE, linear + e * PIXELS, PIXELS, e, PIXELS, scale, NULL, 0)
    u.scale_columns(p.queries + chunk * e * IMAGE_CHUNK + at, IMAGE_CHUNK, linear + 2 * e * PIXELS, PIXELS, e, PIXELS, scale,
                    query_pe, IMAGE_CHUNK)


cdef void second_chunk(const micro *u, const mixed_pass *p, int64_t chunk, int64_t next_chunk, float *free) noexcept nogil:
    """Softmax over the tokens, the deviations, scores of the next attention, and its sums over these image tokens."""
    cdef int64_t e = p.e, rank = p.ask.rank, count = min(IMAGE_CHUNK, p.n - chunk * IMAGE_CHUNK), i
    cdef const float *maps = p.maps + chunk * p.maps_step
    cdef float *basis = p.basis + chunk * p.basis_step
    cdef float *new = basis + (e + 1) * STRIDE
    cdef float *between = basis + e * STRIDE
    cdef float *scale = p.scale + chunk * IMAGE_CHUNK
    cdef float *weights = take(&free, p.tokens * STRIDE)
    cdef float *linear = take(&free, e * STRIDE)
    cdef float *scores = take(&free, p.ask.columns * STRIDE)
    cdef float *turned = take(&free, IMAGE_CHUNK * p.ask.columns + u.nr)
    mix_tokens(u, p, p.queries + chunk * e * IMAGE_CHUNK, new, weights, basis, NULL, 0)
    u.scale_columns(new, STRIDE, new, STRIDE, e, IMAGE_CHUNK, between, NULL, 0)
    pack_map_columns(u, rank, IMAGE_CHUNK, basis, STRIDE, free)
    map_product(&p.rows, free, IMAGE_CHUNK, maps + rank * IMAGE_CHUNK, IMAGE_CHUNK, linear, STRIDE, maps + (e + rank) * IMAGE_CHUNK,
                2 * e * IMAGE_CHUNK)
    memcpy(scale, p.second_squares + chunk * IMAGE_CHUNK, IMAGE_CHUNK * sizeof(float))
    u.dot_columns(scale, new, STRIDE, linear, STRIDE, e, IMAGE_CHUNK)
    for i in range(IMAGE_CHUNK):
        scale[i] = 1 / sqrtf(max(scale[i], 0) / p.channels + p.eps * between[i] * between[i])
    map_product(&p.asked, free, IMAGE_CHUNK, NULL, 0, scores, STRIDE, p.key_pe + chunk * p.pe_step, e * IMAGE_CHUNK)
    maps += (e + rank) * IMAGE_CHUNK
    heads(u, p.ask.asking, e, p.ask.queries, maps, IMAGE_CHUNK, True, scores)
    u.scale_columns(scores, STRIDE, scores, STRIDE, HEADS * p.ask.asking, IMAGE_CHUNK, scale, NULL, 0)
    heads(u, p.ask.asking, e, p.ask.queries, p.key_pe + chunk * p.pe_step, IMAGE_CHUNK, True, scores)
    ask_basis(u, &p.ask, chunk, count, scores, scale, maps + e * IMAGE_CHUNK, basis, STRIDE, turned,
              p.queries + next_chunk * e * IMAGE_CHUNK, e * IMAGE_CHUNK if next_chunk else 0)
