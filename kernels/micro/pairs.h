/* The product in float32 with two thirds of the multiplications: Winograd's inner product ("A New Algorithm for Inner Product",
 * IEEE Trans. Comput. C-17, 1968) takes two terms by one multiplication and two additions,
 *
 *     a0*b0 + a1*b1 = (a0 + b1)*(a1 + b0) - a0*a1 - b0*b1,
 *
 * where the last two belong to a row and to a column alone and are summed once for it. Where a CPU adds beside its FMAs, as
 * Zen 4 does, two of three pairs taken so keep both kinds of unit busy: four cycles' work is done in 8/3.
 *
 * Each row of a and each column of b is first divided by the power of two that brings its root mean square near 1, which is
 * exact. A sum of k terms then errs by at most 4*|row|*|column| where the usual one errs by sum |a||b|, both times k roundings.
 * An infinity gives NaN, and so may a row and a column whose powers of two multiply beyond float32's range.
 *
 * A stub defines PRODUCT (the struct's suffix), VL, MR, NV, vmin, vmax, vswap (neighbouring lanes exchanged), and the two
 * instructions ADD_ALL (y = b + *a) and FMA_ALL (y += b * *a) that take *a, one float for all lanes, from memory: there is no
 * room for a third register to be read. */
#include "vector.h"
#include "fetch.h"

/* An operand's rows lie by tiles of mr of them, cut into blocks of 48 floats: a block of each row, then the next, that every float
 * is a constant away from one pointer; last, ROW floats for each row, of which two are its own products' sum and its power of
 * two. Pair p is taken by one multiplication unless p % 3 = 2. Sums are set aside at the end of a block; see gemm.h. */
enum { BLOCK = 48, DEPTH = 7 * BLOCK, PAIR = 2, ROW = 16 };

/* LINES are fetched every STEP terms: no faster than memory gives them, beside 70 cycles of multiplications. */
enum { STEP = 6, LINES = 2 };

INLINE int is_paired(int64_t k) { return k / 2 % 3 < 2; }

INLINE void accumulate_pair(const int mr, vf acc[][NV], const float *a, const float *b, const int paired)
{
    vf b0[NV], b1[NV];
    UNROLL for (int v = 0; v < NV; v++) b0[v] = load(b + v * VL), b1[v] = load(b + NR + v * VL);
    UNROLL for (int i = 0; i < mr; i++)
        UNROLL for (int v = 0; v < NV; v++) {
            if (paired) {
                vf x, y;
                ADD_ALL(x, b1[v], a + i * BLOCK);
                ADD_ALL(y, b0[v], a + i * BLOCK + 1);
                acc[i][v] += x * y;
            } else {
                FMA_ALL(acc[i][v], b0[v], a + i * BLOCK);
                FMA_ALL(acc[i][v], b1[v], a + i * BLOCK + 1);
            }
        }
}

INLINE void accumulate(const int mr, vf acc[][NV], const float **a, int64_t lda, int64_t step, const float **b, int64_t ldb,
                       int64_t count, lookahead *next)
{
    (void)lda, (void)step, (void)ldb;
    for (; count > 0; count -= BLOCK, *a += mr * BLOCK) {
        const float *at = *a, *end = at + (count < BLOCK ? count : BLOCK);
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

/* The sums as they would be otherwise, by what lies behind the rows and the columns. */
INLINE void restore(const int mr, vf acc[][NV], const float *row, const float *column)
{
    vf own[NV], scale[NV];
    UNROLL for (int v = 0; v < NV; v++) own[v] = load(column + v * VL), scale[v] = load(column + NR + v * VL);
    UNROLL for (int i = 0; i < mr; i++)
        UNROLL for (int v = 0; v < NV; v++)
            acc[i][v] = (acc[i][v] - (own[v] + row[i * ROW])) * (row[i * ROW + 1] * scale[v]);
}

#include "gemm.h"

INLINE float power_of_two(int e)
{
    const uint32_t bits = (uint32_t)(127 + e) << 23;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* The power of two next to a root mean square, from the mean square; 0 where that is 0, and NaN where it is not finite. */
static float near_root(double square)
{
    if (!(square > 0 && square < INFINITY))
        return square == 0 ? 0.f : NAN;
    const int e = (ilogb(square) + 1) >> 1;
    return power_of_two(e < -126 ? -126 : e > 126 ? 126 : e);
}

INLINE float inverse_of(float power) { return power == 0.f ? 0.f : 1.f / power; }

/* Of a row whose squares overflow in float32 or may be lost. */
static float near_extreme_root(const gemm_args *g, const float *x)
{
    double square = 0;
    for (int64_t s = 0; s < g->segments; s++)
        for (int64_t p = 0; p < g->k; p++) {
            const double value = x[(g->offset ? g->offset[s] : 0) + p];
            square += value * value;
        }
    return near_root(square / (g->segments * g->k));
}

/* Where a row goes: its place in the tile's present block, `next` from one to the next, and the block's vector. Of its own products
 * there is a sum for each vector of a block, that none waits for the one before. */
typedef struct {
    float *y;
    int64_t next;
    int phase;
    vf own[BLOCK / VL];
} pair_place;

/* A vector's own products go by pairs of lanes, of which `halves` has one half for each lane of a pair that is taken so. */
INLINE void place_vector(pair_place *to, int phase, vf v)
{
    static const float halves[BLOCK] = {
#define HALF(p) (p) / 2 % 3 < 2 ? 0.5f : 0.f
#define HALVES(p) HALF(p), HALF(p + 1), HALF(p + 2), HALF(p + 3), HALF(p + 4), HALF(p + 5), HALF(p + 6), HALF(p + 7)
        HALVES(0), HALVES(8), HALVES(16), HALVES(24), HALVES(32), HALVES(40),
    };
    store(to->y + phase * VL, v);
    to->own[phase] += v * vswap(v) * load(halves + phase * VL);
}

/* A row's segment, divided by a power of two; whole vectors unless it is the last. */
INLINE void place_segment(pair_place *to, const float *x, int64_t k, float inverse)
{
    int64_t p = 0;
    while (p < k)
        if (to->phase == 0 && p + BLOCK <= k) {
            UNROLL for (int i = 0; i < BLOCK / VL; i++) place_vector(to, i, load(x + p + i * VL) * inverse);
            p += BLOCK;
            to->y += to->next;
        } else {
            const vf v = (p + VL <= k ? load(x + p) : load_part(x + p, k - p, 0.f)) * inverse;
            UNROLL for (int i = 0; i < BLOCK / VL; i++)
                if (to->phase == i)
                    place_vector(to, i, v);
            p += VL;
            if (++to->phase == BLOCK / VL)
                to->phase = 0, to->y += to->next;
        }
}

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

/* The power of two next to the root mean square of the row at x. */
INLINE float power_of_row(const gemm_args *g, const float *x)
{
    vf squares = splat(0.f);
    for (int64_t s = 0; s < g->segments; s++)
        squares += squares_of(x + (g->offset ? g->offset[s] : 0), g->k);
    const float square = sum_lanes(squares) / (float)(g->segments * g->k);
    int32_t bits;
    memcpy(&bits, &square, sizeof bits);
    return square > 0x1p-100f && square < 0x1p100f ? power_of_two(((bits >> 23) - 126) >> 1) : near_extreme_root(g, x);
}

/* That row, of segments of whole vectors or of a single one, divided by its power, to its blocks at y. Returns its own products' sum. */
INLINE float place_row(float *y, int64_t next, const gemm_args *g, const float *x, float power)
{
    pair_place to = {.y = y, .next = next};
    for (int64_t s = 0; s < g->segments; s++)
        place_segment(&to, x + (g->offset ? g->offset[s] : 0), g->k, inverse_of(power));
    UNROLL for (int i = 1; i < BLOCK / VL; i++) to.own[0] += to.own[i];
    return sum_lanes(to.own[0]);
}

/* Tile by tile, as gemm will read them; a tile's powers first, that no row waits for its own. A row whose segments are no whole
 * vectors is first brought together, behind all the others. */
static void pair_rows(const gemm_args *g, int64_t lda)
{
    const int64_t most = even_rows(g->m);
    const int gather = g->segments > 1 && g->k % VL;
    float *const together = (float *)g->operand + g->m * lda;
    gemm_args from = *g;
    if (gather)
        from.k = g->segments * g->k, from.segments = 1, from.offset = NULL;
    for (int64_t first = 0; first < g->m; first += most) {
        const int64_t mr = g->m - first < most ? g->m - first : most;
        float *const tile = (float *)g->operand + first * lda, *const rows = tile + mr * (lda - ROW);
        const float *const a = g->a + first * g->lda;
        for (int64_t i = 0; i < mr; i++)
            rows[i * ROW + 1] = power_of_row(g, a + i * g->lda);
        for (int64_t i = 0; i < mr; i++) {
            const float *const x = a + i * g->lda;
            for (int64_t s = 0; s < g->segments && gather; s++)
                memcpy(together + s * g->k, x + g->offset[s], g->k * sizeof *x);
            rows[i * ROW] = place_row(tile + i * BLOCK, mr * BLOCK, &from, gather ? together : x, rows[i * ROW + 1]);
        }
    }
}

/* A row so short is not worth its scales: it is read in place, or as an operand from where it was copied to. */
enum { SHALLOW = 32 };

static void shallow_product(const gemm_args *g)
{
    gemm_args plain = *g;
    for (int64_t i = 0; i < g->m && !g->n; i++)
        for (int64_t s = 0; s < g->segments; s++)
            memcpy((float *)g->operand + (i * g->segments + s) * g->k, g->a + i * g->lda + (g->offset ? g->offset[s] : 0),
                   g->k * sizeof(float));
    if (!g->a)
        plain.a = g->operand, plain.lda = plain.k = g->segments * g->k, plain.segments = 1, plain.offset = NULL;
    PLAIN.gemm(&plain);
}

static void product(const gemm_args *g)
{
    const int64_t k = g->segments * g->k;
    gemm_args rows = *g;
    if (k < SHALLOW) {
        shallow_product(g);
        return;
    }
    rows.k = (k + PAIR - 1) / PAIR * PAIR, rows.segments = 1, rows.offset = NULL;
    rows.a = g->operand, rows.lda = (k + BLOCK - 1) / BLOCK * BLOCK + ROW;
    if (g->a)
        pair_rows(g, rows.lda);
    gemm(&rows);
}

/* Squares of a panel's columns may be lost or overflow in float32. */
static void near_extreme_roots(float *powers, const float *x, int64_t ldx, int64_t k)
{
    for (int64_t j = 0; j < NR; j++) {
        double square = 0;
        for (int64_t p = 0; p < k; p++)
            square += (double)x[p * ldx + j] * x[p * ldx + j];
        powers[j] = near_root(square / k);
    }
}

/* Of k rows at x, which may be y: each of a panel's columns divided by its power of two, which lies behind it, after the columns' own
 * products' sums. Rows that are odd in number have zeros for another. */
static void pair_panel(float *y, const float *x, int64_t ldx, int64_t k)
{
    const int64_t even = k / PAIR * PAIR;
    float *const own = y + (k + PAIR - 1) / PAIR * PAIR * NR, *const powers = own + NR;
    vf squares[PAIR][NV] = {0}, inverse[NV], sums[2][NV] = {0};
    int extreme = 0;
    for (int64_t p = 0; p < k; p += PAIR)
        UNROLL for (int i = 0; i < PAIR; i++)
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
    for (int64_t p = 0; p < even; p += PAIR)
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
    if (k >= SHALLOW)
        pair_panel(y, y, NR, k);
}

static void pack_pair_columns(float *y, const float *x, int64_t ldx, int64_t k)
{
    if (k < SHALLOW)
        pack_columns(y, x, ldx, k);
    else
        pair_panel(y, x, ldx, k);
}

#define NAME_(suffix) narrow_##suffix
#define NAME(suffix) NAME_(suffix)

const narrow_product NAME(PRODUCT) = {
    .product = product,
    .pack = pack_pairs,
    .pack_columns = pack_pair_columns,
    .weight = {.columns = NR, .terms = 1, .depth = PAIR, .extra = 2, .pieces = 1, .operand = PAIR * sizeof(float)},
};
