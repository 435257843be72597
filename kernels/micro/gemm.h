/* The float32 GEMM: its register tile, its edges, and the packing of weights. micro.h has the equation and the layout (gemm_args).
 *
 * Before it includes this file, fma.h or pairs.h defines the inner loop:
 *     accumulate                adds a * b to the sums acc,
 *     restore                   corrects the sums at the end of a tile,
 *     GEMM_DEPTH                the number of terms after which the sums are added to y and begin again at zero,
 *     GEMM_STEP, GEMM_LINES     every GEMM_STEP terms, GEMM_LINES cache lines are prefetched. */

#include "fetch.h"

static void activate(float *y, const float *x, int64_t n, int act)
{
    if (act == ACT_GELU)
        activate_row(y, x, n, ACT_GELU);
    else if (act == ACT_RELU)
        activate_row(y, x, n, ACT_RELU);
    else if (y != x)
        memmove(y, x, n * sizeof(float));
}

/* Computes one register tile of mr rows by NR columns. After inlining, mr is a constant. bias, residual and y have NR columns.
 * Sums start at zero, not at the residual, because adding small terms to a large residual would lose precision. */
INLINE void tile(const int mr, const gemm_args *g, const float *a, const float *b, const float *bias,
                 const float *residual, int64_t ldr, float *y, int64_t ldy, lookahead *next)
{
    vf acc[MR][NV] = {0};
    const int64_t lda = g->lda, step = g->step, ldb = g->ldb;
    int64_t terms_left = GEMM_DEPTH, partial = 0;
    const float *as = a;
    for (int64_t s = 0; s < g->segments; s++) {
        as = a + (g->offset ? g->offset[s] : 0);
        for (int64_t k = g->k; k;) {
            if (!terms_left) {
                UNROLL for (int i = 0; i < mr; i++)
                    UNROLL for (int v = 0; v < NV; v++) {
                        float *at = y + i * ldy + v * VL;
                        store(at, partial ? load(at) + acc[i][v] : acc[i][v]);
                        acc[i][v] = splat(0.f);
                    }
                partial = 1;
                terms_left = GEMM_DEPTH;
            }
            const int64_t count = k < terms_left ? k : terms_left;
            k -= count;
            terms_left -= count;
            accumulate(mr, acc, &as, lda, step, &b, ldb, count, next);
        }
    }
    if (partial)
        UNROLL for (int i = 0; i < mr; i++)
            UNROLL for (int v = 0; v < NV; v++) acc[i][v] += load(y + i * ldy + v * VL);
    restore(mr, acc, as, b);
    if (bias)
        UNROLL for (int v = 0; v < NV; v++) {
            vf bv = load(bias + v * VL);
            UNROLL for (int i = 0; i < mr; i++) acc[i][v] += bv;
        }
    if (residual)
        UNROLL for (int i = 0; i < mr; i++)
            UNROLL for (int v = 0; v < NV; v++) acc[i][v] += load(residual + i * ldr + v * VL);
    UNROLL for (int i = 0; i < mr; i++)
        UNROLL for (int v = 0; v < NV; v++) store(y + i * ldy + v * VL, acc[i][v]);
}

/* Calls `tile` with mr as a constant. */
static void tile_rows(int64_t mr, const gemm_args *g, const float *a, const float *b, const float *bias,
                      const float *residual, int64_t ldr, float *y, int64_t ldy, lookahead *next)
{
#define GEMM_ROWS(n) case n: tile(n, g, a, b, bias, residual, ldr, y, ldy, next); break;
    switch (mr) {
    GEMM_ROWS(1) GEMM_ROWS(2) GEMM_ROWS(3) GEMM_ROWS(4)
#if MR > 4
    GEMM_ROWS(5)
#endif
#if MR > 5
    GEMM_ROWS(6)
#endif
#if MR > 6
    GEMM_ROWS(7) GEMM_ROWS(8) GEMM_ROWS(9) GEMM_ROWS(10) GEMM_ROWS(11) GEMM_ROWS(12)
#endif
#if MR > 12
    GEMM_ROWS(13)
#endif
#if MR > 13
    GEMM_ROWS(14)
#endif
    }
#undef GEMM_ROWS
}

/* Computes a tile of the last panel if the panel has only nr < NR columns, in a buffer with NR columns. */
static void tile_edge(int64_t mr, int64_t nr, const gemm_args *g, const float *a, const float *b, const float *bias,
                      const float *residual, float *y, lookahead *next)
{
    float full[MR * NR], full_bias[NR] = {0}, full_residual[MR * NR] = {0};
    if (bias)
        memcpy(full_bias, bias, nr * sizeof(float));
    if (residual)
        for (int64_t i = 0; i < mr; i++)
            memcpy(full_residual + i * NR, residual + i * g->ldr, nr * sizeof(float));
    tile_rows(mr, g, a, b, full_bias, full_residual, NR, full, NR, next);
    for (int64_t i = 0; i < mr; i++)
        memcpy(y + i * g->ldy, full + i * NR, nr * sizeof(float));
}

/* Returns the number of rows in a tile, so that all tiles have about the same number of rows. A tile with few rows would wait for the FMA
 * latency. */
INLINE int64_t even_rows(int64_t m)
{
    const int64_t tiles = (m + MR - 1) / MR;
    return tiles ? (m + tiles - 1) / tiles : MR;
}

/* Returns whether the residual's rows need prefetching. If rows lie close together, the CPU itself prefetches them. */
INLINE int residual_is_far(const gemm_args *g) { return g->residual && g->ldr >= 256; }

/* Prefetches the residual of a product's first tile, which has mr rows. Returns the state of the prefetches of a product of `tiles` tiles.
 * If there is nothing to prefetch, `at` points to b, which is in L1 anyway. */
INLINE lookahead look_ahead(const gemm_args *g, int64_t tiles, int64_t mr)
{
    lookahead next = {.at = (const char *)g->b, .end = (const char *)g->b, .row = (const char *)g->residual};
    if (g->ahead.bytes) {
        next.at = g->ahead.at, next.last = next.at + g->ahead.bytes;
        next.share = (g->ahead.bytes / 64 / tiles + 1) * 64;
        next.paced = g->segments * g->k * GEMM_LINES / GEMM_STEP * 64;
    }
    next.step = g->ldr * sizeof(float);
    for (next.rows = residual_is_far(g) ? mr : 0; next.rows;)
        fetch_row(&next);
    return next;
}

/* Sets up the prefetches during the tile at (i, j): the tile's share of `ahead`, and the residual of the next tile. Tiles have up to `most`
 * rows. If the tile's inner loop has no time for the whole share, the excess is prefetched at once. */
INLINE void look_beyond(lookahead *next, const gemm_args *g, int64_t most, int64_t i, int64_t j)
{
    if (residual_is_far(g)) {
        const int64_t first = i + most < g->m ? i + most : 0, column = first ? j : j + NR;
        next->rows = column + NR > g->n ? 0 : g->m - first < most ? g->m - first : most;
        if (next->rows)
            next->row = (const char *)(g->residual + first * g->ldr + column);
    }
    if (next->share) {
        next->end = next->last - next->at < next->share ? next->last : next->at + next->share;
        while (next->end - next->at > next->paced)
            fetch_line(next);
    }
}

/* The outer loop runs over panels of b, so that a panel stays in L1 or L2 while all rows of a use it. */
static void gemm(const gemm_args *g)
{
    const int64_t most = even_rows(g->m);
    const int64_t tiles = (g->n + NR - 1) / NR * ((g->m + most - 1) / most);
    if (!tiles)
        return;
    lookahead next = look_ahead(g, tiles, most < g->m ? most : g->m);
    for (int64_t j = 0; j < g->n; j += NR) {
        const float *b = g->b + j / NR * g->panel;
        const float *bias = g->bias ? g->bias + j : NULL;
        const int64_t nr = g->n - j < NR ? g->n - j : NR;
        for (int64_t i = 0; i < g->m; i += most) {
            const int64_t mr = g->m - i < most ? g->m - i : most;
            const float *a = g->a + i * g->lda;
            const float *residual = g->residual ? g->residual + i * g->ldr + j : NULL;
            float *y = g->y + i * g->ldy + j;
            look_beyond(&next, g, most, i, j);
            if (nr == NR)
                tile_rows(mr, g, a, b, bias, residual, g->ldr, y, g->ldy, &next);
            else
                tile_edge(mr, nr, g, a, b, bias, residual, y, &next);
            if (g->act)
                for (int64_t r = 0; r < mr; r++)
                    activate(y + r * g->ldy, y + r * g->ldy, nr, g->act);
        }
    }
}

/* Reads n weights as float32: x[p] = w[p],  p < n. w is float16 if half, else float32. */
INLINE void read_row(float *x, const void *w, int half, int64_t n)
{
    if (half)
        for (int64_t p = 0; p < n; p++)
            x[p] = from_half(((const uint16_t *)w)[p]);
    else
        memcpy(x, w, n * sizeof *x);
}

/* Packs a panel, NR columns of the product: y[p, j] = w[j, p] for j < n <= NR, and 0 in the other columns. Each row of w has k float16
 * or float32 numbers, and rows lie ldw numbers apart.
 *
 *          w (n, k)                                   y (k, NR)
 *          p ->                                       j ->
 *      j   w[0,0]   w[0,1]   ...  w[0,k-1]        p   w[0,0]   w[1,0]   ...  w[n-1,0]   0 ... 0
 *      |   w[1,0]   w[1,1]   ...  w[1,k-1]        |   w[0,1]   w[1,1]   ...  w[n-1,1]   0 ... 0
 *      v   ...                                    v   ...
 *          w[n-1,0] w[n-1,1] ...  w[n-1,k-1]          w[0,k-1] w[1,k-1] ...  w[n-1,k-1] 0 ... 0
 *
 * For each term p of its sums, the tile reads a row of y, which is NR contiguous floats. */
static void pack(float *y, const void *w, int half, int64_t n, int64_t k, int64_t ldw)
{
    enum { SIDE = 16 };
    float block[NR][SIDE];
    if (!half && n == NR) {
        transpose(y, NR, w, ldw, NR, k);
        return;
    }
    memset(block, 0, sizeof block);
    for (int64_t p = 0; p < k; p += SIDE) {
        const int64_t count = k - p < SIDE ? k - p : SIDE;
        for (int64_t j = 0; j < n; j++)
            read_row(block[j], (const char *)w + (j * ldw + p) * (half ? sizeof(uint16_t) : sizeof(float)), half, count);
        transpose(y + p * NR, NR, block[0], SIDE, NR, count);
    }
}

static void pack_columns(float *y, const float *x, int64_t ldx, int64_t k)
{
    for (int64_t p = 0; p < k; p++)
        UNROLL for (int v = 0; v < NV; v++) store(y + p * NR + v * VL, load(x + p * ldx + v * VL));
}
