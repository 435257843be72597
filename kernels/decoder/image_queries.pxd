# Attention from the few tokens of a prompt to an image, as in FlashAttention. Each chunk of image tokens has its own maxima and sums.
# The step `add_chunks` combines the maxima and sums of all chunks.
from decoder.record cimport *

# The job of one attention from prompt tokens to an image. Three buffers hold the results of each chunk of image tokens.
# `chunk_max` holds the largest score, `chunk_sum` the sum of exp(score - max), and `chunk_out` the sum of exp(score - max) · value.
# The value of an image token has e / 8 channels for a head. In the low-rank form, the value also has `rank` coefficients.
# In the low-rank form, `add_chunks` multiplies the sums of the coefficients by the matrix `values`.
# Column h * tokens + i of each buffer belongs to head h and prompt token i. Unused columns follow in each buffer, up to whole GEMM panels.
cdef struct queries_job:
    const micro *u
    int64_t prompts, tokens, e, rank, columns, chunks, nthreads
    int64_t n  # number of image tokens
    const float *queries  # (prompts, tokens, e), queries that are already scaled by 1/√d for d = e / 8 channels of a head
    const float *values  # (prompts, rank + 1, value_wide), values of the rows of the low-rank basis; NULL if rank is 0
    int64_t value_wide
    const float *bias  # (e), added to the result
    float *y  # (prompts, tokens, e), the result of the attention
    float *chunk_max  # (prompts, chunks, columns), the largest score of each chunk
    float *chunk_sum  # (prompts, chunks, columns), the sum of exponentials of each chunk
    float *chunk_out  # (prompts, chunks, e / 8 + rank, columns), the weighted sum of values of each chunk
    float *out  # (prompts, e / 8 + rank + 1, columns), sums over all chunks; the last row is 1 / the sum of the exponentials


cdef inline queries_job prompt_queries(const queries_job *p, int64_t i) noexcept nogil:
    """Return a copy of the job whose pointers point to the arrays of prompt i."""
    cdef queries_job own = p[0]
    cdef int64_t rows = p.e // HEADS + p.rank, sums = i * p.chunks * p.columns
    own.queries, own.y = p.queries + i * p.tokens * p.e, p.y + i * p.tokens * p.e
    if p.rank:
        own.values = p.values + i * (p.rank + 1) * p.value_wide
    own.chunk_max, own.chunk_sum, own.chunk_out = p.chunk_max + sums, p.chunk_sum + sums, p.chunk_out + sums * rows
    own.out = p.out + i * (rows + 1) * p.columns
    return own


cdef inline tuple new_queries(plan, queries_job *p, queries, const float[::1] bias, int64_t n, values=None, int64_t rank=0):
    """Fill the job for the queries, an Array (P, T, E), and an image of n tokens.

    Returns:
        (sums, y, out): ``sums`` lists the Arrays that the job's fields chunk_max, chunk_sum and chunk_out point to. ``y`` and ``out`` are
        the Arrays that the fields y (the attention's result) and out (the sums over all chunks) point to.
    """
    p.u, p.nthreads = &rt.tables[<int>plan.table], plan.threads
    p.prompts, p.tokens, p.e = queries.shape
    p.n, p.rank, p.columns, p.chunks, p.bias = n, rank, round_up(HEADS * p.tokens, p.u.nr), chunks_of(n), &bias[0]
    p.value_wide = 0 if values is None else values.shape[2]
    cdef int64_t rows = p.e // HEADS + rank
    y, out = plan.array(*queries.shape), plan.array(p.prompts, rows + 1, p.columns)
    sums = [plan.array(p.prompts, p.chunks, p.columns) for _ in range(2)] + [plan.array(p.prompts, p.chunks, rows, p.columns)]
    p.queries, p.values, p.y, p.out = address(queries), address(values), address(y), address(out)
    p.chunk_max, p.chunk_sum, p.chunk_out = address(sums[0]), address(sums[1]), address(sums[2])
    return sums, y, out


cdef inline record_attention(plan, unit_function run, layout_function layout, const queries_job *p, size_t size, writes, sums, y, out):
    """Record the step ``run``, which has one unit of work for each chunk, and the step `add_chunks`. Returns the Array ``y``.

    ``p`` points to the job of ``run``, a struct of ``size`` bytes that begins with a queries_job.
    """
    record(plan, run, layout, p, size, p.chunks, writes)
    record(plan, add_chunks, no_buffers, p, sizeof(p[0]), p.prompts, [sums[0], out, y])
    return y


cdef inline int64_t next_chunk(const queries_job *p, int64_t chunk) noexcept nogil:
    """Return the number of the chunk that this thread probably runs next, or 0 if no chunk follows."""
    return chunk + p.nthreads if chunk + p.nthreads < p.chunks else 0


cdef inline void fetch(prefetch *ahead, const float *maps, int64_t first, int64_t count) noexcept nogil:
    """Make a product prefetch maps[first : first + count]. If ``maps`` is NULL, the product prefetches nothing."""
    ahead.at, ahead.bytes = maps, 0
    if maps != NULL:
        ahead.at, ahead.bytes = maps + first, count * sizeof(float)


cdef inline void heads(const micro *u, int64_t tokens, int64_t e, const float *x, const float *map, bint adds, float *y) noexcept nogil:
    """Compute y[h·tokens + i] = x[i, channels of head h] · map[channels of head h] for each head h and each of the prompt's tokens i.

    ``map`` (e, IMAGE_CHUNK) has e channels of one chunk of the image. If ``adds``, the product is added to y. y has row stride STRIDE.
    """
    cdef int64_t d = e // HEADS, h
    cdef gemm_args g = new_gemm(tokens, IMAGE_CHUNK, d)
    g.lda, g.ldb, g.panel, g.ldr, g.ldy = e, IMAGE_CHUNK, u.nr, STRIDE, STRIDE
    for h in range(HEADS):
        g.a, g.b, g.y = x + h * d, map + h * d * IMAGE_CHUNK, y + h * tokens * STRIDE
        g.residual = g.y if adds else NULL
        u.gemm(&g)


cdef inline void fold(const micro *u, int64_t tokens, int64_t e, const float *x, const float *rows, int64_t n, float *y) noexcept nogil:
    """Compute y[h·tokens + i] = Σ_j x[i, h·d + j] · rows[h·d + j] for each head h of d channels, with x (tokens, e) and rows (e, n)."""
    cdef int64_t d = e // HEADS, h
    cdef gemm_args g = new_gemm(tokens, n, d)
    g.lda, g.ldb, g.panel, g.ldy = e, n, u.nr, n
    for h in range(HEADS):
        g.a, g.b, g.y = x + h * d, rows + h * d * n, y + h * tokens * n
        fetch(&g.ahead, rows, (h + 1) * d * n, d * n if h < HEADS - 1 else 0)
        u.gemm(&g)


cdef inline void pad_sums(const queries_job *p, int64_t chunk, int64_t rows) noexcept nogil:
    """Fill the padding columns of a chunk with chunk_max = 0, chunk_sum = 1 and chunk_out = 0, so that `add_chunks` never divides by 0."""
    cdef int64_t used = HEADS * p.tokens, i
    cdef float *chunk_out = p.chunk_out + chunk * (p.e // HEADS + p.rank) * p.columns
    for i in range(used, p.columns):
        p.chunk_max[chunk * p.columns + i], p.chunk_sum[chunk * p.columns + i] = 0, 1
    for i in range(rows):
        memset(chunk_out + i * p.columns + used, 0, (p.columns - used) * sizeof(float))


cdef inline void attend_maps(const queries_job *p, int64_t chunk, const float *keys, const float *values, float *weights, bint fetches,
                             const float *next_keys) noexcept nogil:
    """Compute chunk_max, chunk_sum and chunk_out of a chunk from the chunk's keys and values.

    Args:
        keys: (e, IMAGE_CHUNK), the keys of the chunk's image tokens.
        values: (e, IMAGE_CHUNK), the values of the chunk's image tokens.
        weights: (tokens, STRIDE), scratch for the attention weights of a head.
        fetches: Whether each product prefetches the keys or values that the next product reads.
        next_keys: The keys of the thread's next chunk, which the last product prefetches, or NULL.
    """
    cdef const micro *u = p.u
    cdef int64_t d = p.e // HEADS, h, at, step = d * IMAGE_CHUNK
    cdef float *y = p.chunk_out + chunk * d * p.columns
    cdef gemm_args scores = new_gemm(p.tokens, IMAGE_CHUNK, d)
    cdef dot_rows_args sums
    scores.lda, scores.ldb, scores.panel, scores.y, scores.ldy = p.e, IMAGE_CHUNK, u.nr, weights, STRIDE
    sums.m, sums.n, sums.k = d, p.tokens, min(IMAGE_CHUNK, p.n - chunk * IMAGE_CHUNK)
    sums.lda, sums.b, sums.ldb, sums.ldy = IMAGE_CHUNK, weights, STRIDE, p.columns
    pad_sums(p, chunk, d)
    for h in range(HEADS):
        scores.a, scores.b, at = p.queries + h * d, keys + h * step, chunk * p.columns + h * p.tokens
        fetch(&scores.ahead, values if fetches else NULL, h * step, step)
        u.gemm(&scores)
        u.exp_rows(weights, STRIDE, p.tokens, sums.k, p.chunk_max + at, p.chunk_sum + at)
        sums.a, sums.y = values + h * step, y + h * p.tokens
        fetch(&sums.ahead, next_keys if h == HEADS - 1 else keys + (h + 1) * step if fetches else NULL, 0, step)
        u.dot_rows(&sums)


cdef inline void attend_basis(const queries_job *p, int64_t chunk, float *scores, const float *scale, const float *values,
                              const float *basis, float *transposed, const float *ahead, int64_t ahead_floats) noexcept nogil:
    """Compute chunk_max, chunk_sum and chunk_out of a chunk from the chunk's scores, in the low-rank form.

    Args:
        scores: (columns, STRIDE), the scores of each head and prompt token. The function overwrites the scores.
        scale: (IMAGE_CHUNK), 1/σ of each image token for the LayerNorm's standard deviation σ, a factor of the values and of the basis.
        values: (e, IMAGE_CHUNK), the values of the chunk's image tokens, without the image updates.
        basis: (rank, STRIDE), the coefficients of the image updates for the chunk's image tokens.
        transposed: (IMAGE_CHUNK, columns), scratch for the transposed scores.
        ahead: The maps that the last product prefetches.
        ahead_floats: The number of floats to prefetch.
    """
    cdef const micro *u = p.u
    cdef int64_t d = p.e // HEADS, used = HEADS * p.tokens, count = min(IMAGE_CHUNK, p.n - chunk * IMAGE_CHUNK), i
    cdef float *y = p.chunk_out + chunk * (d + p.rank) * p.columns
    cdef gemm_args g = new_gemm(p.rank, p.columns, count)
    cdef dot_rows_args sums
    sums.m, sums.n, sums.k, sums.lda, sums.ldb, sums.ldy = d, p.tokens, count, IMAGE_CHUNK, STRIDE, p.columns
    fetch(&sums.ahead, NULL, 0, 0)
    pad_sums(p, chunk, d)
    u.exp_rows(scores, STRIDE, used, count, p.chunk_max + chunk * p.columns, p.chunk_sum + chunk * p.columns)
    u.scale_columns(scores, STRIDE, used, IMAGE_CHUNK, scale)
    for i in range(used, p.columns):
        memset(scores + i * STRIDE, 0, IMAGE_CHUNK * sizeof(float))
    u.transpose(transposed, p.columns, scores, STRIDE, p.columns, IMAGE_CHUNK)
    for i in range(HEADS):
        sums.a, sums.b, sums.y = values + i * d * IMAGE_CHUNK, scores + i * p.tokens * STRIDE, y + i * p.tokens
        u.dot_rows(&sums)
    g.a, g.lda, g.b, g.ldb, g.panel = basis, STRIDE, transposed, p.columns, u.nr
    g.y, g.ldy = y + d * p.columns, p.columns
    fetch(&g.ahead, ahead, 0, ahead_floats)
    u.gemm(&g)


cdef inline void add_chunks(void *job, int64_t prompt) noexcept nogil:
    """Combine the results of a prompt's chunks, in the order of the chunks. ``chunk_max`` is overwritten with the weight of each chunk."""
    cdef queries_job p = prompt_queries(<const queries_job *>job, prompt)
    cdef int64_t d = p.e // HEADS, rows = d + p.rank, columns = p.columns, h, i, j
    cdef float *total = p.out + rows * columns
    cdef dot_columns_args sums
    cdef gemm_args g = new_gemm(p.tokens, d, p.rank)
    p.u.softmax_columns(p.chunk_max, columns, p.chunks, columns)
    memset(p.out, 0, (rows + 1) * columns * sizeof(float))
    sums.m, sums.n, sums.a, sums.lda, sums.b, sums.ldb, sums.y = p.chunks, columns, p.chunk_max, columns, p.chunk_sum, columns, total
    p.u.dot_columns(&sums)
    for i in range(columns):
        total[i] = 1 / total[i]
    p.u.scale_columns(p.chunk_max, columns, p.chunks, columns, total)
    sums.lda, sums.b = rows * columns, p.chunk_max
    for i in range(rows):
        sums.a, sums.y = p.chunk_out + i * columns, p.out + i * columns
        p.u.dot_columns(&sums)
    g.lda, g.step, g.ldb, g.panel, g.ldy = 1, columns, p.value_wide, p.u.nr, p.e
    for h in range(HEADS):
        g.a, g.b = p.out + d * columns + h * p.tokens, NULL if p.rank == 0 else p.values + h * d
        g.bias, g.y = p.bias + h * d, p.y + h * d
        p.u.gemm(&g)
        for i in range(p.tokens):
            for j in range(d):
                g.y[i * p.e + j] += p.out[j * columns + h * p.tokens + i]
