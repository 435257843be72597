/* Memory fetched into L2 between multiplications, ahead of its use. Included by gemm.h, fma.h and pairs.h.
 *
 * One line at a time: a burst of prefetches fills the queue that every load goes through, and the multiplications wait behind it. */
#ifndef MOBILESAM_FETCH_H
#define MOBILESAM_FETCH_H

/* What is left to fetch: the lines from `at` to `end`, and so many rows of NR floats, `step` bytes apart. Of lines there are those to
 * `last`, a `share` of bytes for each tile, of which it has time for `paced`. (Of dot_rows `paced` is lines a step.) */
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
