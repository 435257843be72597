# What the forms of an image's updates share: heads' products with a chunk's maps, and the tokens' attention to the result.
from cython.parallel cimport parallel, prange
from libc.string cimport memset

from core.common cimport *

cdef enum:
    HEADS = 8
    PANEL = 32  # what every ISA's panels divide
    # Of rows that are written here: whole cache lines, odd in number, that L1's sets are all used.
    STRIDE = IMAGE_CHUNK + 16
    SUMMED = 16  # rows of chunks' sums that a thread adds at once

# The attention of ``asking`` tokens to an image whose values are map rows and, of a basis of ``rank`` rows, value_rows·basis.
cdef struct asking_pass:
    int64_t asking, e, rank, columns  # columns: 8·asking in whole panels
    const float *queries  # (asking, e)
    const float *values  # (rank + 1, value_wide)
    int64_t value_wide
    const float *bias  # (e)
    float *y  # (asking, e)
    float *top  # (chunks, columns)
    float *sum
    float *mixed  # (chunks, e / 8 + rank, columns)
    float *whole  # (e / 8 + rank + 1, columns), the last a total


cdef inline void fetch_with(gemm_args *g, const float *maps, int64_t first, int64_t count) noexcept nogil:
    """So many floats from the first on will be read after the product; NULL for none."""
    g.ahead_bytes = 0
    if maps != NULL:
        g.ahead, g.ahead_bytes = maps + first, count * sizeof(float)


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
    """Each head's scores of its tokens, as `heads` leaves them, to weights."""
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


cdef inline int64_t folded_floats(const micro *u, int64_t tokens, int64_t wide, int64_t count, bint turned=False) noexcept nogil:
    """Of room, for :func:`folded_rows`."""
    cdef int64_t m = HEADS * tokens
    return m * wide + (m * count + operand_floats_of(u, count, m) if turned else operand_floats_of(u, m, count)) + 48


cdef inline void folded_rows(const micro *u, map_rows *made, int64_t tokens, int64_t e, const float *x, const float *rows, int64_t wide,
                             int64_t count, float **free, bint turned=False) noexcept nogil:
    """made (8·tokens, count): tokens (tokens, e) through the first columns of rows (e, wide), as `fold` does; or turned."""
    cdef int64_t m = HEADS * tokens
    cdef float *folded = take(free, m * wide)
    cdef float *across
    fold(u, tokens, e, x, rows, wide, folded, wide)
    made.u, made.m, made.k, made.lda, made.a = u, m, count, wide, folded
    if turned:
        across = take(free, count * m)
        u.transpose(across, m, folded, wide, m, count)
        made.m, made.k, made.lda, made.a = count, m, m, across
    make_operand(made, take(free, operand_floats_of(u, made.m, made.k)))


# Heads' maps that will be read next, e / 8 rows of a chunk each, fetched while a head's scores and its sums are made; NULL: none.
cdef struct next_maps:
    const float *with_scores  # of the first head
    const float *with_sums
    const float *last  # with the last head's sums


cdef inline void ask_maps(const micro *u, const asking_pass *p, int64_t chunk, int64_t count, const float *keys,
                          const float *values, int64_t ldm, float *weights, const next_maps *after) noexcept nogil:
    """A chunk's sums of its values, by scores to its keys, (e, ldm) both; ``weights`` has asking rows."""
    cdef int64_t d = p.e // HEADS, h, at, step = d * IMAGE_CHUNK
    cdef float *y = p.mixed + chunk * d * p.columns
    cdef const float *ahead
    cdef gemm_args scores = new_gemm(p.asking, IMAGE_CHUNK, d)
    scores.lda, scores.ldb, scores.panel, scores.y, scores.ldy = p.e, ldm, u.nr, weights, STRIDE
    for h in range(HEADS):
        scores.a, scores.b, at = p.queries + h * d, keys + h * d * ldm, chunk * p.columns + h * p.asking
        fetch_with(&scores, after.with_scores, h * step, step)
        u.gemm(&scores)
        u.exp_rows(weights, STRIDE, p.asking, count, p.top + at, p.sum + at)
        ahead = after.last if h == HEADS - 1 else NULL if after.with_sums == NULL else after.with_sums + h * step
        u.dot_rows(y + h * p.asking, p.columns, values + h * d * ldm, ldm, d, weights, STRIDE, p.asking, count,
                   ahead, 0 if ahead == NULL else step * sizeof(float))
    for h in range(d):
        memset(y + h * p.columns + HEADS * p.asking, 0, (p.columns - HEADS * p.asking) * sizeof(float))


cdef inline void ask_basis(const micro *u, const asking_pass *p, int64_t chunk, int64_t count, float *scores, const float *scale,
                           const float *values, const float *basis, int64_t ldb, float *turned, const float *ahead,
                           int64_t ahead_floats) noexcept nogil:
    """Scores (8·asking and up to whole panels, STRIDE) of a chunk to its sums of the values' map and of the basis (rank, ldb), scaled;
    NULL for no values and no scale."""
    cdef int64_t d = p.e // HEADS, asking = HEADS * p.asking, i
    cdef float *y = p.mixed + chunk * (d + p.rank) * p.columns
    cdef gemm_args g = new_gemm(p.rank, p.columns, count)
    u.exp_rows(scores, STRIDE, asking, count, p.top + chunk * p.columns, p.sum + chunk * p.columns)
    if scale != NULL:
        u.scale_columns(scores, STRIDE, scores, STRIDE, asking, IMAGE_CHUNK, scale, NULL, 0)
    for i in range(asking, p.columns):
        memset(scores + i * STRIDE, 0, IMAGE_CHUNK * sizeof(float))
    u.transpose(turned, p.columns, scores, STRIDE, p.columns, IMAGE_CHUNK)
    for i in range(0 if values == NULL else HEADS):
        u.dot_rows(y + i * p.asking, p.columns, values + i * d * IMAGE_CHUNK, IMAGE_CHUNK, d, scores + i * p.asking * STRIDE, STRIDE,
                   p.asking, count, NULL, 0)
    asking = 0 if values == NULL else asking
    for i in range(d):
        memset(y + i * p.columns + asking, 0, (p.columns - asking) * sizeof(float))
    g.a, g.lda, g.b, g.ldb, g.panel = basis, ldb, turned, p.columns, u.nr
    g.y, g.ldy = y + d * p.columns, p.columns
    fetch_with(&g, ahead, 0, ahead_floats)
    u.gemm(&g)


cdef inline void weigh_chunks(const micro *u, const asking_pass *p, int64_t chunks) noexcept nogil:
    """What each chunk's sums count for among all, (chunks, columns), in the place of their maxima."""
    cdef float *total = p.whole + (p.e // HEADS + p.rank) * p.columns
    u.softmax_columns(p.top, p.columns, chunks, p.columns)
    memset(total, 0, p.columns * sizeof(float))
    u.dot_columns(total, p.top, p.columns, p.sum, p.columns, chunks, p.columns)
    cdef int64_t i
    for i in range(p.columns):
        total[i] = 1 / total[i]
    u.scale_columns(p.top, p.columns, p.top, p.columns, chunks, p.columns, total, NULL, 0)


cdef inline void add_chunks(const micro *u, const asking_pass *p, int64_t chunks, int64_t first) noexcept nogil:
    """SUMMED rows of all chunks' sums, from the first on, in order."""
    cdef int64_t rows = p.e // HEADS + p.rank, i
    for i in range(first, min(first + SUMMED, rows)):
        memset(p.whole + i * p.columns, 0, p.columns * sizeof(float))
        u.dot_columns(p.whole + i * p.columns, p.mixed + i * p.columns, rows * p.columns, p.top, p.columns, chunks, p.columns)


cdef inline void answer_head(const micro *u, const asking_pass *p, int64_t h) noexcept nogil:
    """A head's channels of y, of the whole sums."""
    cdef int64_t d = p.e // HEADS, columns = p.columns, i, j
    cdef gemm_args g = new_gemm(p.asking, d, p.rank)
    g.a, g.lda, g.step = p.whole + d * columns + h * p.asking, 1, columns
    g.b, g.ldb, g.panel = p.values + h * d, p.value_wide, u.nr
    g.bias, g.y, g.ldy = p.bias + h * d, p.y + h * d, p.e
    u.gemm(&g)
    for i in range(p.asking):
        for j in range(d):
            p.y[i * p.e + h * d + j] += p.whole[j * columns + h * p.asking + i]


cdef inline int64_t asked_floats(const asking_pass *p, int64_t chunks) noexcept nogil:
    """Of room, for what a pass leaves of each chunk and what becomes of that."""
    cdef int64_t rows = p.e // HEADS + p.rank
    return ((rows + 2) * chunks + rows + 1) * p.columns + 64


cdef inline void take_asked(asking_pass *p, int64_t chunks, float **free) noexcept nogil:
    cdef int64_t rows = p.e // HEADS + p.rank, i
    p.top, p.sum = take(free, chunks * p.columns), take(free, chunks * p.columns)
    p.mixed, p.whole = take(free, chunks * rows * p.columns), take(free, (rows + 1) * p.columns)
    for i in range(chunks * p.columns):
        p.top[i], p.sum[i] = 0, 1


cdef inline const asking_pass *next_pass(const asking_pass *p, size_t step, int64_t i) noexcept nogil:
    """The i-th prompt's, ``step`` bytes apart, in structures of the caller's."""
    return <const asking_pass *>(<const char *>p + i * step)


cdef inline void combine(const micro *u, const asking_pass *p, size_t step, int64_t prompts, int64_t chunks,
                         int nthreads) noexcept nogil:
    """The prompts' answers: the chunks' sums brought to a common maximum."""
    cdef int64_t blocks = (p.e // HEADS + p.rank + SUMMED - 1) // SUMMED, i
    with parallel(num_threads=nthreads):
        for i in prange(prompts, schedule="static"):
            weigh_chunks(u, next_pass(p, step, i), chunks)
        for i in prange(prompts * blocks, schedule="static"):
            add_chunks(u, next_pass(p, step, i // blocks), chunks, i % blocks * SUMMED)
        for i in prange(prompts * HEADS, schedule="static"):
            answer_head(u, next_pass(p, step, i // HEADS), i % HEADS)
