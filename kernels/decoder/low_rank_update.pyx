"""An image's tokens as a prompt updates them, in low rank: `docs/decoder` derives the form, `mobilesam/network/low_rank.py` has the
constants.

Image tokens lie along the vectors, in chunks of IMAGE_CHUNK that stay in L2: a chunk of a map, of a softmax over the tokens or of
scores is some rows of IMAGE_CHUNK image tokens. A head's scores are products 16 deep of the tokens' queries and its rows of a map.
Chunks do not depend on the number of threads: each one's softmax is whole, and they are added in order.
"""

from typing import NamedTuple

from libc.math cimport sqrtf

from decoder.chunks cimport *

from mobilesam.kernels.core import check
from mobilesam.kernels.decoder.recorder import Array

import_runtime()

cdef enum:
    PARTS = 4  # units of `compose` for a prompt


class UpdatedImage(NamedTuple):
    """Prompts' images as updates have left them, without x's own part: scale[n]·Σ_r basis[r, n]·rows[r] of image token n.

    data: Array (P, chunks, rank of two updates + 2, STRIDE): of each chunk first the scale, one over the deviations, and then the basis,
        of which ``rank`` rows are filled.
    values: Array (P, T, E) of each update, which the rows are made of.
    last: after the second update two Arrays, (P, OC, rank), the products of the basis' rows with the layer that follows, and their
        operand; else None.
    """

    n: int
    rank: int
    data: Array
    values: tuple[Array, ...]
    last: tuple[Array, Array] | None


# The rows of a basis: 8·tokens for each update, row h·tokens + i of head h and token i; between two updates one row, σ₁.
cdef struct basis_form:
    int64_t tokens, e, updates, rows
    const float *values[2]  # (prompts, tokens, e)


cdef inline int64_t rank(int64_t updates, int64_t inner) noexcept nogil:
    """Rows of a basis: ``inner`` for each update, and one between two updates."""
    return updates * inner + updates - 1


cdef void fold_basis(const micro *u, const basis_form *b, int64_t updates, const float *rows, int64_t n, float *y,
                     int64_t ldy) noexcept nogil:
    """y (rank, n): the values of the first updates through their rows; n are whole panels."""
    cdef int64_t i, r = b.rows
    for i in range(updates):
        fold(u, b.tokens, b.e, b.values[i], rows + i * (b.e + 1) * n, n, y + i * (r + 1) * ldy, ldy)
    if updates == 2:
        memcpy(y + r * ldy, rows + b.e * n, n * sizeof(float))


cdef void unfold(const micro *u, const basis_form *b, int64_t updates, int64_t m, const float *x, int64_t ldx, float *y, int64_t ldy,
                 float *turned, float *unfolded) noexcept nogil:
    """y (m, rank) = x (m, ldx) · the basis' rows of the first updates, as the basis' rows · xᵀ: of few tokens, whole panels."""
    cdef int64_t n = round_up(m, u.nr)
    u.transpose(turned, n, x, ldx, m, rank(updates, b.e))
    fold_basis(u, b, updates, turned, n, unfolded, n)
    u.transpose(y, ldy, unfolded, n, rank(updates, b.rows), m)


cdef struct update_job:
    basis_form form
    asking_job ask
    int64_t n, rank, before  # before: rows of the basis that were there
    int64_t maps_step, pe_step, image_step  # a chunk's floats
    const float *query_map
    const float *linear_map
    const float *key_map
    const float *value_map
    const float *squares
    const float *query_pe  # NULL in a first update
    const float *key_pe
    const float *keys  # (prompts, tokens, e)
    # the update's constants, `wide` floats a row of gram
    const float *gram_rows
    const float *query_rows
    const float *key_rows
    const float *value_rows
    const float *last_basis  # (e·updates + updates - 1, last.m), NULL in a first update
    int64_t wide, query_wide, key_wide
    # what each prompt's tokens make of the constants
    float *composed_gram  # (rank, rank); `compose` moves a second update's first `before` rows together, (before, before)
    float *composed_values  # (rank + 1, value_wide); a row more, as panels are read whole
    # what makes maps of the basis; rows and operands of each prompt
    map_rows old_keys  # (8·tokens, before), the last column zeros
    map_rows gram_before  # (before, before)
    map_rows gram  # (rows, rank), of the rows that are new
    map_rows asked  # (8·asking, rank)
    map_rows last  # (OC, rank)
    float *image  # (prompts, chunks, rank of two updates + 2, STRIDE): the scale, and the basis
    float eps
    int64_t channels, nthreads
    # scratch of a chunk
    float *linear  # (rank, STRIDE)
    float *scores  # (columns, STRIDE)
    float *turned  # (IMAGE_CHUNK, columns)
    float *panels
    # scratch of what is composed
    float *folded
    float *turned_rows
    float *unfolded


def update_image(plan, maps, pe, update, keys, values, queries, before=None, *, channels=256, eps=1e-5):
    """Image tokens attend to prompt tokens; then the prompts' next tokens attend to the changed image.

    The change is kept as a basis of few rows.

    For several prompts at once, which do not depend on one another: a chunk of the image's maps is read for all.

    Args:
        plan: a Recorder.
        maps, pe: Maps of the image and of the positional encoding; see :class:`mobilesam.network.low_rank.LowRank`.
        update: a :class:`mobilesam.kernels.Update`.
        keys, values: Arrays (P, T, E) of P prompts' tokens; keys scaled by d^−½.
        queries: Array (P, T2, E), scaled, of the attention to the result.
        before: the UpdatedImage of the first of two updates, which the second continues, in its own memory; else None.
        channels: C of the image's tokens.

    Returns:
        (UpdatedImage, Array (P, T2, E)): the attention's heads, concatenated.

    Source: ``cross_attn_image_to_token`` and ``cross_attn_token_to_image`` in the reference's modeling/transformer.py.
    """
    cdef update_job p
    cdef const float[:, ::1] gram = update.gram, key_rows = update.key_rows, value_rows = update.value_rows, query_rows, last_basis
    cdef const float[::1] bias = update.value_bias
    e = update.value_bias.shape[0]
    plan.check(keys, "keys", ("P", "T", e))
    plan.check(values, "values", keys.shape)
    plan.check(queries, "queries", (keys.shape[0], "T2", e))
    plan.check_maps(maps, "maps", None)
    plan.check_maps(pe, "pe", None, maps.n)
    if maps.channels < max(update.squares + 1, update.at + 3 * e + update.gram.shape[0]) or pe.channels < update.pe_at + 2 * e:
        raise ValueError(f"maps: expected {update.squares + 1} of the image and {update.pe_at + 2 * e} of its pe, got {maps.channels} and "
                         f"{pe.channels}")
    if (before is None) != (update.query_rows is None):
        raise ValueError(f"before: expected an UpdatedImage for the second of two updates, and for that alone, got {before!r}")
    if before is not None:
        check.instance(before, "before", UpdatedImage)
        if before.n != maps.n or [part.shape for part in before.values] != [values.shape]:
            raise ValueError(f"before: expected an image of {maps.n} tokens and one update by {values.shape[1]} tokens, got {before!r}")
    memset(&p, 0, sizeof(p))
    cdef int64_t second = before is not None, r = HEADS * keys.shape[1], asking = HEADS * queries.shape[1], i
    prompts = keys.shape[0]
    p.form.tokens, p.form.e, p.form.updates, p.form.rows = keys.shape[1], e, 1 + second, r
    p.before, p.rank, p.n, p.eps, p.channels, p.nthreads = r + 1 if second else 0, rank(1 + second, r), maps.n, eps, channels, plan.threads
    p.maps_step, p.pe_step = maps.array.shape[1] * IMAGE_CHUNK, pe.array.shape[1] * IMAGE_CHUNK
    p.image_step = (rank(2, r) + 2) * STRIDE
    p.gram_rows, p.wide, p.key_rows, p.key_wide, p.value_rows = &gram[0, 0], gram.shape[1], &key_rows[0, 0], key_rows.shape[1], &value_rows[0, 0]
    composed_values = plan.array(prompts, p.rank + 1, value_rows.shape[1])
    asked_arrays = new_asking(plan, &p.ask, queries, composed_values, p.rank, maps.n)
    p.ask.bias = &bias[0]
    data = before.data if second else plan.array(prompts, chunks_of(maps.n), rank(2, r) + 2, STRIDE)
    every = (*before.values, values) if second else (values,)
    pointers = []
    point_asking(pointers, &p, &p.ask, asked_arrays)
    point(pointers, &p, &p.keys, keys)
    for i in range(len(every)):
        point(pointers, &p, &p.form.values[i], every[i])
    at, basis_rows, squares, pe_at = update.at, update.gram.shape[0], update.squares, update.pe_at
    point(pointers, &p, &p.query_map, maps.array, (maps.first + at) * IMAGE_CHUNK)
    point(pointers, &p, &p.linear_map, maps.array, (maps.first + at + e) * IMAGE_CHUNK)
    point(pointers, &p, &p.key_map, maps.array, (maps.first + at + e + basis_rows) * IMAGE_CHUNK)
    point(pointers, &p, &p.value_map, maps.array, (maps.first + at + 2 * e + basis_rows) * IMAGE_CHUNK)
    point(pointers, &p, &p.squares, maps.array, (maps.first + squares) * IMAGE_CHUNK)
    point(pointers, &p, &p.key_pe, pe.array, (pe.first + pe_at + e) * IMAGE_CHUNK)
    point(pointers, &p, &p.image, data)
    composed_gram = plan.array(prompts, p.rank, p.rank)
    point(pointers, &p, &p.composed_gram, composed_gram)
    point(pointers, &p, &p.composed_values, composed_values)
    writes = [composed_gram, composed_values]
    last = None
    if second:
        query_rows = update.query_rows
        last_basis = check.in_place(update.last_basis, "update.last_basis", (rank(2, e), "OC"))
        if last_basis.shape[1] % PANEL:
            raise ValueError(f"update.last_basis: expected a multiple of {PANEL} columns, got {last_basis.shape[1]}")
        p.query_rows, p.query_wide, p.last_basis = &query_rows[0, 0], query_rows.shape[1], &last_basis[0, 0]
        point(pointers, &p, &p.query_pe, pe.array, (pe.first + pe_at) * IMAGE_CHUNK)
        writes += point_rows(plan, pointers, &p, &p.old_keys, r, p.before, plan.array(prompts, r, p.before))
        writes += point_rows(plan, pointers, &p, &p.gram_before, p.before, p.before, composed_gram)
        last = point_rows(plan, pointers, &p, &p.last, last_basis.shape[1], p.rank, plan.array(prompts, last_basis.shape[1], p.rank))
        writes += last
    writes += point_rows(plan, pointers, &p, &p.gram, r, p.rank, composed_gram, p.before * p.rank)
    writes += point_rows(plan, pointers, &p, &p.asked, asking, p.rank, plan.array(prompts, asking, p.rank))
    plan.keep(update)
    record(plan, compose, compose_layout, &p, sizeof(p), PARTS * prompts, pointers, writes)
    _, _, _, top, sum_, mixed, _ = asked_arrays
    record(plan, update_chunk, chunk_layout, &p, sizeof(p), p.ask.chunks, pointers, [data, top, sum_, mixed])
    return UpdatedImage(maps.n, p.rank, data, every, None if last is None else tuple(last)), record_totals(plan, &p.ask, asked_arrays)


cdef list point_rows(plan, list pointers, const update_job *job, map_rows *field, int64_t m, int64_t k, rows, int64_t at=0):
    """The job's field is to have the rows (m, k) of each prompt, from an element of an array on. Returns the arrays that composing
    them writes."""
    field.u, field.m, field.k, field.lda = &rt.tables[<int>plan.table], m, k, k
    operand = plan.array(rows.shape[0], max(1, operand_floats_of(field.u, m, k)))
    point(pointers, job, &field.a, rows, at)
    point(pointers, job, &field.operand, operand)
    return [rows, operand]


cdef void move_rows(map_rows *rows, int64_t i, int64_t step) noexcept nogil:
    """To prompt i's; ``step``: floats from one prompt's rows to the next."""
    rows.a += i * step
    rows.operand = <float *>rows.operand + i * max(1, operand_floats_of(rows.u, rows.m, rows.k))


cdef update_job update_of(const update_job *p, int64_t i) noexcept nogil:
    """The job with prompt i as its first."""
    cdef update_job own = p[0]
    cdef int64_t inner = p.form.tokens * p.form.e, j
    own.ask = asking_of(&p.ask, i)
    own.keys = p.keys + i * inner
    for j in range(p.form.updates):
        own.form.values[j] = p.form.values[j] + i * inner
    own.composed_gram, own.image = p.composed_gram + i * p.rank * p.rank, p.image + i * p.ask.chunks * p.image_step
    own.composed_values = p.composed_values + i * (p.rank + 1) * p.ask.value_wide
    move_rows(&own.gram, i, p.rank * p.rank)
    move_rows(&own.asked, i, own.asked.m * p.rank)
    if p.before:
        move_rows(&own.old_keys, i, own.old_keys.m * p.before)
        move_rows(&own.gram_before, i, p.rank * p.rank)
        move_rows(&own.last, i, own.last.m * p.rank)
    return own


cdef void compose_layout(void *job, arena *scratch) noexcept nogil:
    cdef update_job *p = <update_job *>job
    cdef const micro *u = p.ask.u
    cdef int64_t asking = HEADS * p.ask.asking, n = round_up(max(p.rank, asking), u.nr)
    p.folded = take_floats(scratch, max(p.rank * max(p.wide, p.last.m), max(p.form.rows * p.query_wide, asking * p.key_wide)))
    p.turned_rows = take_floats(scratch, rank(p.form.updates, p.form.e) * n)
    p.unfolded = take_floats(scratch, p.rank * n)


cdef void compose(void *job, int64_t unit) noexcept nogil:
    """One of PARTS of what a prompt's tokens make of the update's constants, what takes longest first."""
    cdef update_job own = update_of(<const update_job *>job, unit // PARTS)
    cdef update_job *p = &own
    cdef const micro *u = p.ask.u
    cdef basis_form *b = &p.form
    cdef int64_t r = b.rows, asking = HEADS * p.ask.asking, part = unit % PARTS, i
    cdef float *y
    if part == 0:
        fold_basis(u, b, b.updates, p.gram_rows, p.wide, p.folded, p.wide)
        unfold(u, b, b.updates, p.rank, p.folded, p.wide, p.composed_gram, p.rank, p.turned_rows, p.unfolded)
        pack_map_rows(&p.gram)
        for i in range(p.before):
            memmove(p.composed_gram + i * p.before, p.composed_gram + i * p.rank, p.before * sizeof(float))
        if p.before:
            pack_map_rows(&p.gram_before)
    elif part == 1 and p.last_basis != NULL:
        fold_basis(u, b, b.updates, p.last_basis, p.last.m, p.folded, p.last.m)
        u.transpose(<float *>p.last.a, p.rank, p.folded, p.last.m, p.rank, p.last.m)
        pack_map_rows(&p.last)
    elif part == 2:
        fold(u, p.ask.asking, b.e, p.ask.queries, p.key_rows, p.key_wide, p.folded, p.key_wide)
        unfold(u, b, b.updates, asking, p.folded, p.key_wide, <float *>p.asked.a, p.rank, p.turned_rows, p.unfolded)
        pack_map_rows(&p.asked)
        fold_basis(u, b, b.updates, p.value_rows, p.ask.value_wide, p.composed_values, p.ask.value_wide)
    elif part == 3 and p.before:
        y = <float *>p.old_keys.a
        fold(u, b.tokens, b.e, p.keys, p.query_rows, p.query_wide, p.folded, p.query_wide)
        unfold(u, b, 1, r, p.folded, p.query_wide, y, p.before, p.turned_rows, p.unfolded)
        for i in range(r):
            y[i * p.before + p.before - 1] = 0  # the second update's queries do not depend on σ₁
        pack_map_rows(&p.old_keys)


cdef void chunk_layout(void *job, arena *scratch) noexcept nogil:
    cdef update_job *p = <update_job *>job
    cdef const micro *u = p.ask.u
    p.linear = take_floats(scratch, p.rank * STRIDE)
    p.scores = take_floats(scratch, p.ask.columns * STRIDE)
    p.turned = take_floats(scratch, IMAGE_CHUNK * p.ask.columns)
    p.panels = take_floats(scratch, IMAGE_CHUNK // u.weight.columns * panel_words(u, p.rank, False))


cdef void update_chunk(void *job, int64_t unit) noexcept nogil:
    """A chunk of every prompt's, while the maps' rows are in L2: the first prompt's pass brings them there ahead of their use."""
    cdef const update_job *p = <const update_job *>job
    cdef update_job own
    cdef int64_t i
    for i in range(p.ask.prompts):
        own = update_of(p, i)
        update_prompt(&own, unit, i == 0, unit + p.nthreads if i == p.ask.prompts - 1 and unit + p.nthreads < p.ask.chunks else 0)


cdef void dense(const map_rows *rows, const float *panels, float *y, const float *ahead, int64_t maps) noexcept nogil:
    """y (m, IMAGE_CHUNK) = rows · the packed basis; ``maps`` maps of a chunk at ``ahead`` will be read next."""
    cdef gemm_args g = of_maps(rows, panels, IMAGE_CHUNK)
    g.y, g.ldy = y, STRIDE
    fetch_with(&g, ahead, 0, maps * IMAGE_CHUNK)
    map_product(rows, &g)


cdef void update_prompt(const update_job *p, int64_t chunk, bint fetches, int64_t next_chunk) noexcept nogil:
    """Softmax over the tokens, the deviations, scores of the next attention, and its sums over these image tokens.

    fetches: whether products prefetch the maps that the next steps read. next_chunk: where not 0, the last product prefetches the
    first maps of that chunk.
    """
    cdef const micro *u = p.ask.u
    cdef int64_t t = p.form.tokens, e = p.form.e, r = p.form.rows, asking = HEADS * p.ask.asking, i
    cdef int64_t count = min(IMAGE_CHUNK, p.n - chunk * IMAGE_CHUNK), at_maps = chunk * p.maps_step, at_pe = chunk * p.pe_step
    cdef float *scale = p.image + chunk * p.image_step
    cdef float *basis = scale + STRIDE
    cdef float *new = basis + p.before * STRIDE
    cdef float *before = basis + (p.before - 1) * STRIDE  # the deviations that the first update's sums are divided by
    cdef const float *linear_map = p.linear_map + at_maps
    cdef int64_t fetched = e if fetches else 0
    cdef float *linear = p.linear
    cdef float *scores = p.scores
    cdef dot_columns_args squares
    if p.before:
        pack_map_columns(u, p.before, IMAGE_CHUNK, basis, STRIDE, p.panels)
        dense(&p.old_keys, p.panels, new, p.query_pe + at_pe, fetched)
        dense(&p.gram_before, p.panels, linear, linear_map + e * IMAGE_CHUNK, fetched)
        heads(u, t, e, p.keys, p.query_map + at_maps, IMAGE_CHUNK, True, new)
        u.scale_columns(new, STRIDE, r, IMAGE_CHUNK, scale)
        heads(u, t, e, p.keys, p.query_pe + at_pe, IMAGE_CHUNK, True, new)
    else:
        heads(u, t, e, p.keys, p.query_map + at_maps, IMAGE_CHUNK, False, new)
    softmax_heads(u, t, new)
    if p.before:
        u.scale_columns(new, STRIDE, r, IMAGE_CHUNK, before)
        heads(u, t, e, p.form.values[0], linear_map, IMAGE_CHUNK, True, linear)
        u.add(linear + r * STRIDE, linear + r * STRIDE, linear_map + e * IMAGE_CHUNK, IMAGE_CHUNK)
        linear_map += (e + 1) * IMAGE_CHUNK
    pack_map_columns(u, p.rank, IMAGE_CHUNK, basis, STRIDE, p.panels)
    dense(&p.gram, p.panels, linear + p.before * STRIDE, p.key_map + at_maps, 2 * fetched)
    heads(u, t, e, p.form.values[p.form.updates - 1], linear_map, IMAGE_CHUNK, True, linear + p.before * STRIDE)
    memcpy(scale, p.squares + at_maps, IMAGE_CHUNK * sizeof(float))
    squares.m, squares.n, squares.a, squares.lda, squares.b, squares.ldb = p.rank, IMAGE_CHUNK, basis, STRIDE, linear, STRIDE
    squares.y = scale
    u.dot_columns(&squares)
    for i in range(IMAGE_CHUNK):
        scale[i] = 1 / sqrtf(max(scale[i], 0) / p.channels + p.eps * (before[i] * before[i] if p.before else 1))
    if not p.before:
        for i in range(IMAGE_CHUNK):
            new[r * STRIDE + i] = 1 / scale[i]

    dense(&p.asked, p.panels, scores, p.key_pe + at_pe, fetched)
    heads(u, p.ask.asking, e, p.ask.queries, p.key_map + at_maps, IMAGE_CHUNK, True, scores)
    u.scale_columns(scores, STRIDE, asking, IMAGE_CHUNK, scale)
    heads(u, p.ask.asking, e, p.ask.queries, p.key_pe + at_pe, IMAGE_CHUNK, True, scores)
    ask_basis(&p.ask, chunk, count, scores, scale, p.value_map + at_maps, basis, p.turned,
              p.query_map + next_chunk * p.maps_step, 2 * e * IMAGE_CHUNK if next_chunk else 0)
