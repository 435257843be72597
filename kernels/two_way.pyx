"""The image's tokens as a prompt updates them, which are never made: `mobilesam/low_rank.py` says what of them there is instead.

Image tokens lie along the vectors, in chunks that stay in L2: a chunk of an image's map, of softmax over the tokens or of scores
is some rows of IMAGE_CHUNK image tokens. A head's scores are products 16 deep of the tokens' queries and its rows of a map.
"""
from dataclasses import dataclass

import numpy as np

from cython.parallel cimport parallel, prange
from libc.math cimport sqrtf
from libc.string cimport memcpy, memmove, memset

from common cimport *

from mobilesam.kernels import check, memory
from mobilesam.kernels import isa as isas
from mobilesam.kernels.threads import resolve

cdef const runtime *rt = shared_runtime()

cdef int64_t HEADS = 8
# What every ISA's panels divide.
cdef int64_t PANEL = 32
# Chunks never depend on the threads: each one's softmax is whole, and they combine in order.
# The stride of rows that are written here: whole cache lines, odd in number, that L1's sets are all used.
cdef int64_t STRIDE = IMAGE_CHUNK + 16


@dataclass(frozen=True, slots=True)
class UpdatedImage:
    """An image of n tokens as updates have left it, but for what is its own: scale[n]·Σ_r basis[r, n]·rows[r].

    basis: (chunks, room, STRIDE), of which ``rank`` rows are filled; scale: (chunks, 256), one over the deviations.
    values: (T, E) of each update, which the rows are made of; see :func:`update_rows`.
    """

    n: int
    rank: int
    basis: np.ndarray
    scale: np.ndarray
    values: tuple[np.ndarray, ...]


# The rows of a basis, so many for each update, and between two updates another. For few tokens they are 8·t, row h·t + i of token
# i and head h, which go with the update's values. For more, ``mixed``, they are the e channels that the heads have mixed: the
# values are in them already, and what would be made of a prompt's tokens is the update's constants as they are.
cdef struct basis_form:
    int64_t tokens, e, updates, rows
    bint mixed
    const float *values[2]  # (tokens, e)
    float *turned[2]  # (e, columns)
    int64_t columns


cdef inline int64_t rank(int64_t updates, int64_t inner) noexcept nogil:
    """Rows of a basis of updates by ``inner`` values each."""
    return updates * inner + updates - 1


cdef void set_form(basis_form *b, int64_t tokens, int64_t e, int64_t updates) noexcept nogil:
    b.tokens, b.e, b.updates = tokens, e, updates
    b.mixed = HEADS * tokens > e
    b.rows = e if b.mixed else HEADS * tokens


cdef void fold(const micro *u, int64_t tokens, int64_t e, const float *values, const float *rows, int64_t n, float *y,
               int64_t ldy) noexcept nogil:
    """y[h·tokens + i] = Σ_j values[i, h·d + j]·rows[h·d + j], of (tokens, e) and (e, n): every head by itself."""
    cdef int64_t d = e // HEADS, h
    cdef gemm_args g
    g.m, g.n, g.k, g.segments, g.offset = tokens, n, d, 1, NULL
    g.lda, g.step, g.ldb, g.panel = e, 1, n, u.nr
    g.bias, g.residual, g.ldr, g.act, g.ldy = NULL, NULL, 0, ACT_NONE, ldy
    for h in range(HEADS):
        g.a, g.b, g.y = values + h * d, rows + h * d * n, y + h * tokens * ldy
        u.gemm(&g)


cdef void fold_basis(const micro *u, const basis_form *b, const float *rows, int64_t n, float *y, int64_t ldy) noexcept nogil:
    """y (rank, n): the values of every update through its rows."""
    cdef int64_t i, r = b.rows
    if b.mixed:
        for i in range(rank(b.updates, r)):
            memcpy(y + i * ldy, rows + i * n, n * sizeof(float))
        return
    for i in range(b.updates):
        fold(u, b.tokens, b.e, b.values[i], rows + i * (b.e + 1) * n, n, y + i * (r + 1) * ldy, ldy)
    if b.updates == 2:
        memcpy(y + r * ldy, rows + b.e * n, n * sizeof(float))


cdef void unfold(const micro *u, const basis_form *b, int64_t updates, int64_t m, const float *x, int64_t ldx, float *y,
                 int64_t ldy) noexcept nogil:
    """y (m, rank) = x (m, ldx) · the basis' rows of the first updates."""
    cdef int64_t d = b.e // HEADS, r = b.rows, i, h
    cdef gemm_args g
    if b.mixed:
        for i in range(m):
            memcpy(y + i * ldy, x + i * ldx, rank(updates, r) * sizeof(float))
        return
    g.m, g.n, g.k, g.segments, g.offset = m, b.tokens, d, 1, NULL
    g.lda, g.step, g.ldb, g.panel = ldx, 1, b.columns, u.nr
    g.bias, g.residual, g.ldr, g.act, g.ldy = NULL, NULL, 0, ACT_NONE, ldy
    for i in range(updates):
        for h in range(HEADS):
            g.a, g.b = x + i * (b.e + 1) + h * d, b.turned[i] + h * d * b.columns
            g.y = y + i * (r + 1) + h * b.tokens
            u.gemm(&g)
    if updates == 2:
        for i in range(m):
            y[i * ldy + r] = x[i * ldx + b.e]


cdef struct update_pass:
    basis_form form
    int64_t n, rank, before, asking, columns  # before: rows of the basis that were there; columns: 8·asking in whole panels
    int64_t maps_step, pe_step, basis_step  # a chunk's floats
    const float *query_map
    const float *linear_map
    const float *key_map
    const float *value_map
    const float *squares
    const float *query_pe  # NULL in a first update
    const float *key_pe
    const float *keys  # (tokens, e)
    const float *queries  # (asking, e)
    const float *scale_before
    # the update's constants, `wide` floats a row of gram, and what the prompt's tokens make of them
    const float *gram_rows
    const float *query_rows
    const float *key_rows
    const float *value_rows
    int64_t wide, query_wide, key_wide, value_wide
    float *room
    uint8_t *operands  # of these, whose rows make maps of the basis:
    map_rows old_keys  # (8·tokens, before), the last column zeros
    map_rows gram_before  # (before, before)
    map_rows gram  # (rows, rank), of the rows that are new
    map_rows asked  # (8·asking, rank)
    float *values  # (rank + 1, value_wide): the basis' rows as the attention's values
    float *basis  # (rank + 1, STRIDE) and more
    float *scale  # (IMAGE_CHUNK)
    float *top  # (chunks, columns)
    float *sum
    float *mixed  # (chunks, e / 8 + rank, columns)
    float eps
    int64_t channels


def update_image(maps, pe, update, keys, values, queries, before=None, *, channels=256, eps=1e-5, isa=None, threads=None):
    """An image's tokens attend to a prompt's, and what of them has changed; then the prompt's next tokens attend to them.

    For several prompts at once, whose answers do not depend on one another: a chunk of the image's maps is read for all.

    Args:
        maps: ImageMaps of the image, pe those of the positional encoding; see :class:`mobilesam.low_rank.LowRank`.
        update: a :class:`mobilesam.low_rank.Update`.
        keys, values: (P, T, E) float32, of P prompts' tokens; keys scaled.
        queries: (P, T2, E) float32, scaled, of the attention to the result.
        before: the P UpdatedImages that the first of two updates made, which the second continues, in their own memory;
            else None.
        channels: C of the image's tokens.
        isa: the name of the ISA to run on; by default the one in force.

    Returns:
        (P UpdatedImages, attended): attended (P, T2, E) float32 are the attention's heads, concatenated.
    """
    cdef int nthreads = resolve(threads)
    cdef const micro *u = &rt.tables[<int>isas.index(isa)]
    keys = check.array(keys, "keys", ("P", "T", update.value_bias.shape[0]))
    values = check.array(values, "values", keys.shape)
    queries = check.array(queries, "queries", (keys.shape[0], "T2", keys.shape[2]))
    cdef int64_t prompts = keys.shape[0], e = keys.shape[2], chunks = maps.data.shape[0], unit, i
    if maps.n != pe.n or maps.data.shape[1] <= update.squares or pe.data.shape[1] < update.pe_at + 2 * e:
        raise ValueError(f"maps: expected those of one image and of pe, for this update, got {maps.n} and {pe.n} tokens")
    if (before is None) != (update.query_rows is None):
        raise ValueError(f"before: expected images for the second of two updates, and for that alone, got {before!r}")
    if before is not None and [[part.shape for part in image.values] for image in before] != [[values.shape[1:]]] * prompts:
        raise ValueError(f"values: expected those of as many prompts and tokens as the update before, got {values.shape}")
    cdef uint8_t[::1] storage = np.zeros(prompts * sizeof(update_pass), np.uint8)
    cdef update_pass *passes = <update_pass *>&storage[0]
    cdef update_pass *p = passes
    images, kept = [], []
    for i in range(prompts):
        passes[i].eps, passes[i].channels = eps, channels
        images.append(set_tokens(u, &passes[i], maps, keys[i], values[i], queries[i], None if before is None else before[i]))
        set_maps(&passes[i], maps, pe, update)
        kept.append(set_constants(u, &passes[i], update))
    tops, sums = np.zeros((prompts, chunks, p.columns), np.float32), np.ones((prompts, chunks, p.columns), np.float32)
    mixed = memory.empty((prompts, chunks, e // HEADS + p.rank, p.columns))
    cdef float[:, :, ::1] tv = tops, uv = sums
    cdef float[:, :, :, ::1] xv = mixed
    for i in range(prompts):
        passes[i].top, passes[i].sum, passes[i].mixed = &tv[i, 0, 0], &uv[i, 0, 0], &xv[i, 0, 0, 0]

    cdef size_t size = sizeof(float) * ((p.rank + p.columns + (HEADS * p.form.tokens if p.form.mixed else 0)) * STRIDE + IMAGE_CHUNK * p.columns + 256
                                        + IMAGE_CHUNK // u.weight.columns * panel_words(u, p.rank, False))
    cdef float *scratch
    cdef int failed = 0
    with nogil, parallel(num_threads=nthreads):
        scratch = <float *>rt.scratch(size)
        for i in prange(prompts, schedule="dynamic"):
            compose(u, &passes[i])
        for unit in prange(chunks, schedule="dynamic"):
            if scratch == NULL:
                failed += 1
            else:
                update_chunks(u, passes, prompts, unit, scratch)
    if failed:
        raise MemoryError(f"update_image: no memory for {size} bytes of scratch")
    return images, combine(u, passes, tops, sums, mixed, update.value_bias)


cdef set_tokens(const micro *u, update_pass *p, maps, keys, values, queries, before):
    """A prompt's side of the pass. Returns the UpdatedImage that it will fill."""
    every = (values,) if before is None else (*before.values, values)
    cdef int64_t chunks = maps.data.shape[0], tokens = keys.shape[0]
    p.n, p.asking = maps.n, queries.shape[0]
    p.before = 0 if before is None else before.rank + 1
    set_form(&p.form, tokens, keys.shape[1], len(every))
    p.rank = p.before + p.form.rows
    p.columns = round_up(HEADS * p.asking, u.nr)
    basis = memory.empty((chunks, rank(2, p.form.rows) + 1, STRIDE)) if before is None else before.basis
    scale = memory.empty((chunks, IMAGE_CHUNK))
    p.form.columns = round_up(tokens, u.nr)
    cdef const float[:, ::1] kv = keys, qv = queries, v0 = every[0], v1 = every[len(every) - 1], before_
    cdef float[:, :, ::1] bv = basis
    cdef float[:, ::1] sv = scale
    p.keys, p.queries, p.form.values[0], p.form.values[1] = &kv[0, 0], &qv[0, 0], &v0[0, 0], &v1[0, 0]
    p.basis, p.scale, p.basis_step, p.scale_before = &bv[0, 0, 0], &sv[0, 0], bv.shape[1] * STRIDE, NULL
    if before is not None:
        before_ = before.scale
        p.scale_before = &before_[0, 0]
    return UpdatedImage(p.n, p.rank, basis, scale, every)


cdef set_maps(update_pass *p, maps, pe, update):
    """Where the image's maps are that the update reads."""
    cdef const float[:, :, ::1] mv = maps.data, ev = pe.data
    cdef int64_t e = p.form.e, at = update.at, basis_rows = update.gram.shape[0], pe_at = update.pe_at, squares = update.squares
    p.maps_step, p.pe_step = mv.shape[1] * IMAGE_CHUNK, ev.shape[1] * IMAGE_CHUNK
    p.query_map, p.linear_map = &mv[0, at, 0], &mv[0, at + e, 0]
    p.key_map, p.value_map = &mv[0, at + e + basis_rows, 0], &mv[0, at + 2 * e + basis_rows, 0]
    p.squares, p.key_pe = &mv[0, squares, 0], &ev[0, pe_at + e, 0]
    p.query_pe = &ev[0, pe_at, 0] if p.before else NULL


cdef set_constants(const micro *u, update_pass *p, update):
    """The update's constants, and room for what a prompt's tokens make of them. Returns what to keep alive."""
    cdef const float[:, ::1] gram = update.gram, key_rows = update.key_rows, value_rows = update.value_rows, query_rows
    cdef int64_t r = HEADS * p.form.tokens, asking = HEADS * p.asking
    p.gram_rows, p.wide = &gram[0, 0], gram.shape[1]
    p.key_rows, p.key_wide = &key_rows[0, 0], key_rows.shape[1]
    p.value_rows, p.value_wide = &value_rows[0, 0], value_rows.shape[1]
    if p.before:
        query_rows = update.query_rows
        p.query_rows, p.query_wide = &query_rows[0, 0], query_rows.shape[1]
    room = np.zeros(2 * (p.form.e * p.form.columns + u.nr) + max(p.rank, max(r, asking)) * p.wide
                    + (p.rank + asking) * p.rank + r * max(p.before, 1) + (p.rank + 1) * p.value_wide + 256, np.float32)
    set_shape(&p.old_keys, u, r, p.before)
    set_shape(&p.gram_before, u, p.before, p.before)
    set_shape(&p.gram, u, p.form.rows, p.rank)
    set_shape(&p.asked, u, asking, p.rank)
    operands = np.empty(operand_room(&p.old_keys) + operand_room(&p.gram_before) + operand_room(&p.gram)
                        + operand_room(&p.asked) + 1, np.uint8)
    cdef float[::1] rv = room
    cdef uint8_t[::1] ov = operands
    p.room, p.operands = &rv[0], &ov[0]
    return room, operands


cdef void set_shape(map_rows *rows, const micro *u, int64_t m, int64_t k) noexcept nogil:
    rows.u, rows.m, rows.k = u, m, k


cdef int64_t operand_room(const map_rows *rows) noexcept nogil:
    return operand_bytes(rows.u, rows.m, rows.k) if rows.k else 0


cdef void take_operand(uint8_t **free, map_rows *rows, const float *a) noexcept nogil:
    """What ``a`` (m, k) holds as the operand of products."""
    rows.a = a
    make_operand(rows, free[0])
    free[0] += operand_room(rows)


cdef void compose(const micro *u, update_pass *p) noexcept nogil:
    """What a prompt's tokens make of the update's constants."""
    cdef basis_form *b = &p.form
    cdef int64_t r = HEADS * b.tokens, asking = HEADS * p.asking, i
    cdef float *free = p.room
    for i in range(0 if b.mixed else b.updates):
        b.turned[i] = take(&free, b.e * b.columns + u.nr)
        u.transpose(b.turned[i], b.columns, b.values[i], b.e, b.tokens, b.e)
    cdef float *folded = take(&free, max(p.rank, max(r, asking)) * p.wide)
    cdef float *gram = take(&free, p.rank * p.rank)
    cdef float *asked = take(&free, asking * p.rank)
    cdef float *old_keys
    cdef uint8_t *operands = p.operands
    fold_basis(u, b, p.gram_rows, p.wide, folded, p.wide)
    unfold(u, b, b.updates, p.rank, folded, p.wide, gram, p.rank)
    take_operand(&operands, &p.gram, gram + p.before * p.rank)
    fold(u, p.asking, b.e, p.queries, p.key_rows, p.key_wide, folded, p.key_wide)
    unfold(u, b, b.updates, asking, folded, p.key_wide, asked, p.rank)
    take_operand(&operands, &p.asked, asked)
    if p.before:
        for i in range(p.before):
            memmove(gram + i * p.before, gram + i * p.rank, p.before * sizeof(float))
        take_operand(&operands, &p.gram_before, gram)
        old_keys = take(&free, r * p.before)
        fold(u, b.tokens, b.e, p.keys, p.query_rows, p.query_wide, folded, p.query_wide)
        unfold(u, b, 1, r, folded, p.query_wide, old_keys, p.before)
        take_operand(&operands, &p.old_keys, old_keys)
    p.values = take(&free, (p.rank + 1) * p.value_wide)  # a row more, as panels are read whole
    fold_basis(u, b, p.value_rows, p.value_wide, p.values, p.value_wide)


cdef void heads(const micro *u, int64_t tokens, int64_t e, const float *x, const float *map, bint adds, float *y) noexcept nogil:
    """y[h·tokens + i] (+)= x[i, head h]·the head's rows of a chunk's map."""
    cdef int64_t d = e // HEADS, h
    cdef gemm_args g
    g.m, g.n, g.k, g.segments, g.offset = tokens, IMAGE_CHUNK, d, 1, NULL
    g.lda, g.step, g.ldb, g.panel = e, 1, IMAGE_CHUNK, u.nr
    g.bias, g.ldr, g.act, g.ldy = NULL, STRIDE, ACT_NONE, STRIDE
    for h in range(HEADS):
        g.a, g.b, g.y = x + h * d, map + h * d * IMAGE_CHUNK, y + h * tokens * STRIDE
        g.residual = g.y if adds else NULL
        u.gemm(&g)


cdef void mix_tokens(const micro *u, int64_t tokens, int64_t e, const float *values, const float *weights, float *y) noexcept nogil:
    """y[h·d + j] = Σ_i values[i, h·d + j]·weights[h·tokens + i]: what each head mixes, of a chunk."""
    cdef int64_t d = e // HEADS, h
    cdef gemm_args g
    g.m, g.n, g.k, g.segments, g.offset = d, IMAGE_CHUNK, tokens, 1, NULL
    g.lda, g.step, g.ldb, g.panel = 1, e, STRIDE, u.nr
    g.bias, g.residual, g.ldr, g.act, g.ldy = NULL, NULL, 0, ACT_NONE, STRIDE
    for h in range(HEADS):
        g.a, g.b, g.y = values + h * d, weights + h * tokens * STRIDE, y + h * d * STRIDE
        u.gemm(&g)


cdef void add_linear(const micro *u, const basis_form *b, const float *values, const float *map, float *y) noexcept nogil:
    """An update's rows of a chunk's map, which the values are products with unless they are in the basis."""
    cdef int64_t i
    if not b.mixed:
        heads(u, b.tokens, b.e, values, map, True, y)
        return
    for i in range(b.e):
        u.add(y + i * STRIDE, y + i * STRIDE, map + i * IMAGE_CHUNK, IMAGE_CHUNK)


cdef void pack_basis(const micro *u, int64_t k, const float *basis, float *panels) noexcept nogil:
    """The first k rows of a chunk's basis as the columns of products."""
    cdef int64_t i, columns = u.weight.columns
    for i in range(IMAGE_CHUNK // columns):
        u.pack_columns(panels + i * panel_words(u, k, False), basis + i * columns, STRIDE, k)


cdef void dense(const map_rows *rows, const float *panels, float *y) noexcept nogil:
    """y (m, IMAGE_CHUNK) = rows · the packed basis."""
    map_product(rows, panels, IMAGE_CHUNK, NULL, 0, y, STRIDE)


cdef void update_chunks(const micro *u, const update_pass *passes, int64_t prompts, int64_t chunk, float *scratch) noexcept nogil:
    """A chunk of every prompt's, while the maps' rows are in L2."""
    cdef int64_t i
    for i in range(prompts):
        update_chunk(u, &passes[i], chunk, scratch)


cdef void update_chunk(const micro *u, const update_pass *p, int64_t chunk, float *free) noexcept nogil:
    """Softmax over the tokens, the deviations, scores of the next attention, and its sums over these image tokens."""
    cdef int64_t t = p.form.tokens, e = p.form.e, r = p.form.rows, asking = HEADS * p.asking, i, h
    cdef int64_t count = min(IMAGE_CHUNK, p.n - chunk * IMAGE_CHUNK), at_maps = chunk * p.maps_step, at_pe = chunk * p.pe_step
    cdef float *basis = p.basis + chunk * p.basis_step
    cdef float *new = basis + p.before * STRIDE
    cdef float *before = basis + (p.before - 1) * STRIDE  # the deviations that the first update's sums are divided by
    cdef float *scale = p.scale + chunk * IMAGE_CHUNK
    cdef float *weights = take(&free, HEADS * t * STRIDE) if p.form.mixed else new
    cdef float *linear = take(&free, p.rank * STRIDE)
    cdef float *scores = take(&free, p.columns * STRIDE)
    cdef float *turned = take(&free, IMAGE_CHUNK * p.columns + u.nr)
    cdef float *mixed = p.mixed + chunk * (e // HEADS + p.rank) * p.columns
    if p.before:
        pack_basis(u, p.before, basis, free)
        dense(&p.old_keys, free, weights)
        dense(&p.gram_before, free, linear)
        heads(u, t, e, p.keys, p.query_map + at_maps, True, weights)
        u.scale_columns(weights, STRIDE, HEADS * t, IMAGE_CHUNK, p.scale_before + chunk * IMAGE_CHUNK)
        heads(u, t, e, p.keys, p.query_pe + at_pe, True, weights)
    else:
        heads(u, t, e, p.keys, p.query_map + at_maps, False, weights)
    for h in range(HEADS):
        u.softmax_columns(weights + h * t * STRIDE, STRIDE, t, IMAGE_CHUNK)
    if p.form.mixed:
        mix_tokens(u, t, e, p.form.values[p.form.updates - 1], weights, new)
    if p.before:
        u.scale_columns(new, STRIDE, r, IMAGE_CHUNK, before)

    if p.before:
        add_linear(u, &p.form, p.form.values[0], p.linear_map + at_maps, linear)
        u.add(linear + r * STRIDE, linear + r * STRIDE, p.linear_map + at_maps + e * IMAGE_CHUNK, IMAGE_CHUNK)
    pack_basis(u, p.rank, basis, free)
    dense(&p.gram, free, linear + p.before * STRIDE)
    add_linear(u, &p.form, p.form.values[p.form.updates - 1], p.linear_map + at_maps + (e + 1) * IMAGE_CHUNK * (p.form.updates - 1),
               linear + p.before * STRIDE)
    memcpy(scale, p.squares + at_maps, IMAGE_CHUNK * sizeof(float))
    u.dot_columns(scale, basis, STRIDE, linear, STRIDE, p.rank, IMAGE_CHUNK)
    for i in range(IMAGE_CHUNK):
        scale[i] = 1 / sqrtf(max(scale[i], 0) / p.channels + p.eps * (before[i] * before[i] if p.before else 1))
    if not p.before:
        for i in range(IMAGE_CHUNK):
            new[r * STRIDE + i] = 1 / scale[i]

    dense(&p.asked, free, scores)
    heads(u, p.asking, e, p.queries, p.key_map + at_maps, True, scores)
    u.scale_columns(scores, STRIDE, asking, IMAGE_CHUNK, scale)
    heads(u, p.asking, e, p.queries, p.key_pe + at_pe, True, scores)
    u.exp_rows(scores, STRIDE, asking, count, p.top + chunk * p.columns, p.sum + chunk * p.columns)
    u.scale_columns(scores, STRIDE, asking, IMAGE_CHUNK, scale)
    for i in range(asking, p.columns):
        memset(scores + i * STRIDE, 0, IMAGE_CHUNK * sizeof(float))
    u.transpose(turned, p.columns, scores, STRIDE, p.columns, IMAGE_CHUNK)
    mix(u, p, count, scores, turned, p.value_map + at_maps, basis, mixed)


cdef void mix(const micro *u, const update_pass *p, int64_t count, const float *weights, const float *turned, const float *values,
              const float *basis, float *y) noexcept nogil:
    """y (e / 8 + rank, columns): each head's values, and all of the basis, times the weights (columns, count); turned as well."""
    cdef int64_t d = p.form.e // HEADS, h
    cdef gemm_args g
    for h in range(HEADS):
        u.dot_rows(y + h * p.asking, p.columns, values + h * d * IMAGE_CHUNK, IMAGE_CHUNK, d, weights + h * p.asking * STRIDE,
                   STRIDE, p.asking, count)
    for h in range(d):
        memset(y + h * p.columns + HEADS * p.asking, 0, (p.columns - HEADS * p.asking) * sizeof(float))
    g.m, g.n, g.k, g.segments, g.offset = p.rank, p.columns, count, 1, NULL
    g.a, g.lda, g.step, g.b, g.ldb, g.panel = basis, STRIDE, 1, turned, p.columns, u.nr
    g.bias, g.residual, g.ldr, g.act, g.y, g.ldy = NULL, NULL, 0, ACT_NONE, y + d * p.columns, p.columns
    u.gemm(&g)


cdef combine(const micro *u, const update_pass *passes, top, total, const float[:, :, :, ::1] mixed, const float[::1] bias):
    """The chunks' sums brought to a common maximum and added in order; then the values that they are of."""
    scale = np.exp(top - top.max(axis=1, keepdims=True))
    scale /= (total * scale).sum(axis=1, keepdims=True)
    cdef const update_pass *p = passes
    cdef int64_t d = p.form.e // HEADS, i
    whole = np.zeros((d + p.rank, p.columns), np.float32)
    y = np.empty((len(top), p.asking, p.form.e), np.float32)
    cdef const float[:, :, ::1] sv = scale
    cdef float[:, ::1] wv = whole
    cdef float[:, :, ::1] yv = y
    for i in range(yv.shape[0]):
        whole[:] = 0
        combine_one(u, &passes[i], sv.shape[1], &sv[i, 0, 0], &mixed[i, 0, 0, 0], &bias[0], &wv[0, 0], &yv[i, 0, 0])
    return y


cdef void combine_one(const micro *u, const update_pass *p, int64_t chunks, const float *scale, const float *mixed,
                      const float *bias, float *whole, float *y) noexcept nogil:
    """A prompt's attended (asking, e); ``whole`` (e / 8 + rank, columns) starts as zeros."""
    cdef int64_t d = p.form.e // HEADS, e = p.form.e, rows = d + p.rank, columns = p.columns, h, i, j
    cdef gemm_args g
    for i in range(rows):
        u.dot_columns(whole + i * columns, mixed + i * columns, rows * columns, scale, columns, chunks, columns)
    g.m, g.n, g.k, g.segments, g.offset = p.asking, d, p.rank, 1, NULL
    g.lda, g.step, g.ldb, g.panel = 1, columns, p.value_wide, u.nr
    g.residual, g.ldr, g.act, g.ldy = NULL, 0, ACT_NONE, e
    for h in range(HEADS):
        g.a, g.b, g.y, g.bias = whole + d * columns + h * p.asking, p.values + h * d, y + h * d, bias + h * d
        u.gemm(&g)
        for i in range(p.asking):
            for j in range(d):
                y[i * e + h * d + j] += whole[j * columns + h * p.asking + i]


def update_rows(image, rows, *, isa=None):
    """The rows (rank, OC) of an UpdatedImage's basis, from the constant ``rows`` (J, OC) that its values go through."""
    cdef const micro *u = &rt.tables[<int>isas.index(isa)]
    cdef basis_form b
    cdef int64_t e = image.values[0].shape[1]
    set_form(&b, image.values[0].shape[0], e, len(image.values))
    rows = check.array(rows, "rows", (rank(b.updates, e), "OC"))
    if rows.shape[1] % PANEL:
        raise ValueError(f"rows: expected a multiple of {PANEL} columns, got {rows.shape[1]}")
    cdef const float[:, ::1] v0 = image.values[0], v1 = image.values[len(image.values) - 1], rv = rows
    b.values[0], b.values[1] = &v0[0, 0], &v1[0, 0]
    y = np.empty((image.rank, rv.shape[1]), np.float32)
    cdef float[:, ::1] yv = y
    fold_basis(u, &b, &rv[0, 0], rv.shape[1], &yv[0, 0], rv.shape[1])
    return y
