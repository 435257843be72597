# Attention of a few tokens to an image, chunk by chunk, as in flash attention: products of heads with a chunk's maps, each chunk's sums,
# and their total.
from decoder.record cimport *

# The queries of prompts' tokens, and each chunk's largest scores `chunk_max`, sums of exp(score - max) `chunk_sum`, and sums of
# exp(score - max) times the values `chunk_out`. The totals rescale these to the largest score of all chunks. A value is e / 8 rows of
# a map and, in the low-rank form, also `rank` coefficients of a basis, which add_chunks multiplies by `values`. Column h * tokens + i
# belongs to head h and token i; columns are padded to whole panels.
cdef struct queries_job:
    const micro *u
    int64_t prompts, tokens, e, rank, columns, chunks, nthreads
    int64_t n  # image tokens
    const float *queries  # (prompts, tokens, e), scaled
    const float *values  # (prompts, rank + 1, value_wide)
    int64_t value_wide
    const float *bias  # (e)
    float *y  # (prompts, tokens, e)
    float *chunk_max  # (prompts, chunks, columns)
    float *chunk_sum  # (prompts, chunks, columns)
    float *chunk_out  # (prompts, chunks, e / 8 + rank, columns)
    float *out  # (prompts, e / 8 + rank + 1, columns), the last row the sum of exponentials


cdef inline queries_job prompt_queries(const queries_job *p, int64_t i) noexcept nogil:
    """The job with prompt i as its first."""
    cdef queries_job own = p[0]
    cdef int64_t rows = p.e // HEADS + p.rank, sums = i * p.chunks * p.columns
    own.queries, own.y = p.queries + i * p.tokens * p.e, p.y + i * p.tokens * p.e
    if p.rank:
        own.values = p.values + i * (p.rank + 1) * p.value_wide
    own.chunk_max, own.chunk_sum, own.chunk_out = p.chunk_max + sums, p.chunk_sum + sums, p.chunk_out + sums * rows
    own.out = p.out + i * (rows + 1) * p.columns
    return own


cdef inline tuple new_queries(plan, queries_job *p, queries, const float[::1] bias, int64_t n, values=None, int64_t rank=0):
    """Set the job of queries, an Array (P, T, E), to an image of n tokens.

    Returns:
        The Arrays that the step of the chunks writes, y, and ``out``.
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
    """Record the step of the chunks, a job that begins with ``p``, and the step of their total. Returns y."""
    record(plan, run, layout, p, size, p.chunks, writes)
    record(plan, add_chunks, no_buffers, p, sizeof(p[0]), p.prompts, [sums[0], out, y])
    return y


cdef inline int64_t next_chunk(const queries_job *p, int64_t chunk) noexcept nogil:
    """The chunk that this thread is likely to take next; 0 for none."""
    return chunk + p.nthreads if chunk + p.nthreads < p.chunks else 0


cdef inline void fetch(prefetch *ahead, const float *maps, int64_t first, int64_t count) noexcept nogil:
    """Let a product prefetch maps[first : first + count]; nothing where ``maps`` is NULL."""
    ahead.at, ahead.bytes = maps, 0
    if maps != NULL:
        ahead.at, ahead.bytes = maps + first, count * sizeof(float)


cdef inline void heads(const micro *u, int64_t tokens, int64_t e, const float *x, const float *map, bint adds, float *y) noexcept nogil:
    """y[h·tokens + i] (+)= x[i, head h]·the head's rows of a chunk's map."""
    cdef int64_t d = e // HEADS, h
    cdef gemm_args g = new_gemm(tokens, IMAGE_CHUNK, d)
    g.lda, g.ldb, g.panel, g.ldr, g.ldy = e, IMAGE_CHUNK, u.nr, STRIDE, STRIDE
    for h in range(HEADS):
        g.a, g.b, g.y = x + h * d, map + h * d * IMAGE_CHUNK, y + h * tokens * STRIDE
        g.residual = g.y if adds else NULL
        u.gemm(&g)


cdef inline void fold(const micro *u, int64_t tokens, int64_t e, const float *x, const float *rows, int64_t n, float *y) noexcept nogil:
    """y[h·tokens + i] = Σ_j x[i, h·d + j]·rows[h·d + j], of x (tokens, e) and rows (e, n): each head by itself."""
    cdef int64_t d = e // HEADS, h
    cdef gemm_args g = new_gemm(tokens, n, d)
    g.lda, g.ldb, g.panel, g.ldy = e, n, u.nr, n
    for h in range(HEADS):
        g.a, g.b, g.y = x + h * d, rows + h * d * n, y + h * tokens * n
        fetch(&g.ahead, rows, (h + 1) * d * n, d * n if h < HEADS - 1 else 0)
        u.gemm(&g)


cdef inline void pad_sums(const queries_job *p, int64_t chunk, int64_t rows) noexcept nogil:
    """Fill the padding columns of a chunk: maximum 0, sum 1 and ``rows`` zeros, so that the totals stay finite."""
    cdef int64_t used = HEADS * p.tokens, i
    cdef float *chunk_out = p.chunk_out + chunk * (p.e // HEADS + p.rank) * p.columns
    for i in range(used, p.columns):
        p.chunk_max[chunk * p.columns + i], p.chunk_sum[chunk * p.columns + i] = 0, 1
    for i in range(rows):
        memset(chunk_out + i * p.columns + used, 0, (p.columns - used) * sizeof(float))


cdef inline void attend_maps(const queries_job *p, int64_t chunk, const float *keys, const float *values, float *weights, bint fetches,
                             const float *next_keys) noexcept nogil:
    """Compute a chunk's sums from its keys and values, (e, IMAGE_CHUNK) each; ``weights`` (tokens, STRIDE) is scratch.

    fetches: whether products prefetch the values and keys that the next products read. next_keys: NULL, or the keys that the last
    product prefetches.
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
    """Compute a chunk's sums from its scores (columns, STRIDE), which are overwritten.

    values: (e, IMAGE_CHUNK); basis: (rank, STRIDE); both are scaled by ``scale`` (IMAGE_CHUNK). transposed: scratch (IMAGE_CHUNK, columns).
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
    """Add a prompt's chunks in their order. ``chunk_max`` becomes the weight of each chunk in the total."""
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
