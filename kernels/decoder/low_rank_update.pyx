"""The image's tokens as a prompt updates them, which are never made: `mobilesam/network/low_rank.py` says what of them there is instead.

Image tokens lie along the vectors, in chunks that stay in L2: a chunk of an image's map, of softmax over the tokens or of scores
is some rows of IMAGE_CHUNK image tokens. A head's scores are products 16 deep of the tokens' queries and its rows of a map.
"""

from typing import NamedTuple

import numpy as np

from cython.parallel cimport parallel, prange
from libc.math cimport sqrtf
from libc.string cimport memcpy, memmove

from decoder.chunks cimport *
from core.common cimport *

from mobilesam.kernels.core import check, memory
from mobilesam.kernels.core import isa as isas
from mobilesam.kernels.decoder.image_maps import MapRows, check_maps
from mobilesam.kernels.core.threads import resolve

cdef const runtime *rt = shared_runtime()

# Chunks never depend on the threads: each one's softmax is whole, and they combine in order.

cdef enum:
    PARTS = 4  # of what is composed for a prompt, by any threads


class UpdatedImage(NamedTuple):
    """An image of n tokens as updates have left it, but for what is its own: scale[n]·Σ_r basis[r, n]·rows[r].

    data: (chunks, room, STRIDE): of each chunk first the scale, one over the deviations, and then the basis, of which ``rank`` rows
        are filled.
    values: (T, E) of each update, which the rows are made of.
    rows: MapRows (OC, rank), what is asked of them at the end; None before.
    """

    n: int
    rank: int
    data: np.ndarray
    values: tuple[np.ndarray, ...]
    rows: MapRows | None


# The rows of a basis, 8·tokens for each update, h·tokens + i of token i and head h; between two updates another.
cdef struct basis_form:
    int64_t tokens, e, updates, rows
    const float *values[2]  # (tokens, e)


cdef inline int64_t rank(int64_t updates, int64_t inner) noexcept nogil:
    """Rows of a basis of updates by ``inner`` values each."""
    return updates * inner + updates - 1


cdef void fold_basis(const micro *u, const basis_form *b, int64_t updates, const float *rows, int64_t n, float *y,
                     int64_t ldy) noexcept nogil:
    """y (rank, n): the values of the first updates through their rows; n are whole panels."""
    cdef int64_t i, r = b.rows
    for i in range(updates):
        fold(u, b.tokens, b.e, b.values[i], rows + i * (b.e + 1) * n, n, y + i * (r + 1) * ldy, ldy)
    if updates == 2:
        memcpy(y + r * ldy, rows + b.e * n, n * sizeof(float))


cdef int64_t unfold_floats(const micro *u, const basis_form *b, int64_t m) noexcept nogil:
    return (rank(b.updates, b.e) + rank(b.updates, b.rows)) * round_up(m, u.nr) + 32


cdef void unfold(const micro *u, const basis_form *b, int64_t updates, int64_t m, const float *x, int64_t ldx, float *y,
                 int64_t ldy, float *free) noexcept nogil:
    """y (m, rank) = x (m, ldx) · the basis' rows of the first updates, as the basis' rows · xᵀ: of few tokens, whole panels."""
    cdef int64_t n = round_up(m, u.nr)
    cdef float *turned = take(&free, rank(updates, b.e) * n)
    u.transpose(turned, n, x, ldx, m, rank(updates, b.e))
    fold_basis(u, b, updates, turned, n, free, n)
    u.transpose(y, ldy, free, n, rank(updates, b.rows), m)


cdef struct update_pass:
    basis_form form
    asking_pass ask
    int64_t n, rank, before  # before: rows of the basis that were there
    int64_t maps_step, pe_step, image_step  # a chunk's floats
    const float *query_map
    const float *linear_map
    const float *key_map
    const float *value_map
    const float *squares
    const float *query_pe  # NULL in a first update
    const float *key_pe
    const float *keys  # (tokens, e)
    # the update's constants, `wide` floats a row of gram, and what the prompt's tokens make of them
    const float *gram_rows
    const float *query_rows
    const float *key_rows
    const float *value_rows
    const float *last_basis  # (e·updates + updates - 1, last.m), NULL in a first update
    int64_t wide, query_wide, key_wide
    float *composed_gram
    float *composed_asked
    float *composed_keys
    float *composed_values
    # of these, whose rows make maps of the basis, the operands
    map_rows old_keys  # (8·tokens, before), the last column zeros
    map_rows gram_before  # (before, before)
    map_rows gram  # (rows, rank), of the rows that are new
    map_rows asked  # (8·asking, rank)
    map_rows last  # (OC, rank)
    float *composed_last
    float *image  # the scale, (rank + 1, STRIDE) of the basis, and more
    float eps
    int64_t channels


def update_image(maps, pe, update, keys, values, queries, before=None, *, channels=256, eps=1e-5, isa=None, queue=None,
                 threads=None):
    """An image's tokens attend to a prompt's, and what of them has changed; then the prompt's next tokens attend to them.

    For several prompts at once, whose answers do not depend on one another: a chunk of the image's maps is read for all.

    Args:
        maps: ImageMaps of the image, pe those of the positional encoding; see :class:`mobilesam.network.low_rank.LowRank`.
        update: a :class:`mobilesam.kernels.Update`.
        keys, values: (P, T, E) float32, of P prompts' tokens; keys scaled.
        queries: (P, T2, E) float32, scaled, of the attention to the result.
        before: the P UpdatedImages that the first of two updates made, which the second continues, in their own memory;
            else None.
        channels: C of the image's tokens.
        isa: the name of the ISA to run on; by default the one in force.
        queue: a Queue to leave the work to.

    Returns:
        (P UpdatedImages, attended): attended (P, T2, E) float32 are the attention's heads, concatenated.
    """
    cdef int nthreads = resolve(threads)
    later = queue is not None
    keys = check.array(keys, "keys", ("P", "T", update.value_bias.shape[0]), later=later)
    values = check.array(values, "values", keys.shape, later=later)
    queries = check.array(queries, "queries", (keys.shape[0], "T2", keys.shape[2]), later=later)
    for image in before or ():
        check.instance(image, "before", UpdatedImage)
    check_maps(maps, pe, update.squares + 1, update.pe_at + 2 * keys.shape[2], before or ())
    if (before is None) != (update.query_rows is None):
        raise ValueError(f"before: expected images for the second of two updates, and for that alone, got {before!r}")
    cdef int64_t prompts = keys.shape[0], i
    if before is not None and [[part.shape for part in image.values] for image in before] != [[values.shape[1:]]] * prompts:
        raise ValueError(f"values: expected those of as many prompts and tokens as the update before, got {values.shape}")
    table = isas.index(isa)
    y = np.empty(queries.shape, np.float32)
    cdef const float[:, :, ::1] kv = keys, qv = queries
    cdef float[:, :, ::1] yv = y
    storage = np.zeros(sizeof(update_call) + prompts * sizeof(update_pass), np.uint8)
    cdef uint8_t[::1] bytes = storage
    cdef update_call *call = <update_call *>&bytes[0]
    cdef update_pass *p = <update_pass *>(call + 1)
    call.u, call.prompts = &rt.tables[<int>table], prompts
    p.eps, p.channels, p.n = eps, channels, maps.n
    set_shapes(call.u, p, kv.shape[1], kv.shape[2], qv.shape[1], before is not None)
    set_maps(p, maps, pe, update)
    set_constants(p, update)
    images = []
    for i in range(prompts):
        if i:
            memcpy(&p[i], p, sizeof(update_pass))
        p[i].keys, p[i].ask.queries, p[i].ask.y = &kv[i, 0, 0], &qv[i, 0, 0], &yv[i, 0, 0]
        images.append(set_image(call.u, &p[i], values[i], None if before is None else before[i], update, table))
    do_work("update_image", update_images, storage, (maps, pe, update, keys, images, queries, y), queue, nthreads)
    return images, y


cdef struct update_call:  # and behind it, the prompts' passes
    const micro *u
    int64_t prompts


cdef void set_shapes(const micro *u, update_pass *p, int64_t tokens, int64_t e, int64_t asking, bint second) noexcept nogil:
    cdef int64_t r = HEADS * tokens
    p.form.tokens, p.form.e, p.form.updates, p.form.rows = tokens, e, 1 + second, r
    p.before, p.rank = r + 1 if second else 0, rank(p.form.updates, r)
    p.ask.asking, p.ask.e, p.ask.rank, p.ask.columns = asking, e, p.rank, round_up(HEADS * asking, u.nr)
    set_shape(&p.old_keys, u, r, p.before)
    set_shape(&p.gram_before, u, p.before, p.before)
    set_shape(&p.gram, u, r, p.rank)
    set_shape(&p.asked, u, HEADS * asking, p.rank)


cdef set_image(const micro *u, update_pass *p, values, before, update, isa):
    """A prompt's values and the UpdatedImage that its pass will fill, which is returned."""
    every = (values,) if before is None else (*before.values, values)
    cdef int64_t room = rank(2, p.form.rows) + 2, chunks = (p.n + IMAGE_CHUNK - 1) // IMAGE_CHUNK
    shape = chunks, room, STRIDE
    data = memory.empty(shape) if before is None else check.array(before.data, "before.data", shape, later=True)
    cdef const float[:, ::1] v0 = every[0], v1 = every[len(every) - 1]
    cdef float[:, :, ::1] dv = data
    p.form.values[0], p.form.values[1], p.image, p.image_step = &v0[0, 0], &v1[0, 0], &dv[0, 0, 0], room * STRIDE
    return UpdatedImage(p.n, p.rank, data, every, set_last(u, p, update.last_basis, isa))


cdef set_last(const micro *u, update_pass *p, last_basis, isa):
    """Room for what the constant ``last_basis`` is of the update's: MapRows, or None."""
    p.last_basis, p.last.m = NULL, 0
    if last_basis is None:
        return None
    check.array(last_basis, "update.last_basis", (rank(p.form.updates, p.form.e), "OC"))
    if last_basis.shape[1] % PANEL:
        raise ValueError(f"update.last_basis: expected a multiple of {PANEL} columns, got {last_basis.shape[1]}")
    cdef const float[:, ::1] lv = last_basis
    set_shape(&p.last, u, lv.shape[1], p.rank)
    made = MapRows(memory.empty((p.last.m, p.rank)), memory.empty((4 * operand_room(&p.last) + 1,), np.uint8), isa)
    cdef float[:, ::1] rv = made.rows
    cdef uint8_t[::1] ov = made.operand
    p.last_basis, p.composed_last, p.last.operand = &lv[0, 0], &rv[0, 0], &ov[0]
    return made


cdef set_maps(update_pass *p, maps, pe, update):
    """Where the image's maps are that the update reads."""
    cdef const float[:, :, ::1] mv = maps.data, ev = pe.data
    cdef int64_t e = p.form.e, at = update.at, basis_rows = update.gram.shape[0], pe_at = update.pe_at, squares = update.squares
    p.maps_step, p.pe_step = mv.shape[1] * IMAGE_CHUNK, ev.shape[1] * IMAGE_CHUNK
    p.query_map, p.linear_map = &mv[0, at, 0], &mv[0, at + e, 0]
    p.key_map, p.value_map = &mv[0, at + e + basis_rows, 0], &mv[0, at + 2 * e + basis_rows, 0]
    p.squares, p.key_pe = &mv[0, squares, 0], &ev[0, pe_at + e, 0]
    p.query_pe = &ev[0, pe_at, 0] if p.before else NULL


cdef set_constants(update_pass *p, update):
    cdef const float[:, ::1] gram = update.gram, key_rows = update.key_rows, value_rows = update.value_rows, query_rows
    cdef const float[::1] bias = update.value_bias
    p.gram_rows, p.wide = &gram[0, 0], gram.shape[1]
    p.key_rows, p.key_wide = &key_rows[0, 0], key_rows.shape[1]
    p.value_rows, p.ask.value_wide, p.ask.bias = &value_rows[0, 0], value_rows.shape[1], &bias[0]
    if p.before:
        query_rows = update.query_rows
        p.query_rows, p.query_wide = &query_rows[0, 0], query_rows.shape[1]


cdef int64_t room_floats(const update_pass *p, int64_t chunks) noexcept nogil:
    """For what a prompt's tokens make of the constants, and what they ask."""
    cdef int64_t r = p.form.rows, asking = HEADS * p.ask.asking
    return ((p.rank + asking) * p.rank + r * p.before + (p.rank + 1) * p.ask.value_wide + operand_room(&p.old_keys)
            + operand_room(&p.gram_before) + operand_room(&p.gram) + operand_room(&p.asked) + 128 + asked_floats(&p.ask, chunks))


cdef void take_room(update_pass *p, int64_t chunks, float **free) noexcept nogil:
    cdef int64_t asking = HEADS * p.ask.asking
    p.composed_gram, p.composed_asked = take(free, p.rank * p.rank), take(free, asking * p.rank)
    p.composed_keys = take(free, p.form.rows * p.before)
    p.composed_values = take(free, (p.rank + 1) * p.ask.value_wide)  # a row more, as panels are read whole
    p.ask.values = p.composed_values
    p.gram.operand, p.asked.operand = take(free, operand_room(&p.gram)), take(free, operand_room(&p.asked))
    p.old_keys.operand, p.gram_before.operand = take(free, operand_room(&p.old_keys)), take(free, operand_room(&p.gram_before))
    take_asked(&p.ask, chunks, free)


cdef size_t update_images(void *storage, int nthreads) noexcept nogil:
    cdef update_call *call = <update_call *>storage
    cdef const micro *u = call.u
    cdef update_pass *p = <update_pass *>(call + 1)
    cdef int64_t prompts = call.prompts, chunks = (p.n + IMAGE_CHUNK - 1) // IMAGE_CHUNK, columns = p.ask.columns, i, unit
    cdef size_t room = sizeof(float) * prompts * room_floats(p, chunks)
    cdef size_t size = sizeof(float) * max(composed_floats(u, p), (p.rank + columns) * STRIDE + IMAGE_CHUNK * columns + 256
                                        + IMAGE_CHUNK // u.weight.columns * panel_words(u, p.rank, False))
    cdef float *free = <float *>rt.room(room)
    if free == NULL:
        return room
    for i in range(prompts):
        take_room(&p[i], chunks, &free)
    cdef float *scratch
    cdef int failure = 0
    cdef int *failed = &failure  # a reduction would be of one loop
    with parallel(num_threads=nthreads):
        scratch = <float *>rt.scratch(size)
        for unit in prange(PARTS * prompts, schedule="dynamic"):
            if scratch == NULL:
                failed[0] = 1
            else:
                compose(u, &p[unit // PARTS], unit % PARTS, scratch)
        for unit in prange(chunks, schedule="dynamic"):
            if scratch == NULL:
                failed[0] = 1
            elif not failed[0]:
                update_chunks(u, p, prompts, unit, unit + nthreads if unit + nthreads < chunks else 0, scratch)
    if failure:
        return size
    combine(u, &p.ask, sizeof(update_pass), prompts, chunks, nthreads)
    return 0


cdef void set_shape(map_rows *rows, const micro *u, int64_t m, int64_t k) noexcept nogil:
    rows.u, rows.m, rows.k, rows.lda = u, m, k, k


cdef int64_t operand_room(const map_rows *rows) noexcept nogil:
    return operand_floats_of(rows.u, rows.m, rows.k)


cdef void set_rows(map_rows *rows, const float *a) noexcept nogil:
    """What ``a`` (m, k) holds, as the operand of products."""
    rows.a = a
    make_operand(rows, rows.operand)


cdef int64_t composed_floats(const micro *u, const update_pass *p) noexcept nogil:
    cdef int64_t asking = HEADS * p.ask.asking, folded = max(p.form.rows * p.query_wide, asking * p.key_wide)
    return max(p.rank * max(p.wide, p.last.m), folded) + unfold_floats(u, &p.form, max(p.rank, asking)) + 16


cdef void compose(const micro *u, update_pass *p, int64_t part, float *free) noexcept nogil:
    """One of PARTS of what a prompt's tokens make of the update's constants, what takes longest first."""
    cdef basis_form *b = &p.form
    cdef int64_t r = b.rows, asking = HEADS * p.ask.asking, i
    cdef float *folded
    if part == 0:
        folded = take(&free, p.rank * p.wide)
        fold_basis(u, b, b.updates, p.gram_rows, p.wide, folded, p.wide)
        unfold(u, b, b.updates, p.rank, folded, p.wide, p.composed_gram, p.rank, free)
        set_rows(&p.gram, p.composed_gram + p.before * p.rank)
        for i in range(p.before):
            memmove(p.composed_gram + i * p.before, p.composed_gram + i * p.rank, p.before * sizeof(float))
        if p.before:
            set_rows(&p.gram_before, p.composed_gram)
    elif part == 1 and p.last_basis != NULL:
        folded = take(&free, p.rank * p.last.m)
        fold_basis(u, b, b.updates, p.last_basis, p.last.m, folded, p.last.m)
        u.transpose(p.composed_last, p.rank, folded, p.last.m, p.rank, p.last.m)
        set_rows(&p.last, p.composed_last)
    elif part == 2:
        folded = take(&free, asking * p.key_wide)
        fold(u, p.ask.asking, b.e, p.ask.queries, p.key_rows, p.key_wide, folded, p.key_wide)
        unfold(u, b, b.updates, asking, folded, p.key_wide, p.composed_asked, p.rank, free)
        set_rows(&p.asked, p.composed_asked)
        fold_basis(u, b, b.updates, p.value_rows, p.ask.value_wide, p.composed_values, p.ask.value_wide)
    elif part == 3 and p.before:
        folded = take(&free, r * p.query_wide)
        fold(u, b.tokens, b.e, p.keys, p.query_rows, p.query_wide, folded, p.query_wide)
        unfold(u, b, 1, r, folded, p.query_wide, p.composed_keys, p.before, free)
        for i in range(r):
            p.composed_keys[i * p.before + p.before - 1] = 0  # the queries do not ask what lies between the updates
        set_rows(&p.old_keys, p.composed_keys)


cdef void dense(const map_rows *rows, const float *panels, float *y, const float *ahead, int64_t maps) noexcept nogil:
    """y (m, IMAGE_CHUNK) = rows · the packed basis; so many maps of a chunk at ``ahead`` will be read next."""
    map_product(rows, panels, IMAGE_CHUNK, NULL, 0, y, STRIDE, ahead, maps * IMAGE_CHUNK)


cdef void update_chunks(const micro *u, const update_pass *passes, int64_t prompts, int64_t chunk, int64_t next_chunk,
                        float *scratch) noexcept nogil:
    """A chunk of every prompt's, while the maps' rows are in L2: the first prompt's pass brings them there ahead of their use."""
    cdef int64_t i
    for i in range(prompts):
        update_chunk(u, &passes[i], chunk, i == 0, next_chunk if i == prompts - 1 else 0, scratch)


cdef void update_chunk(const micro *u, const update_pass *p, int64_t chunk, bint fetches, int64_t next_chunk,
                       float *free) noexcept nogil:
    """Softmax over the tokens, the deviations, scores of the next attention, and its sums over these image tokens.

    Products wait for no memory: they fetch what the steps between them read, where ``fetches``, and of ``next_chunk``, unless 0.
    """
    cdef int64_t t = p.form.tokens, e = p.form.e, r = p.form.rows, asking = HEADS * p.ask.asking, i
    cdef int64_t count = min(IMAGE_CHUNK, p.n - chunk * IMAGE_CHUNK), at_maps = chunk * p.maps_step, at_pe = chunk * p.pe_step
    cdef float *scale = p.image + chunk * p.image_step
    cdef float *basis = scale + STRIDE
    cdef float *new = basis + p.before * STRIDE
    cdef float *before = basis + (p.before - 1) * STRIDE  # the deviations that the first update's sums are divided by
    cdef const float *linear_map = p.linear_map + at_maps
    cdef int64_t fetched = e if fetches else 0
    cdef float *linear = take(&free, p.rank * STRIDE)
    cdef float *scores = take(&free, p.ask.columns * STRIDE)
    cdef float *turned = take(&free, IMAGE_CHUNK * p.ask.columns + u.nr)
    if p.before:
        pack_map_columns(u, p.before, IMAGE_CHUNK, basis, STRIDE, free)
        dense(&p.old_keys, free, new, p.query_pe + at_pe, fetched)
        dense(&p.gram_before, free, linear, linear_map + e * IMAGE_CHUNK, fetched)
        heads(u, t, e, p.keys, p.query_map + at_maps, IMAGE_CHUNK, True, new)
        u.scale_columns(new, STRIDE, new, STRIDE, r, IMAGE_CHUNK, scale, NULL, 0)
        heads(u, t, e, p.keys, p.query_pe + at_pe, IMAGE_CHUNK, True, new)
    else:
        heads(u, t, e, p.keys, p.query_map + at_maps, IMAGE_CHUNK, False, new)
    softmax_heads(u, t, new)
    if p.before:
        u.scale_columns(new, STRIDE, new, STRIDE, r, IMAGE_CHUNK, before, NULL, 0)
        heads(u, t, e, p.form.values[0], linear_map, IMAGE_CHUNK, True, linear)
        u.add(linear + r * STRIDE, linear + r * STRIDE, linear_map + e * IMAGE_CHUNK, IMAGE_CHUNK)
        linear_map += (e + 1) * IMAGE_CHUNK
    pack_map_columns(u, p.rank, IMAGE_CHUNK, basis, STRIDE, free)
    dense(&p.gram, free, linear + p.before * STRIDE, p.key_map + at_maps, 2 * fetched)
    heads(u, t, e, p.form.values[p.form.updates - 1], linear_map, IMAGE_CHUNK, True, linear + p.before * STRIDE)
    memcpy(scale, p.squares + at_maps, IMAGE_CHUNK * sizeof(float))
    u.dot_columns(scale, basis, STRIDE, linear, STRIDE, p.rank, IMAGE_CHUNK)
    for i in range(IMAGE_CHUNK):
        scale[i] = 1 / sqrtf(max(scale[i], 0) / p.channels + p.eps * (before[i] * before[i] if p.before else 1))
    if not p.before:
        for i in range(IMAGE_CHUNK):
            new[r * STRIDE + i] = 1 / scale[i]

    dense(&p.asked, free, scores, p.key_pe + at_pe, fetched)
    heads(u, p.ask.asking, e, p.ask.queries, p.key_map + at_maps, IMAGE_CHUNK, True, scores)
    u.scale_columns(scores, STRIDE, scores, STRIDE, asking, IMAGE_CHUNK, scale, NULL, 0)
    heads(u, p.ask.asking, e, p.ask.queries, p.key_pe + at_pe, IMAGE_CHUNK, True, scores)
    ask_basis(u, &p.ask, chunk, count, scores, scale, p.value_map + at_maps, basis, STRIDE, turned,
              p.query_map + next_chunk * p.maps_step, 2 * e * IMAGE_CHUNK if next_chunk else 0)
