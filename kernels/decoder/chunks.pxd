# Attention of a few tokens to an image, chunk by chunk: products of heads with a chunk's maps, each chunk's sums, and their total.
from decoder.record cimport *

cdef enum:
    SUMMED = 16  # rows of `mixed` that a unit of add_chunks adds

# Prompts' tokens attend to an image, as in flash attention. Each chunk of image tokens has a largest score `top`, a `sum` of
# exp(score - top), and `mixed`, the sums of exp(score - top) times the values. The totals rescale these to the largest score of all
# chunks. A value is e / 8 map rows and, in the low-rank form, also `rank` coefficients of a basis, which answer_head multiplies by
# `values`. Column h * asking + i belongs to head h and token i; columns are padded to whole panels.
cdef struct asking_job:
    const micro *u
    int64_t prompts, asking, e, rank, columns, chunks
    const float *queries  # (prompts, asking, e)
    const float *values  # (prompts, rank + 1, value_wide)
    int64_t value_wide
    const float *bias  # (e)
    float *y  # (prompts, asking, e)
    float *top  # (prompts, chunks, columns)
    float *sum  # (prompts, chunks, columns)
    float *mixed  # (prompts, chunks, e / 8 + rank, columns)
    float *whole  # (prompts, e / 8 + rank + 1, columns), the last row the sum of exponentials


cdef inline asking_job asking_of(const asking_job *p, int64_t i) noexcept nogil:
    """The job with prompt i as its first."""
    cdef asking_job own = p[0]
    cdef int64_t rows = p.e // HEADS + p.rank, sums = i * p.chunks * p.columns
    own.queries, own.y = p.queries + i * p.asking * p.e, p.y + i * p.asking * p.e
    if p.rank:
        own.values = p.values + i * (p.rank + 1) * p.value_wide
    own.top, own.sum, own.mixed = p.top + sums, p.sum + sums, p.mixed + sums * rows
    own.whole = p.whole + i * (rows + 1) * p.columns
    return own


cdef inline tuple new_asking(plan, asking_job *p, queries, values, int64_t rank, int64_t n):
    """Sets the job's sizes. Returns the arrays that `point_asking` takes."""
    p.u = &rt.tables[<int>plan.table]
    p.prompts, p.asking, p.e = queries.shape
    p.rank, p.columns, p.chunks = rank, round_up(HEADS * p.asking, p.u.nr), chunks_of(n)
    p.value_wide = 0 if values is None else values.shape[2]
    cdef int64_t rows = p.e // HEADS + rank
    return (queries, values, plan.array(*queries.shape), plan.array(p.prompts, p.chunks, p.columns),
            plan.array(p.prompts, p.chunks, p.columns), plan.array(p.prompts, p.chunks, rows, p.columns),
            plan.array(p.prompts, rows + 1, p.columns))


cdef inline point_asking(list pointers, const void *job, const asking_job *field, tuple arrays):
    queries, values, y, top, sum_, mixed, whole = arrays
    point(pointers, job, &field.queries, queries)
    point(pointers, job, &field.values, values)
    point(pointers, job, &field.y, y)
    point(pointers, job, &field.top, top)
    point(pointers, job, &field.sum, sum_)
    point(pointers, job, &field.mixed, mixed)
    point(pointers, job, &field.whole, whole)


cdef inline record_totals(plan, const asking_job *p, tuple arrays):
    """The steps after the chunks'. Returns y, the Array (P, T, E) of the attention's heads, concatenated."""
    cdef int64_t rows = p.e // HEADS + p.rank
    _, _, y, top, _, _, whole = arrays
    pointers = []
    point_asking(pointers, p, p, arrays)
    record(plan, weigh_chunks, NULL, p, sizeof(p[0]), p.prompts, pointers, [top, whole])
    record(plan, add_chunks, NULL, p, sizeof(p[0]), p.prompts * ((rows + SUMMED - 1) // SUMMED), pointers, [whole])
    record(plan, answer_head, NULL, p, sizeof(p[0]), p.prompts * HEADS, pointers, [y])
    return y


cdef inline void fetch_with(gemm_args *g, const float *maps, int64_t first, int64_t count) noexcept nogil:
    """Let the product prefetch maps[first : first + count]; nothing where ``maps`` is NULL."""
    g.ahead.at, g.ahead.bytes = maps, 0
    if maps != NULL:
        g.ahead.at, g.ahead.bytes = maps + first, count * sizeof(float)


cdef inline void heads(const micro *u, int64_t tokens, int64_t e, const float *x, const float *map, int64_t ldm, bint adds,
                       float *y) noexcept nogil:
    """y[h·tokens + i] (+)= x[i, head h]·the head's rows of a chunk's map."""
    cdef int64_t d = e // HEADS, h
    cdef gemm_args g = new_gemm(tokens, IMAGE_CHUNK, d)
    g.lda, g.ldb, g.panel, g.ldr, g.ldy = e, ldm, u.nr, STRIDE, STRIDE
    for h in range(HEADS):
        g.a, g.b, g.y = x + h * d, map + h * d * ldm, y + h * tokens * STRIDE
        g.residual = g.y if adds else NULL
        u.gemm(&g)


cdef inline void softmax_heads(const micro *u, int64_t tokens, float *x) noexcept nogil:
    """Softmax over the tokens of each head, in place; x as `heads` has written it."""
    cdef int64_t h
    for h in range(HEADS):
        u.softmax_columns(x + h * tokens * STRIDE, STRIDE, tokens, IMAGE_CHUNK)


cdef inline void fold(const micro *u, int64_t tokens, int64_t e, const float *values, const float *rows, int64_t n, float *y,
                      int64_t ldy) noexcept nogil:
    """y[h·tokens + i] = Σ_j values[i, h·d + j]·rows[h·d + j], of (tokens, e) and (e, n): every head by itself."""
    cdef int64_t d = e // HEADS, h
    cdef gemm_args g = new_gemm(tokens, n, d)
    g.lda, g.ldb, g.panel, g.ldy = e, n, u.nr, ldy
    for h in range(HEADS):
        g.a, g.b, g.y = values + h * d, rows + h * d * n, y + h * tokens * ldy
        fetch_with(&g, rows, (h + 1) * d * n, d * n if h < HEADS - 1 else 0)
        u.gemm(&g)


cdef inline void begin_sums(const asking_job *p, int64_t chunk, int64_t rows) noexcept nogil:
    """Padding columns: top 0, sum 1 and ``rows`` zeros, so that totals stay finite and contribute nothing."""
    cdef int64_t used = HEADS * p.asking, i
    cdef float *mixed = p.mixed + chunk * (p.e // HEADS + p.rank) * p.columns
    for i in range(used, p.columns):
        p.top[chunk * p.columns + i], p.sum[chunk * p.columns + i] = 0, 1
    for i in range(rows):
        memset(mixed + i * p.columns + used, 0, (p.columns - used) * sizeof(float))


# What products prefetch, e / 8 rows of a chunk for each head; NULL: nothing.
cdef struct next_maps:
    const float *with_scores  # values, head by head, during the scores
    const float *with_sums  # keys of the next head, during the sums
    const float *last  # keys of the first head, of this thread's likely next chunk


cdef inline void ask_maps(const asking_job *p, int64_t chunk, int64_t count, const float *keys, const float *values, int64_t ldm,
                          float *weights, const next_maps *after) noexcept nogil:
    """Compute a chunk's top, sum and mixed from its keys and values, (e, ldm) each; ``weights`` (asking, STRIDE) is scratch."""
    cdef const micro *u = p.u
    cdef int64_t d = p.e // HEADS, h, at, step = d * IMAGE_CHUNK
    cdef float *y = p.mixed + chunk * d * p.columns
    cdef const float *ahead
    cdef gemm_args scores = new_gemm(p.asking, IMAGE_CHUNK, d)
    cdef dot_rows_args sums
    scores.lda, scores.ldb, scores.panel, scores.y, scores.ldy = p.e, ldm, u.nr, weights, STRIDE
    sums.m, sums.n, sums.k, sums.lda, sums.b, sums.ldb, sums.ldy = d, p.asking, count, ldm, weights, STRIDE, p.columns
    begin_sums(p, chunk, d)
    for h in range(HEADS):
        scores.a, scores.b, at = p.queries + h * d, keys + h * d * ldm, chunk * p.columns + h * p.asking
        fetch_with(&scores, after.with_scores, h * step, step)
        u.gemm(&scores)
        u.exp_rows(weights, STRIDE, p.asking, count, p.top + at, p.sum + at)
        ahead = after.last if h == HEADS - 1 else NULL if after.with_sums == NULL else after.with_sums + h * step
        sums.a, sums.y, sums.ahead.at, sums.ahead.bytes = values + h * d * ldm, y + h * p.asking, ahead, 0 if ahead == NULL else step * sizeof(float)
        u.dot_rows(&sums)


cdef inline void ask_basis(const asking_job *p, int64_t chunk, int64_t count, float *scores, const float *scale, const float *values,
                           const float *basis, float *turned, const float *ahead, int64_t ahead_floats) noexcept nogil:
    """Compute a chunk's top, sum and mixed from its scores (columns, STRIDE), which are overwritten.

    values: (e, IMAGE_CHUNK); basis: (rank, STRIDE); both are scaled by ``scale`` (IMAGE_CHUNK). turned: scratch (IMAGE_CHUNK, columns).
    """
    cdef const micro *u = p.u
    cdef int64_t d = p.e // HEADS, asking = HEADS * p.asking, i
    cdef float *y = p.mixed + chunk * (d + p.rank) * p.columns
    cdef gemm_args g = new_gemm(p.rank, p.columns, count)
    cdef dot_rows_args sums
    sums.m, sums.n, sums.k, sums.lda, sums.ldb, sums.ldy = d, p.asking, count, IMAGE_CHUNK, STRIDE, p.columns
    sums.ahead.at, sums.ahead.bytes = NULL, 0
    begin_sums(p, chunk, d)
    u.exp_rows(scores, STRIDE, asking, count, p.top + chunk * p.columns, p.sum + chunk * p.columns)
    u.scale_columns(scores, STRIDE, asking, IMAGE_CHUNK, scale)
    for i in range(asking, p.columns):
        memset(scores + i * STRIDE, 0, IMAGE_CHUNK * sizeof(float))
    u.transpose(turned, p.columns, scores, STRIDE, p.columns, IMAGE_CHUNK)
    for i in range(HEADS):
        sums.a, sums.b, sums.y = values + i * d * IMAGE_CHUNK, scores + i * p.asking * STRIDE, y + i * p.asking
        u.dot_rows(&sums)
    g.a, g.lda, g.b, g.ldb, g.panel = basis, STRIDE, turned, p.columns, u.nr
    g.y, g.ldy = y + d * p.columns, p.columns
    fetch_with(&g, ahead, 0, ahead_floats)
    u.gemm(&g)


cdef inline void weigh_chunks(void *job, int64_t unit) noexcept nogil:
    """Replace a prompt's ``top`` by the weight of each chunk in the total, (chunks, columns)."""
    cdef asking_job p = asking_of(<const asking_job *>job, unit)
    cdef float *total = p.whole + (p.e // HEADS + p.rank) * p.columns
    cdef dot_columns_args sums
    cdef int64_t i
    p.u.softmax_columns(p.top, p.columns, p.chunks, p.columns)
    memset(total, 0, p.columns * sizeof(float))
    sums.m, sums.n, sums.a, sums.lda, sums.b, sums.ldb, sums.y = p.chunks, p.columns, p.top, p.columns, p.sum, p.columns, total
    p.u.dot_columns(&sums)
    for i in range(p.columns):
        total[i] = 1 / total[i]
    p.u.scale_columns(p.top, p.columns, p.chunks, p.columns, total)


cdef inline void add_chunks(void *job, int64_t unit) noexcept nogil:
    """Add SUMMED rows of a prompt's ``mixed`` over the chunks, weighted, in the order of the chunks."""
    cdef const asking_job *all = <const asking_job *>job
    cdef int64_t rows = all.e // HEADS + all.rank, blocks = (rows + SUMMED - 1) // SUMMED, first = unit % blocks * SUMMED, i
    cdef asking_job p = asking_of(all, unit // blocks)
    cdef dot_columns_args sums
    sums.m, sums.n, sums.lda, sums.b, sums.ldb = p.chunks, p.columns, rows * p.columns, p.top, p.columns
    for i in range(first, min(first + SUMMED, rows)):
        memset(p.whole + i * p.columns, 0, p.columns * sizeof(float))
        sums.a, sums.y = p.mixed + i * p.columns, p.whole + i * p.columns
        p.u.dot_columns(&sums)


cdef inline void answer_head(void *job, int64_t unit) noexcept nogil:
    """Compute one head's channels of a prompt's y."""
    cdef asking_job p = asking_of(<const asking_job *>job, unit // HEADS)
    cdef int64_t d = p.e // HEADS, columns = p.columns, h = unit % HEADS, i, j
    cdef gemm_args g = new_gemm(p.asking, d, p.rank)
    g.a, g.lda, g.step = p.whole + d * columns + h * p.asking, 1, columns
    g.b, g.ldb, g.panel = NULL if p.rank == 0 else p.values + h * d, p.value_wide, p.u.nr
    g.bias, g.y, g.ldy = p.bias + h * d, p.y + h * d, p.e
    p.u.gemm(&g)
    for i in range(p.asking):
        for j in range(d):
            p.y[i * p.e + h * d + j] += p.whole[j * columns + h * p.asking + i]
