/* Prefetches into L2 between multiplications. Included by gemm.h, fma.h and pairs.h.
 *
 * Cache lines are prefetched one at a time, because a burst of prefetches fills the queue of all loads and stalls the multiplications. */
#ifndef MOBILESAM_FETCH_H
#define MOBILESAM_FETCH_H

/* Two blocks of memory that are still to be prefetched.
 *
 * The first block is the memory of `ahead` (micro.h). `at` is its next cache line, and `last` is its end. Each tile prefetches `share`
 * bytes, up to `end`. A tile's inner loop has time to prefetch `paced` bytes. In dot_rows, `paced` is the number of cache lines for each
 * step instead.
 *
 * The second block is the residual of the next tile: `rows` rows of NR floats, `step` bytes apart. The next row is at `row`. */
typedef struct {
    const char *at, *end, *last, *row;
    int64_t rows, step, share, paced;
} lookahead;

INLINE void fetch_line(lookahead *next)
{
    __builtin_prefetch(next->at, 0, 2);
    next->at += next->at < next->end ? 64 : 0;
}

INLINE void fetch_row(lookahead *next)
{
    if (!next->rows)
        return;
    UNROLL for (int64_t i = 0; i < NR * (int64_t)sizeof(float); i += 64) __builtin_prefetch(next->row + i, 0, 2);
    next->row += next->step;
    next->rows--;
}

#endif
