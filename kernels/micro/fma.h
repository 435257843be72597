/* The GEMM's inner product by multiply-adds; see gemm.h. */
#include "fetch.h"

/* Sums are set aside every GEMM_DEPTH terms: a long one would round each of its terms to the precision of the whole. */
enum { GEMM_DEPTH = 256 };
/* A small tile has less time to spare for prefetches. */
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

/* acc += a (mr, count) * b (count, NR), and both go on to what follows */
INLINE void accumulate(const int mr, vf acc[][NV], const float **a, int64_t lda, int64_t step, const float **b, int64_t ldb,
                       int64_t count, lookahead *next)
{
    if (next->rows || next->at < next->end)
        accumulate_terms(mr, acc, a, lda, step, b, ldb, count, 1, next);
    else
        accumulate_terms(mr, acc, a, lda, step, b, ldb, count, 0, next);
}

/* The sums are what they shall be. */
INLINE void restore(const int mr, vf acc[][NV], const float *row, const float *column)
{
    (void)mr, (void)acc, (void)row, (void)column;
}
