"""A step of plans: an image update (the attention from image tokens to prompt tokens, with its norm) in the low-rank form.

`docs/decoder.md` derives the low-rank form, and `mobilesam/network/low_rank.py` computes the constants of the low-rank form.

An image is processed in chunks of IMAGE_CHUNK image tokens, which stay in L2. All matrices of a chunk have one column for each image
token, so image tokens lie along the SIMD vectors. Maps have one row for each channel. Scores and the basis (the attention weights of the
image updates) have one row for each pair of head and prompt token. Results do not depend on the number of threads, because the size of a
chunk is fixed and the sums of the chunks are added in a fixed order.
"""

from typing import NamedTuple

from libc.math cimport sqrtf

from decoder.image_queries cimport *

from mobilesam.kernels.core import check
from mobilesam.kernels.decoder.constants import Update
from mobilesam.kernels.decoder.recorder import Array

import_runtime()

cdef enum:
    PARTS = 4  # number of units of work of the step `compose` for each prompt


class UpdatedImage(NamedTuple):
    """What the image updates by P prompts add to an image, in low rank: scale[n] · Σ_r basis[r, n] · U[r] for image token n.

    The basis holds the attention weights of the image updates. The rows U depend on the values of the prompt tokens, and are not stored.

    Attributes:
        n: The number of image tokens.
        rank: The number of basis rows that are filled.
        data: Array (P, chunks, rank after two image updates + 1, STRIDE). The first row of a chunk is the scale
            1/σ of each image token, with the standard deviation σ of the LayerNorm. The other rows of a chunk are the basis.
        values: One Array (P, T, E) for each image update, the values of the prompts' tokens.
        last: None after the first image update. After the second image update, two Arrays: the first transposed convolution applied to
            the rows U, (P, OC, rank), and the same numbers packed as the left factor of a GEMM.
    """

    n: int
    rank: int
    data: Array
    values: tuple[Array, ...]
    last: tuple[Array, Array] | None


# The shape of a low-rank basis. Each image update has ``rows`` = 8·tokens rows. Row h·tokens + i belongs to head h and prompt token i.
# One row of the basis lies between the rows of the two image updates: σ₁, the standard deviation in the first update's LayerNorm.
cdef struct basis_form:
    int64_t tokens, e, updates, rows
    const float *values[2]  # (prompts, tokens, e), the prompt tokens' values in the first and in the second image update


cdef inline int64_t rank(int64_t updates, int64_t inner) noexcept nogil:
    """Return the number of basis rows: ``inner`` rows for each image update, and one row between two image updates."""
    return updates * inner + updates - 1


cdef void fold_basis(const micro *u, const basis_form *b, int64_t updates, const float *rows, int64_t n, float *y) noexcept nogil:
    """Compute y (rank, n), the products of the prompt tokens' values with ``rows``, by `fold`: e rows for each of the first ``updates``.

    The number of columns n is a multiple of the GEMM panel width. If ``updates`` is 2, the row between the image updates is copied.
    """
    cdef int64_t i, r = b.rows
    for i in range(updates):
        fold(u, b.tokens, b.e, b.values[i], rows + i * (b.e + 1) * n, n, y + i * (r + 1) * n)
    if updates == 2:
        memcpy(y + r * n, rows + b.e * n, n * sizeof(float))


cdef void unfold(const micro *u, const basis_form *b, int64_t updates, int64_t m, const float *x, int64_t ldx, float *y, int64_t ldy,
                 float *transposed, float *unfolded) noexcept nogil:
    """Compute y (m, rank) = fold_basis(xᵀ)ᵀ for a matrix x with m rows and row stride ldx."""
    cdef int64_t n = round_up(m, u.nr), k = rank(updates, b.rows)
    u.transpose(transposed, n, x, ldx, m, rank(updates, b.e))
    fold_basis(u, b, updates, transposed, n, unfolded)
    u.transpose(y, ldy, unfolded, n, k, m)


cdef struct update_job:
    queries_job queries
    basis_form form
    int64_t before  # number of basis rows of the first image update, plus 1 for the row σ₁; 0 in the first image update
    int64_t maps_step, pe_step, image_step  # number of floats from a chunk to the next chunk in maps, pe and image
    # (e + out_rows + 2·e, IMAGE_CHUNK), the maps of this image update in the first chunk. The field `at` of Update describes the maps.
    const float *maps
    int64_t out_rows  # number of constant rows of the output projections: e in the first image update, 2·e + 1 in the second
    const float *squares  # (IMAGE_CHUNK), the map with the squared length of each image token, in the first chunk
    const float *pe  # (2·e, IMAGE_CHUNK), maps of the positional encoding in the first chunk: for the queries, then for the keys
    const float *keys  # (prompts, tokens, e), keys of the prompt tokens, already scaled by 1/√d for d channels of a head
    # Constants of the image update, which the class Update describes. Row strides are multiples of the GEMM panel width.
    const float *gram_rows
    const float *query_rows
    const float *key_rows
    const float *value_rows
    const float *last_basis  # (out_rows, oc), the field last_basis of Update; NULL in the first image update
    int64_t gram_wide, query_wide, key_wide, oc
    # Results of `compose` for each prompt: products of the constants with the prompt tokens' values, keys or queries.
    float *old_keys  # (8·tokens, before), the prompt tokens' keys times the queries of the basis rows; the last column is 0
    float *gram  # (rank, rank), products between the rows U of UpdatedImage; the first `before` rows are stored as (before, before)
    float *query_basis  # (8·queries, rank), queries of the attention after this image update times the keys of the basis rows
    float *values  # (rank + 1, value_wide), attention values of the basis rows; a GEMM reads past row `rank`, so one row is padding
    float *last  # (oc, rank), the first transposed convolution applied to the rows U of UpdatedImage
    float *packed_last  # the array `last`, packed as the left factor of a GEMM
    int64_t packed_floats  # number of floats in one prompt's packed_last
    float *image  # (prompts, chunks, rank of two image updates + 1, STRIDE): in each chunk the scale 1/σ, then the basis
    float eps
    int64_t channels
    # Scratch buffers of `update_chunk`.
    float *linear  # (rank, STRIDE): 2·U·x + gram·s for each image token x with basis column s; the product s·linear is added to |x|²
    float *scores  # (columns, STRIDE), scores of each head and prompt token
    float *transposed  # (IMAGE_CHUNK, columns), the transposed scores
    float *panels  # the basis, packed as the right factor of a GEMM
    float *packed  # the left factor of a GEMM with the basis, packed
    # Scratch buffers of `compose`.
    float *folded
    float *transposed_rows
    float *unfolded


def update_image(plan, maps, pe, update, keys, values, queries, before=None, *, channels=256, eps=1e-5):
    """The image attends to the tokens of prompts, and then the next queries of the prompts attend to the updated image.

    The updated image is stored in low rank. The prompts are independent of each other. A unit of work processes one chunk for all prompts.

    Args:
        plan: The Recorder that records the step.
        maps: Maps of the image tokens. `mobilesam.network.low_rank.LowRank` describes their channels.
        pe: Maps of the positional encoding. `mobilesam.network.low_rank.LowRank` describes their channels.
        update: The constants of the image update, a `mobilesam.kernels.Update`.
        keys: Array (P, T, E), keys of P prompts with T tokens, already scaled by 1/√d with d = E / 8 channels in a head.
        values: Array (P, T, E), values of the prompts' tokens.
        queries: Array (P, T2, E), queries of the attention to the updated image, already scaled by 1/√d.
        before: None for the first image update. For the second image update, the UpdatedImage that the first image update has returned. The
            second image update writes to the same memory.
        channels: The number of channels of an image token.
        eps: The eps of the LayerNorm of the image update.

    Returns:
        (UpdatedImage, Array (P, T2, E)): the updated image, and the result of the attention to the updated image, with heads side by side.

    Source: ``cross_attn_image_to_token`` and ``cross_attn_token_to_image`` in the reference's modeling/transformer.py.
    """
    cdef update_job p
    check.record(update, "update", Update)
    value_bias = check.in_place(update.value_bias, "update.value_bias", ("E",))
    e, j = value_bias.shape[0], value_bias.shape[0] if before is None else rank(2, value_bias.shape[0])
    if e % HEADS:
        raise ValueError(f"update.value_bias: expected a multiple of {HEADS} channels, got {e}")
    plan.check(keys, "keys", ("P", "T", e))
    plan.check(values, "values", keys.shape)
    plan.check(queries, "queries", (keys.shape[0], "T2", e))
    plan.check_maps(maps, "maps", None)
    plan.check_maps(pe, "pe", None, maps.n)
    at, squares = check.whole(update.at, "update.at", 0), check.whole(update.squares, "update.squares", 0)
    pe_at = check.whole(update.pe_at, "update.pe_at", 0)
    if maps.channels < max(squares + 1, at + 3 * e + j) or pe.channels < pe_at + 2 * e:
        expected = f"{max(squares + 1, at + 3 * e + j)} channels of the image and {pe_at + 2 * e} of the positional encoding"
        raise ValueError(f"maps: expected at least {expected}, got {maps.channels} and {pe.channels}")
    if (before is None) != (update.query_rows is None):
        raise ValueError(f"before: expected an UpdatedImage in the second update and None in the first, got {check.shortened(before)}")
    cdef const float[:, ::1] gram = constant_rows(plan, update.gram, "update.gram", j, j)
    cdef const float[:, ::1] key_rows = constant_rows(plan, update.key_rows, "update.key_rows", e, j)
    cdef const float[:, ::1] value_rows = constant_rows(plan, update.value_rows, "update.value_rows", j, e)
    cdef const float[:, ::1] query_rows, last_basis
    cdef const float[::1] bias = value_bias
    if before is not None:
        check.record(before, "before", UpdatedImage)
        check.record(before.values, "before.values", tuple)
        for part in before.values:
            plan.check(part, "before.values", (None,))
        if before.n != maps.n or [part.shape for part in before.values] != [values.shape]:
            raise ValueError(f"before: expected an image of {maps.n} tokens and one update by {values.shape[1]} tokens, got {check.shortened(before)}")
        plan.check(before.data, "before.data", (keys.shape[0], chunks_of(maps.n), rank(2, HEADS * keys.shape[1]) + 1, STRIDE))
    memset(&p, 0, sizeof(p))
    cdef int64_t second = before is not None, r = HEADS * keys.shape[1], k = rank(1 + second, r), i
    prompts, every = keys.shape[0], (values,) if before is None else (*before.values, values)
    p.form.tokens, p.form.e, p.form.updates, p.form.rows = keys.shape[1], e, 1 + second, r
    p.before, p.eps, p.out_rows = r + 1 if second else 0, check.real(eps, "eps"), j
    p.channels = check.whole(channels, "channels", 1)
    p.maps_step, p.pe_step, p.image_step = maps.array.shape[1] * IMAGE_CHUNK, pe.array.shape[1] * IMAGE_CHUNK, (rank(2, r) + 1) * STRIDE
    p.gram_rows, p.key_rows, p.value_rows = &gram[0, 0], &key_rows[0, 0], &value_rows[0, 0]
    p.gram_wide, p.key_wide = gram.shape[1], key_rows.shape[1]
    composed = [plan.array(prompts, *shape) for shape in ((k, k), (HEADS * queries.shape[1], k), (k + 1, value_rows.shape[1]))]
    sums, y, out = new_queries(plan, &p.queries, queries, bias, maps.n, composed[2], k)
    data = before.data if second else plan.array(prompts, chunks_of(maps.n), rank(2, r) + 1, STRIDE)
    for i in range(len(every)):
        p.form.values[i] = address(every[i])
    p.maps, p.squares, p.pe = channel(maps, at), channel(maps, squares), channel(pe, pe_at)
    p.keys, p.image = address(keys), address(data)
    p.gram, p.query_basis, p.values = address(composed[0]), address(composed[1]), address(composed[2])
    last = None
    if second:
        query_rows = constant_rows(plan, update.query_rows, "update.query_rows", e, e)
        last_basis = check.in_place(update.last_basis, "update.last_basis", (rank(2, e), "OC"))
        if last_basis.shape[1] % PANEL:
            raise ValueError(f"update.last_basis: expected a multiple of {PANEL} columns, got {last_basis.shape[1]}")
        p.query_rows, p.query_wide, p.last_basis, p.oc = &query_rows[0, 0], query_rows.shape[1], &last_basis[0, 0], last_basis.shape[1]
        p.packed_floats = max(1, operand_floats_of(p.queries.u, p.oc, k))
        last = plan.array(prompts, p.oc, k), plan.array(prompts, p.packed_floats)
        composed += [plan.array(prompts, r, p.before), *last]
        p.old_keys, p.last, p.packed_last = address(composed[3]), address(last[0]), address(last[1])
    plan.keep(update, value_bias, update.gram, update.key_rows, update.value_rows, update.query_rows, update.last_basis)
    record(plan, compose, compose_layout, &p, sizeof(p), PARTS * prompts, composed)
    record_attention(plan, update_chunk, chunk_layout, &p.queries, sizeof(p), [data, *sums], sums, y, out)
    return UpdatedImage(maps.n, k, data, every, last), y


cdef constant_rows(plan, constant, name, int64_t rows, int64_t columns):
    """Check a constant of an update: ``rows`` rows, of ``columns`` numbers and padding up to whole GEMM panels. Returns the constant."""
    constant = check.in_place(constant, name, (rows, "columns"))
    cdef int64_t nr = rt.tables[<int>plan.table].nr, wide = constant.shape[1]
    if wide < columns or wide % nr:
        raise ValueError(f"{name}: expected a multiple of {nr} columns, at least {columns}, got shape {constant.shape}")
    return constant


cdef update_job prompt_update(const update_job *p, int64_t i) noexcept nogil:
    """Return a copy of the job whose pointers point to the arrays of prompt i."""
    cdef update_job own = p[0]
    cdef int64_t inner = p.form.tokens * p.form.e, k = p.queries.rank, j
    own.queries = prompt_queries(&p.queries, i)
    own.keys = p.keys + i * inner
    for j in range(p.form.updates):
        own.form.values[j] = p.form.values[j] + i * inner
    own.gram, own.query_basis = p.gram + i * k * k, p.query_basis + i * HEADS * p.queries.tokens * k
    own.values, own.image = p.values + i * (k + 1) * p.queries.value_wide, p.image + i * p.queries.chunks * p.image_step
    if p.before:
        own.old_keys, own.last = p.old_keys + i * p.form.rows * p.before, p.last + i * p.oc * k
        own.packed_last = p.packed_last + i * p.packed_floats
    return own


cdef void compose_layout(void *job, arena *scratch) noexcept nogil:
    cdef update_job *p = <update_job *>job
    cdef int64_t queries = HEADS * p.queries.tokens, n = round_up(max(p.queries.rank, queries), p.queries.u.nr)
    p.folded = take_floats(scratch, max(p.queries.rank * max(p.gram_wide, p.oc), max(p.form.rows * p.query_wide, queries * p.key_wide)))
    p.transposed_rows = take_floats(scratch, rank(p.form.updates, p.form.e) * n)
    p.unfolded = take_floats(scratch, p.queries.rank * n)


cdef void compose(void *job, int64_t unit) noexcept nogil:
    """Compute one of the PARTS parts of a prompt's results. The parts that take longest come first."""
    cdef update_job own = prompt_update(<const update_job *>job, unit // PARTS)
    cdef update_job *p = &own
    cdef const micro *u = p.queries.u
    cdef basis_form *b = &p.form
    cdef int64_t r = b.rows, part = unit % PARTS, k = p.queries.rank, i
    cdef map_rows last
    if part == 0:
        fold_basis(u, b, b.updates, p.gram_rows, p.gram_wide, p.folded)
        unfold(u, b, b.updates, k, p.folded, p.gram_wide, p.gram, k, p.transposed_rows, p.unfolded)
        for i in range(p.before):
            memmove(p.gram + i * p.before, p.gram + i * k, p.before * sizeof(float))
    elif part == 1 and p.before:
        fold_basis(u, b, b.updates, p.last_basis, p.oc, p.folded)
        u.transpose(p.last, k, p.folded, p.oc, k, p.oc)
        last.u, last.a, last.operand, last.m, last.k, last.lda = u, p.last, p.packed_last, p.oc, k, k
        pack_map_rows(&last)
    elif part == 2:
        fold(u, p.queries.tokens, b.e, p.queries.queries, p.key_rows, p.key_wide, p.folded)
        unfold(u, b, b.updates, HEADS * p.queries.tokens, p.folded, p.key_wide, p.query_basis, k, p.transposed_rows, p.unfolded)
        fold_basis(u, b, b.updates, p.value_rows, p.queries.value_wide, p.values)
    elif part == 3 and p.before:
        fold(u, b.tokens, b.e, p.keys, p.query_rows, p.query_wide, p.folded)
        unfold(u, b, 1, r, p.folded, p.query_wide, p.old_keys, p.before, p.transposed_rows, p.unfolded)
        for i in range(r):
            p.old_keys[i * p.before + p.before - 1] = 0  # the basis row σ₁ adds nothing to the second image update's queries


cdef void chunk_layout(void *job, arena *scratch) noexcept nogil:
    cdef update_job *p = <update_job *>job
    cdef const micro *u = p.queries.u
    cdef int64_t k = p.queries.rank
    p.linear = take_floats(scratch, k * STRIDE)
    p.scores = take_floats(scratch, p.queries.columns * STRIDE)
    p.transposed = take_floats(scratch, IMAGE_CHUNK * p.queries.columns)
    p.panels = take_floats(scratch, IMAGE_CHUNK // u.weight.columns * panel_words(u, k, False))
    p.packed = take_floats(scratch, operand_floats_of(u, max(k, HEADS * p.queries.tokens), k))


cdef void update_chunk(void *job, int64_t chunk) noexcept nogil:
    """Compute the image update of one chunk for all prompts, while the chunk's maps are in L2.

    The products for the first prompt prefetch this chunk's maps. The last product for the last prompt prefetches the first maps of the
    chunk that the thread takes next.
    """
    cdef const update_job *p = <const update_job *>job
    cdef update_job own
    cdef int64_t last = p.queries.prompts - 1, i
    for i in range(last + 1):
        own = prompt_update(p, i)
        update_prompt(&own, chunk, i == 0, next_chunk(&p.queries, chunk) if i == last else 0)


cdef void dense(const update_job *p, int64_t m, int64_t k, const float *a, float *y, const float *ahead, int64_t maps) noexcept nogil:
    """Compute y (m, IMAGE_CHUNK) = a (m, k) · the packed basis. The product prefetches ``maps`` maps of a chunk, starting at ``ahead``."""
    cdef const micro *u = p.queries.u
    cdef gemm_args g = new_gemm(m, IMAGE_CHUNK, k)
    g.a, g.lda, g.y, g.ldy = a, k, y, STRIDE
    g.b, g.ldb, g.panel = p.panels, u.weight.columns, panel_words(u, k, False)
    fetch(&g.ahead, ahead, 0, maps * IMAGE_CHUNK)
    product(u, &g, p.packed)


cdef void update_prompt(const update_job *p, int64_t chunk, bint fetches, int64_t after) noexcept nogil:
    """Process a chunk for one prompt: compute the new basis rows (a softmax over the prompt tokens), σ, and the next attention.

    Args:
        fetches: Whether each product prefetches the maps that the next product reads.
        after: The number of the chunk whose first maps the last product prefetches, or 0 for no prefetch.
    """
    cdef const micro *u = p.queries.u
    cdef int64_t t = p.form.tokens, e = p.form.e, r = p.form.rows, k = p.queries.rank, queries = HEADS * p.queries.tokens, i
    cdef float *scale = p.image + chunk * p.image_step
    cdef float *basis = scale + STRIDE
    cdef float *new = basis + p.before * STRIDE
    cdef float *before = basis + (p.before - 1) * STRIDE  # the basis row σ₁, in the second image update
    cdef const float *query_map = p.maps + chunk * p.maps_step
    cdef const float *linear_map = query_map + e * IMAGE_CHUNK
    cdef const float *key_map = linear_map + p.out_rows * IMAGE_CHUNK
    cdef const float *value_map = key_map + e * IMAGE_CHUNK
    cdef const float *query_pe = p.pe + chunk * p.pe_step
    cdef const float *key_pe = query_pe + e * IMAGE_CHUNK
    cdef int64_t fetched = e if fetches else 0
    cdef dot_columns_args squares
    if p.before:
        pack_map_columns(u, p.before, IMAGE_CHUNK, basis, STRIDE, p.panels)
        dense(p, r, p.before, p.old_keys, new, query_pe, fetched)
        dense(p, p.before, p.before, p.gram, p.linear, linear_map + e * IMAGE_CHUNK, fetched)
        heads(u, t, e, p.keys, query_map, True, new)
        u.scale_columns(new, STRIDE, r, IMAGE_CHUNK, scale)
        heads(u, t, e, p.keys, query_pe, True, new)
    else:
        heads(u, t, e, p.keys, query_map, False, new)
    for i in range(HEADS):
        u.softmax_columns(new + i * t * STRIDE, STRIDE, t, IMAGE_CHUNK)
    if p.before:
        u.scale_columns(new, STRIDE, r, IMAGE_CHUNK, before)
        heads(u, t, e, p.form.values[0], linear_map, True, p.linear)
        u.add(p.linear + r * STRIDE, p.linear + r * STRIDE, linear_map + e * IMAGE_CHUNK, IMAGE_CHUNK)
        linear_map += (e + 1) * IMAGE_CHUNK
    pack_map_columns(u, k, IMAGE_CHUNK, basis, STRIDE, p.panels)
    dense(p, k - p.before, k, p.gram + p.before * k, p.linear + p.before * STRIDE, key_map, 2 * fetched)
    heads(u, t, e, p.form.values[p.form.updates - 1], linear_map, True, p.linear + p.before * STRIDE)
    memcpy(scale, p.squares + chunk * p.maps_step, IMAGE_CHUNK * sizeof(float))
    squares.m, squares.n, squares.a, squares.lda, squares.b, squares.ldb = k, IMAGE_CHUNK, basis, STRIDE, p.linear, STRIDE
    squares.y = scale
    u.dot_columns(&squares)
    for i in range(IMAGE_CHUNK):
        scale[i] = 1 / sqrtf(max(scale[i], 0) / p.channels + p.eps * (before[i] * before[i] if p.before else 1))
    if not p.before:
        for i in range(IMAGE_CHUNK):
            new[r * STRIDE + i] = 1 / scale[i]

    dense(p, queries, k, p.query_basis, p.scores, key_pe, fetched)
    heads(u, p.queries.tokens, e, p.queries.queries, key_map, True, p.scores)
    u.scale_columns(p.scores, STRIDE, queries, IMAGE_CHUNK, scale)
    heads(u, p.queries.tokens, e, p.queries.queries, key_pe, True, p.scores)
    attend_basis(&p.queries, chunk, p.scores, scale, value_map, basis, p.transposed,
              p.maps + after * p.maps_step, 2 * e * IMAGE_CHUNK if after else 0)
