/* The GEMM's inner loop with FMA instructions; see gemm.h. */
#include "fetch.h"

/* After every GEMM_DEPTH terms, the sums are added to y and begin again at zero, because adding a small term to a large sum loses
 * precision. */
enum { GEMM_DEPTH = 256 };
/* A small tile prefetches less often, because each of its steps takes less time. */
enum { GEMM_STEP = MR * NV < 16 ? 4 : 1, GEMM_LINES = 1 };

INLINE void accumulate_terms(const int mr, vf acc[][NV], const float **a, int64_t lda, int64_t step, const float **b, int64_t ldb,
                             int64_t count, const int fetches, lookahead *next)
{
    for (int64_t p = 0; p < count; p++, *a += step, *b += ldb) {
        if (fetches && p % GEMM_STEP == 0) {
            fetch_row(next);
            fetch_line(next);
        }
        vf bv[NV];
        UNROLL for (int v = 0; v < NV; v++) bv[v] = load(*b + v * VL);
        UNROLL for (int i = 0; i < mr; i++) {
            float ai = (*a)[i * lda];
            UNROLL for (int v = 0; v < NV; v++) acc[i][v] += ai * bv[v];
        }
    }
}

/* Adds the product a (mr, count) * b (count, NR) to the sums acc. Advances the pointers a and b by `count` terms. */
INLINE void accumulate(const int mr, vf acc[][NV], const float **a, int64_t lda, int64_t step, const float **b, int64_t ldb,
                       int64_t count, lookahead *next)
{
    if (next->rows || next->at < next->end)
        accumulate_terms(mr, acc, a, lda, step, b, ldb, count, 1, next);
    else
        accumulate_terms(mr, acc, a, lda, step, b, ldb, count, 0, next);
}

/* Does nothing, because sums of FMAs need no correction, unlike the sums of pairs.h. */
INLINE void restore(const int mr, vf acc[][NV], const float *row, const float *column)
{
    (void)mr, (void)acc, (void)row, (void)column;
}
