/* The product in a narrow precision: a's rows are converted to bf16 or int8, multiplied by a weight of the same kind and
 * summed in 32 bits; the epilogue goes on in float32. A stub defines PRODUCT (the struct's suffix), TERMS (neighbouring k
 * in a 32-bit word: 2 for bf16, 4 for int8), VL, vmin and vmax, includes this, and then defines `multiply` and its frame.
 *
 * bf16 rounds to nearest, ties to even, and takes what is below the normal numbers for zero, as the instructions do.
 * int8 has a scale for each row of a and each column of b, largest magnitude / 127, and rounds to nearest, ties to even;
 * the scale is NaN where a value is not finite.
 *
 * An operand is cut into tiles of 16 rows by 64 bytes, in the order (row / 16, k / DEPTH), zeros beyond m and k: AMX loads
 * one as it is, other instructions broadcast its words. int8 has the rows' scales behind the tiles. */
#include "vector.h"

enum { COLUMNS = 32, TILE_ROWS = 16, TILE = 1024, DEPTH = 16 * TERMS, BLOCK = 2 * TILE_ROWS };

#if TERMS == 2
typedef float sum;
enum { EXTRA = 0 };
#else
typedef int32_t sum;
static const float LEAST = 0x1p-121f; /* of a row's largest; the inverse of the scale overflows below */
enum { EXTRA = 2 }; /* rows of a panel: the columns' scales, and -128 times their sums for stubs that add 128 to a */
#ifndef OFFSET
#define OFFSET 0
#endif
#endif

/* sums[i][j] of rows i < 16, or < 32 where rows > 16, and one panel: `tiles` tiles deep, rows of tiles that far apart */
static void multiply(sum (*sums)[COLUMNS], int64_t rows, const char *a, int64_t tiles, const uint32_t *b);
static void begin(void); /* a thread's products, and their end */
static void end(void);

#if TERMS == 2
INLINE uint16_t to_bf16(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if ((bits & 0x7f800000) == 0)
        return bits >> 16 & 0x8000;
    if ((bits & 0x7fffffff) > 0x7f800000)
        return bits >> 16 | 0x40;
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

/* DEPTH floats to 64 bytes */
INLINE void narrow_block(char *y, const float *x, float scale, const int act)
{
    (void)scale;
    const __m512bh pair = _mm512_cvtne2ps_pbh((__m512)act_v(load(x + 16), act), (__m512)act_v(load(x), act));
    memcpy(y, &pair, sizeof pair);
}
#else
INLINE void narrow_block(char *y, const float *x, float scale, const int act)
{
    (void)act; /* done before the largest was sought */
#if VL == 16
    UNROLL for (int p = 0; p < DEPTH; p += VL) {
        const __m128i bytes = _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32((__m512)(load(x + p) * scale)));
        _mm_storeu_si128((__m128i *)(y + p), _mm_xor_si128(bytes, _mm_set1_epi8((char)OFFSET)));
    }
#else
    const __m256i in_order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    UNROLL for (int p = 0; p < DEPTH; p += 4 * VL) {
        __m256i q[4];
        UNROLL for (int v = 0; v < 4; v++) q[v] = _mm256_cvtps_epi32((__m256)(load(x + p + v * VL) * scale));
        const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
        _mm256_storeu_si256((__m256i *)(y + p), _mm256_xor_si256(_mm256_permutevar8x32_epi32(bytes, in_order),
                                                                 _mm256_set1_epi8((char)OFFSET)));
    }
#endif
}

/* max |x|, and NaN where x has one or an infinity */
INLINE float largest(const float *x, int64_t n, float before)
{
    vf top = splat(before), bad = splat(before * 0.f);
    int64_t j = 0;
    for (; j + VL <= n; j += VL) {
        const vf v = load(x + j);
        top = vmax(top, (vf)((vi)v & 0x7fffffff));
        bad += v * 0.f;
    }
    if (j < n) {
        const vf v = load_part(x + j, n - j, 0.f);
        top = vmax(top, (vf)((vi)v & 0x7fffffff));
        bad += v * 0.f;
    }
    return max_lanes(top) + sum_lanes(bad);
}
#endif

/* One row of a, from its segments, to its place in the operand. */
INLINE void narrow_row(const gemm_args *g, const float *a, int64_t tiles, char *y, float scale, const int act)
{
    for (int64_t t = 0; t < tiles; t++, y += TILE) {
        int64_t s = 0, p = t * DEPTH;
        while (p >= g->k && s + 1 < g->segments)
            p -= g->k, s++;
        if (p + DEPTH <= g->k) {
            narrow_block(y, a + (g->offset ? g->offset[s] : 0) + p, scale, act);
            continue;
        }
        float block[DEPTH] = {0};
        for (int64_t room = DEPTH; room && s < g->segments; s++, p = 0) {
            const int64_t count = g->k - p < room ? g->k - p : room;
            memcpy(block + DEPTH - room, a + (g->offset ? g->offset[s] : 0) + p, count * sizeof(float));
            room -= count;
        }
        narrow_block(y, block, scale, act);
    }
}

INLINE void narrow_rows_act(const gemm_args *g, int64_t tiles, const int act)
{
    const int64_t rows = (g->m + TILE_ROWS - 1) / TILE_ROWS * TILE_ROWS;
    char *operand = g->operand;
    for (int64_t i = 0; i < rows; i++) {
        char *y = operand + (i / TILE_ROWS * tiles * TILE_ROWS + i % TILE_ROWS) * 64;
        if (i >= g->m) {
            for (int64_t t = 0; t < tiles; t++)
                memset(y + t * TILE, 0, 64);
            continue;
        }
        float inverse = 1.f;
#if TERMS == 4
        float top = 0.f;
        if (act)
            activate_row((float *)g->a + i * g->lda, g->a + i * g->lda, g->k, act);
        for (int64_t s = 0; s < g->segments; s++)
            top = largest(g->a + i * g->lda + (g->offset ? g->offset[s] : 0), g->k, top);
        inverse = top >= LEAST ? 127.f / top : 0.f;
        ((float *)(operand + rows * tiles * 64))[i] = top / 127.f;
#endif
        narrow_row(g, g->a + i * g->lda, tiles, y, inverse, act);
    }
}

static void narrow_rows(const gemm_args *g, int64_t tiles)
{
    if (g->act_a == ACT_GELU)
        narrow_rows_act(g, tiles, ACT_GELU);
    else
        narrow_rows_act(g, tiles, ACT_NONE);
}

/* Vector v of a row of sums as float32 */
INLINE vf widen(const sum *sums, const float *scales, float scale, int v)
{
#if TERMS == 2
    (void)scales, (void)scale;
    return load(sums + v);
#else
    vi whole, correction;
    memcpy(&whole, sums + v, sizeof whole);
    memcpy(&correction, scales + COLUMNS + v, sizeof correction);
    if (OFFSET)
        whole += correction;
    return __builtin_convertvector(whole, vf) * (load(scales + v) * scale);
#endif
}

typedef struct {
    const gemm_args *g;
    sum (*sums)[COLUMNS];
    const float *row_scales, *scales, *bias; /* of this block's rows and columns, bias never NULL */
    int64_t i, j, m; /* where the block is, and its rows */
} block;

/* a whole block of y, 32 columns */
INLINE void finish(const block *b, const int residual, const int act)
{
    const gemm_args *g = b->g;
    vf bias[COLUMNS / VL];
    UNROLL for (int v = 0; v < COLUMNS / VL; v++) bias[v] = load(b->bias + v * VL);
    for (int64_t r = 0; r < b->m; r++) {
        float *y = g->y + (b->i + r) * g->ldy + b->j;
        UNROLL for (int v = 0; v < COLUMNS / VL; v++) {
            vf s = widen(b->sums[r], b->scales, EXTRA ? b->row_scales[r] : 1.f, v * VL) + bias[v];
            if (residual)
                s += load(g->residual + (b->i + r) * g->ldr + b->j + v * VL);
            store(y + v * VL, act_v(s, act));
        }
    }
}

static void finish_whole(const block *b)
{
#define FINISH(a) if (b->g->residual) finish(b, 1, a); else finish(b, 0, a);
    if (b->g->act == ACT_GELU) {
        FINISH(ACT_GELU)
    } else if (b->g->act == ACT_RELU) {
        FINISH(ACT_RELU)
    } else {
        FINISH(ACT_NONE)
    }
#undef FINISH
}

/* the last, partial panel, n < 32 columns, through a whole-width copy */
static void finish_part(const block *b, int64_t n)
{
    float y[BLOCK][COLUMNS], residual[BLOCK][COLUMNS], bias[COLUMNS];
    gemm_args g = *b->g;
    block whole = *b;
    memcpy(bias, b->bias, n * sizeof(float));
    for (int64_t r = 0; g.residual && r < b->m; r++)
        memcpy(residual[r], g.residual + (b->i + r) * g.ldr + b->j, n * sizeof(float));
    g.y = y[0], g.ldy = g.ldr = COLUMNS, g.residual = g.residual ? residual[0] : NULL;
    whole.g = &g, whole.bias = bias, whole.i = whole.j = 0;
    finish_whole(&whole);
    for (int64_t r = 0; r < b->m; r++)
        memcpy(b->g->y + (b->i + r) * b->g->ldy + b->j, y[r], n * sizeof(float));
}

#if TERMS == 2
/* a whole block in bf16, to the operand of the next product */
INLINE void finish_next(const block *b, const int act)
{
    const vf bias0 = load(b->bias), bias1 = load(b->bias + VL);
    for (int64_t r = 0; r < b->m; r++) {
        const vf s0 = act_v(load(b->sums[r]) + bias0, act), s1 = act_v(load(b->sums[r] + VL) + bias1, act);
        const __m512bh pair = _mm512_cvtne2ps_pbh((__m512)s1, (__m512)s0);
        const int64_t i = b->i + r, tile = i / TILE_ROWS * (b->g->n / COLUMNS) + b->j / COLUMNS;
        memcpy((char *)b->g->next + tile * TILE + i % TILE_ROWS * 64, &pair, sizeof pair);
    }
}
#endif

static void product(const gemm_args *g)
{
    static const float zeros[COLUMNS];
    const int64_t tiles = (g->segments * g->k + DEPTH - 1) / DEPTH, rows = (g->m + TILE_ROWS - 1) / TILE_ROWS * TILE_ROWS;
    const char *operand = g->operand;
    sum sums[BLOCK][COLUMNS] __attribute__((aligned(64)));
    block b = {.g = g, .sums = sums};
    if (g->a)
        narrow_rows(g, tiles);
    begin();
    for (b.j = 0; b.j < g->n; b.j += COLUMNS) {
        const float *panel = g->b + b.j / COLUMNS * g->panel;
        b.scales = panel + tiles * TILE_ROWS * COLUMNS;
        b.bias = g->bias ? g->bias + b.j : zeros;
        for (b.i = 0; b.i < g->m; b.i += BLOCK) {
            b.m = g->m - b.i < BLOCK ? g->m - b.i : BLOCK;
            b.row_scales = (const float *)(operand + rows * tiles * 64) + b.i;
            multiply(sums, b.m, operand + b.i / TILE_ROWS * tiles * TILE, tiles, (const uint32_t *)panel);
#if TERMS == 2
            if (g->next) {
                if (g->act == ACT_GELU)
                    finish_next(&b, ACT_GELU);
                else
                    finish_next(&b, ACT_NONE);
                continue;
            }
#endif
            if (g->n - b.j >= COLUMNS)
                finish_whole(&b);
            else
                finish_part(&b, g->n - b.j);
        }
    }
    end();
}

/* A panel of words, k fastest, then what EXTRA says. */
static void pack(float *y, const void *w, int half, int64_t n, int64_t k, int64_t ldw)
{
    const int64_t words = (k + DEPTH - 1) / DEPTH * TILE_ROWS;
    memset(y, 0, (words + EXTRA) * COLUMNS * sizeof(float));
    for (int64_t j = 0; j < n; j++) {
        const uint16_t *h = (const uint16_t *)w + j * ldw;
        const float *f = (const float *)w + j * ldw;
#if TERMS == 2
        uint16_t *column = (uint16_t *)(y + j);
        for (int64_t p = 0; p < k; p++)
            column[p / 2 * 2 * COLUMNS + p % 2] = to_bf16(half ? from_half(h[p]) : f[p]);
#else
        int8_t *column = (int8_t *)(y + j);
        float top = 0.f, bad = 0.f;
        int32_t total = 0;
        for (int64_t p = 0; p < k; p++) {
            const float x = fabsf(half ? from_half(h[p]) : f[p]);
            top = x > top ? x : top;
            bad += x * 0.f;
        }
        top += bad;
        const float inverse = top >= LEAST ? 127.f / top : 0.f;
        for (int64_t p = 0; inverse && p < k; p++) {
            const int32_t q = (int32_t)rintf((half ? from_half(h[p]) : f[p]) * inverse);
            column[p / 4 * 4 * COLUMNS + p % 4] = (int8_t)q;
            total += q;
        }
        const int32_t correction = -128 * total;
        y[words * COLUMNS + j] = top / 127.f;
        memcpy(y + (words + 1) * COLUMNS + j, &correction, sizeof correction);
#endif
    }
}

#if TERMS == 2
#include "attend.h"
#endif

#define NAME_(suffix) narrow_##suffix
#define NAME(suffix) NAME_(suffix)

const narrow_product NAME(PRODUCT) = {
    .product = product,
    .pack = pack,
    .weight = {.columns = COLUMNS, .terms = TERMS, .depth = DEPTH, .extra = EXTRA},
#if TERMS == 2
    .attend = attend,
#endif
};
