/* A float32 product with two thirds of the multiplications: y (m,n) = act(A (m,k) * B (k,n) + bias + residual) (product_args in micro.h).
 *
 * Winograd's inner product ("A New Algorithm for Inner Product", IEEE Trans. Comput. C-17, 1968) computes a pair of terms by one
 * multiplication and two additions:
 *
 *     a0*b0 + a1*b1 = (a0 + b1)*(a1 + b0) - a0*a1 - b0*b1
 *
 * The products a0*a1 depend only on a row of A, and the products b0*b1 only on a column of B. Packing sums them once for each row and each
 * column. The result is the "own sum" of the row or column. A CPU such as Zen 4 executes additions beside FMAs. If two of three pairs are
 * computed in this way, and the third by two FMAs, both the adders and the FMA units are busy: the work of four cycles takes 8/3 cycles.
 *
 * Each row of A and each column of B is first divided by a power of two, so that its root mean square is near 1. The division is exact.
 * The error of a sum is then at most 4*|row|*|column| times k roundings, compared with sum |a||b| times k roundings for FMAs alone. An
 * infinity in A or B gives NaN. A result is also NaN if the powers of two that its row and its column were divided by have a product
 * beyond float32's range.
 *
 * A stub defines PAIRS_PRODUCT (the struct's suffix), PAIRS_PLAIN (the ISA's float32 table), VL, MR, NV, vmin, vmax, vswap (exchanges
 * neighbouring lanes), and the instructions PAIRS_ADD (y = b + *a) and PAIRS_FMA (y += b * *a). These broadcast *a from memory, because
 * the registers' read ports limit the speed. */
#include "vector.h"
#include "fetch.h"

/* Packed A is a sequence of tiles of mr rows. A tile has one block of PAIRS_BLOCK floats of each row, then the next block of each row, and
 * so on, so that the inner loop reaches all rows by constant offsets from one pointer. At the end of a tile are PAIRS_ROW floats for each
 * row, of which the first is the row's own sum (of its products a0*a1) and the second is the row's power of two. Pair p is computed by two
 * FMAs if p % 3 = 2, otherwise by one multiplication. GEMM_DEPTH (gemm.h) is a multiple of PAIRS_BLOCK. */
enum { PAIRS_BLOCK = 48, GEMM_DEPTH = 7 * PAIRS_BLOCK, PAIRS_TERMS = 2, PAIRS_ROW = 16 };

/* Every GEMM_STEP terms, which take 70 cycles, GEMM_LINES cache lines are prefetched. Memory does not deliver lines faster. */
enum { GEMM_STEP = 6, GEMM_LINES = 2 };

/* Returns whether the pair of terms k and k + 1 is computed by one multiplication. */
INLINE int is_paired(int64_t k) { return k / 2 % 3 < 2; }

/* Adds a0*b0 + a1*b1 to acc. If paired, also adds a0*a1 and b0*b1, which `restore` subtracts later. */
INLINE void accumulate_pair(const int mr, vf acc[][NV], const float *a, const float *b, const int paired)
{
    vf b0[NV], b1[NV];
    UNROLL for (int v = 0; v < NV; v++) b0[v] = load(b + v * VL), b1[v] = load(b + NR + v * VL);
    UNROLL for (int i = 0; i < mr; i++)
        UNROLL for (int v = 0; v < NV; v++) {
            if (paired) {
                vf x, y;
                PAIRS_ADD(x, b1[v], a + i * PAIRS_BLOCK);
                PAIRS_ADD(y, b0[v], a + i * PAIRS_BLOCK + 1);
                acc[i][v] += x * y;
            } else {
                PAIRS_FMA(acc[i][v], b0[v], a + i * PAIRS_BLOCK);
                PAIRS_FMA(acc[i][v], b1[v], a + i * PAIRS_BLOCK + 1);
            }
        }
}

INLINE void accumulate(const int mr, vf acc[][NV], const float **a, int64_t lda, int64_t step, const float **b, int64_t ldb,
                       int64_t count, lookahead *next)
{
    (void)lda, (void)step, (void)ldb;
    for (; count > 0; count -= PAIRS_BLOCK, *a += mr * PAIRS_BLOCK) {
        const float *at = *a, *end = at + (count < PAIRS_BLOCK ? count : PAIRS_BLOCK);
        for (; at + 6 <= end; at += 6, *b += 6 * NR) {
            fetch_row(next);
            fetch_line(next);
            accumulate_pair(mr, acc, at, *b, 1);
            fetch_line(next);
            accumulate_pair(mr, acc, at + 2, *b + 2 * NR, 1);
            accumulate_pair(mr, acc, at + 4, *b + 4 * NR, 0);
        }
        for (; at < end; at += 2, *b += 2 * NR)
            accumulate_pair(mr, acc, at, *b, 1);
    }
}

/* Subtracts the own sums of the row and the column from each sum of the tile, and multiplies the difference by their powers of two. */
INLINE void restore(const int mr, vf acc[][NV], const float *row, const float *column)
{
    vf own[NV], scale[NV];
    UNROLL for (int v = 0; v < NV; v++) own[v] = load(column + v * VL), scale[v] = load(column + NR + v * VL);
    UNROLL for (int i = 0; i < mr; i++)
        UNROLL for (int v = 0; v < NV; v++)
            acc[i][v] = (acc[i][v] - (own[v] + row[i * PAIRS_ROW])) * (row[i * PAIRS_ROW + 1] * scale[v]);
}

#include "gemm.h"

INLINE float power_of_two(int e)
{
    const uint32_t bits = (uint32_t)(127 + e) << 23;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* Returns a power of two near the square root of a mean square. Returns 0 for 0, and NaN if the mean square is not finite. */
static float near_root(double square)
{
    if (!(square > 0 && square < INFINITY))
        return square == 0 ? 0.f : NAN;
    const int e = (ilogb(square) + 1) >> 1;
    return power_of_two(e < -126 ? -126 : e > 126 ? 126 : e);
}

INLINE float inverse_of(float power) { return power == 0.f ? 0.f : 1.f / power; }

/* Computes power_of_row in double precision, for a row whose squares may overflow or underflow in float32. */
static float near_extreme_root(const operand_args *g, const float *x)
{
    double square = 0;
    for (int64_t s = 0; s < g->segments; s++)
        for (int64_t p = 0; p < g->k; p++) {
            const double value = x[(g->offset ? g->offset[s] : 0) + p];
            square += value * value;
        }
    return near_root(square / (g->segments * g->k));
}

/* The position in packed A at which the next vector of a row is stored, and the row's own sum so far. */
typedef struct {
    float *y; /* y: the current block of the row in packed A */
    int64_t next; /* next: number of floats from a block to the next block of the same row */
    int phase; /* phase: index of the next vector in the current block */
    vf own[PAIRS_BLOCK / VL]; /* partial own sums, one for each vector of a block, so that additions do not wait for each other */
} pair_place;

/* Stores a vector of a row and adds the products of its pairs to the row's own sum. Both lanes of a pair hold the pair's product, so each
 * lane is multiplied by 1/2, or by 0 if the pair is computed by FMAs. */
INLINE void place_vector(pair_place *to, int phase, vf v)
{
    static const float halves[PAIRS_BLOCK] = {
#define PAIRS_HALF(p) (p) / 2 % 3 < 2 ? 0.5f : 0.f
#define PAIRS_HALVES(p) \
    PAIRS_HALF(p), PAIRS_HALF(p + 1), PAIRS_HALF(p + 2), PAIRS_HALF(p + 3), PAIRS_HALF(p + 4), PAIRS_HALF(p + 5), \
    PAIRS_HALF(p + 6), PAIRS_HALF(p + 7)
        PAIRS_HALVES(0), PAIRS_HALVES(8), PAIRS_HALVES(16), PAIRS_HALVES(24), PAIRS_HALVES(32), PAIRS_HALVES(40),
    };
    store(to->y + phase * VL, v);
    to->own[phase] += v * vswap(v) * load(halves + phase * VL);
}

/* Stores a segment of a row, multiplied by `inverse`. Every segment but the last must be a whole number of vectors. */
INLINE void place_segment(pair_place *to, const float *x, int64_t k, float inverse)
{
    int64_t p = 0;
    while (p < k)
        if (to->phase == 0 && p + PAIRS_BLOCK <= k) {
            UNROLL for (int i = 0; i < PAIRS_BLOCK / VL; i++) place_vector(to, i, load(x + p + i * VL) * inverse);
            p += PAIRS_BLOCK;
            to->y += to->next;
        } else {
            const vf v = (p + VL <= k ? load(x + p) : load_part(x + p, k - p, 0.f)) * inverse;
            UNROLL for (int i = 0; i < PAIRS_BLOCK / VL; i++)
                if (to->phase == i)
                    place_vector(to, i, v);
            p += VL;
            if (++to->phase == PAIRS_BLOCK / VL)
                to->phase = 0, to->y += to->next;
        }
}

/* Returns the sum of the squares of k floats as VL partial sums, one in each lane. */
INLINE vf squares_of(const float *x, int64_t k)
{
    vf squares[4] = {0};
    int64_t p = 0;
    for (; p + 4 * VL <= k; p += 4 * VL)
        UNROLL for (int i = 0; i < 4; i++) squares[i] += load(x + p + i * VL) * load(x + p + i * VL);
    for (; p < k; p += VL) {
        const vf v = p + VL <= k ? load(x + p) : load_part(x + p, k - p, 0.f);
        squares[0] += v * v;
    }
    return squares[0] + squares[1] + (squares[2] + squares[3]);
}

/* Returns a power of two near the root mean square of the row at x. */
INLINE float power_of_row(const operand_args *g, const float *x)
{
    vf squares = splat(0.f);
    for (int64_t s = 0; s < g->segments; s++)
        squares += squares_of(x + (g->offset ? g->offset[s] : 0), g->k);
    const float square = sum_lanes(squares) / (float)(g->segments * g->k);
    int32_t bits;
    memcpy(&bits, &square, sizeof bits);
    return square > 0x1p-100f && square < 0x1p100f ? power_of_two(((bits >> 23) - 126) >> 1) : near_extreme_root(g, x);
}

/* Divides the row at x by `power` and stores the quotients in the row's blocks at y. Requires one segment, or segments of whole vectors.
 * Returns the row's own sum. */
INLINE float place_row(float *y, int64_t next, const operand_args *g, const float *x, float power)
{
    pair_place to = {.y = y, .next = next};
    for (int64_t s = 0; s < g->segments; s++)
        place_segment(&to, x + (g->offset ? g->offset[s] : 0), g->k, inverse_of(power));
    UNROLL for (int i = 1; i < PAIRS_BLOCK / VL; i++) to.own[0] += to.own[i];
    return sum_lanes(to.own[0]);
}

/* Rows of fewer than PAIRS_SHALLOW floats are packed unchanged, and their products are computed by FMAs alone. */
enum { PAIRS_SHALLOW = 32 };

/* Returns the number of floats in a row of packed A. */
static int64_t floats_of_row(int64_t k)
{
    return k < PAIRS_SHALLOW ? k : (k + PAIRS_BLOCK - 1) / PAIRS_BLOCK * PAIRS_BLOCK + PAIRS_ROW;
}

/* Copies the segments of a row side by side. */
static void gather_row(float *y, const operand_args *g, const float *x)
{
    for (int64_t s = 0; s < g->segments; s++)
        memcpy(y + s * g->k, x + (g->offset ? g->offset[s] : 0), g->k * sizeof *x);
}

/* Packs A in the tiles that gemm reads. The powers of two of all rows of a tile are computed first, so that no row waits for its power. A
 * row whose segments are not whole vectors is first gathered in the scratch row after packed A. */
static void pair_rows(const operand_args *g, int64_t lda)
{
    const int64_t most = even_rows(g->m);
    const int gather = g->segments > 1 && g->k % VL;
    float *const together = (float *)g->operand + g->m * lda;
    operand_args from = *g;
    if (gather)
        from.k = g->segments * g->k, from.segments = 1, from.offset = NULL;
    for (int64_t first = 0; first < g->m; first += most) {
        const int64_t mr = g->m - first < most ? g->m - first : most;
        float *const tile = (float *)g->operand + first * lda, *const rows = tile + mr * (lda - PAIRS_ROW);
        const float *const a = g->a + first * g->lda;
        for (int64_t i = 0; i < mr; i++)
            rows[i * PAIRS_ROW + 1] = power_of_row(g, a + i * g->lda);
        for (int64_t i = 0; i < mr; i++) {
            const float *const x = a + i * g->lda;
            if (gather)
                gather_row(together, g, x);
            rows[i * PAIRS_ROW] =
                place_row(tile + i * PAIRS_BLOCK, mr * PAIRS_BLOCK, &from, gather ? together : x, rows[i * PAIRS_ROW + 1]);
        }
    }
}

static void pack_operand(const operand_args *g)
{
    const int64_t k = g->segments * g->k;
    for (int64_t i = 0; g->act && i < g->m; i++)
        for (int64_t s = 0; s < g->segments; s++) {
            float *x = g->a + i * g->lda + (g->offset ? g->offset[s] : 0);
            activate(x, x, g->k, g->act);
        }
    if (k >= PAIRS_SHALLOW)
        pair_rows(g, floats_of_row(k));
    else
        for (int64_t i = 0; i < g->m; i++)
            gather_row((float *)g->operand + i * k, g, g->a + i * g->lda);
}

static void product(const product_args *p)
{
    const int shallow = p->k < PAIRS_SHALLOW;
    const gemm_args g = {
        .m = p->m, .n = p->n, .k = shallow ? p->k : (p->k + PAIRS_TERMS - 1) / PAIRS_TERMS * PAIRS_TERMS, .segments = 1,
        .a = p->operand, .lda = floats_of_row(p->k), .step = 1, .b = p->b, .ldb = NR, .panel = p->panel, .bias = p->bias,
        .residual = p->residual, .ldr = p->ldr, .y = p->y, .ldy = p->ldy, .act = p->act, .ahead = p->ahead,
    };
    if (shallow)
        PAIRS_PLAIN.gemm(&g);
    else
        gemm(&g);
}

/* Computes the powers of two of a panel's columns in double precision, because squares may overflow or underflow in float32. */
static void near_extreme_roots(float *powers, const float *x, int64_t ldx, int64_t k)
{
    for (int64_t j = 0; j < NR; j++) {
        double square = 0;
        for (int64_t p = 0; p < k; p++)
            square += (double)x[p * ldx + j] * x[p * ldx + j];
        powers[j] = near_root(square / k);
    }
}

/* Packs a panel of NR columns from k rows at x. x and y may be the same array. Column j is divided by its power of two, 2^e[j].
 *
 *      row               y (K + 2, NR), K = k rounded up to an even number
 *      0                 x[0,0] / 2^e[0]     x[0,1] / 2^e[1]     ...      \ the pair 0
 *      1                 x[1,0] / 2^e[0]     x[1,1] / 2^e[1]     ...      /
 *      2                 x[2,0] / 2^e[0]     x[2,1] / 2^e[1]     ...      \ the pair 1
 *      3                 ...                                              /
 *      ...
 *      K - 1             zeros if k is odd
 *      K                 own[0]              own[1]              ...      sum of y[2q,j] * y[2q+1,j] over the pairs q that are
 *                                                                         computed by one multiplication (is_paired)
 *      K + 1             2^e[0]              2^e[1]              ...
 *
 * `restore` subtracts own[j] from the tile's sums and multiplies them by 2^e[j]. */
static void pair_panel(float *y, const float *x, int64_t ldx, int64_t k)
{
    const int64_t even = k / PAIRS_TERMS * PAIRS_TERMS;
    float *const own = y + (k + PAIRS_TERMS - 1) / PAIRS_TERMS * PAIRS_TERMS * NR, *const powers = own + NR;
    vf squares[PAIRS_TERMS][NV] = {0}, inverse[NV], sums[2][NV] = {0};
    int extreme = 0;
    for (int64_t p = 0; p < k; p += PAIRS_TERMS)
        UNROLL for (int i = 0; i < PAIRS_TERMS; i++)
            UNROLL for (int v = 0; v < NV && p + i < k; v++) {
                const vf value = load(x + (p + i) * ldx + v * VL);
                squares[i][v] += value * value;
            }
    for (int v = 0; v < NV; v++) {
        const vf square = (squares[0][v] + squares[1][v]) / (float)k;
        for (int l = 0; l < VL; l++)
            extreme |= !(square[l] > 0x1p-100f && square[l] < 0x1p100f);
        store(powers + v * VL, (vf)((((((vi)square >> 23) - 126) >> 1) + 127) << 23));
    }
    if (extreme)
        near_extreme_roots(powers, x, ldx, k);
    for (int v = 0; v < NV; v++) {
        inverse[v] = splat(1.f) / load(powers + v * VL);
        for (int l = 0; l < VL && extreme; l++)
            inverse[v][l] = inverse_of(powers[v * VL + l]);
    }
    for (int64_t p = 0; p < even; p += PAIRS_TERMS)
        UNROLL for (int v = 0; v < NV; v++) {
            const vf first = load(x + p * ldx + v * VL) * inverse[v], second = load(x + (p + 1) * ldx + v * VL) * inverse[v];
            store(y + p * NR + v * VL, first);
            store(y + (p + 1) * NR + v * VL, second);
            if (is_paired(p))
                sums[p / 2 % 2][v] += first * second;
        }
    UNROLL for (int v = 0; v < NV; v++) {
        if (even < k) {
            store(y + even * NR + v * VL, load(x + even * ldx + v * VL) * inverse[v]);
            store(y + k * NR + v * VL, splat(0.f));
        }
        store(own + v * VL, sums[0][v] + sums[1][v]);
    }
}

static void pack_pairs(float *y, const void *w, int half, int64_t n, int64_t k, int64_t ldw)
{
    pack(y, w, half, n, k, ldw);
    if (k >= PAIRS_SHALLOW)
        pair_panel(y, y, NR, k);
}

static void pack_pair_columns(float *y, const float *x, int64_t ldx, int64_t k)
{
    if (k < PAIRS_SHALLOW)
        pack_columns(y, x, ldx, k);
    else
        pair_panel(y, x, ldx, k);
}

#define PAIRS_NAME_(suffix) packed_##suffix
#define PAIRS_NAME(suffix) PAIRS_NAME_(suffix)

const packed_product PAIRS_NAME(PAIRS_PRODUCT) = {
    .pack_operand = pack_operand,
    .product = product,
    .pack = pack_pairs,
    .pack_columns = pack_pair_columns,
    .weight = {.columns = NR, .terms = 1, .depth = PAIRS_TERMS, .extra = 2, .pieces = 1, .operand = PAIRS_TERMS * sizeof(float)},
};
