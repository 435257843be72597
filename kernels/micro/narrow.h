/* The product in a narrow precision: a's rows are converted to bf16 or int8, multiplied by a weight of the same kind and
 * summed in 32 bits; the epilogue goes on in float32. A stub defines PRODUCT (the struct's suffix), TERMS (neighbouring k
 * in a 32-bit word: 2 for bf16, 4 for int8), VL, vmin and vmax, includes this, and then defines `multiply` and its frame.
 *
 * bf16 rounds to nearest, ties to even, and takes what is below the normal numbers for zero, as the instructions do.
 * int8 has a scale for each row of a and each column of b, largest magnitude / 127, and rounds to nearest, ties to even.
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
INLINE void narrow_block(char *y, const float *x, float scale)
{
    (void)scale;
    const __m512bh pair = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(x + 16), _mm512_loadu_ps(x));
    memcpy(y, &pair, sizeof pair);
}
#else
INLINE void narrow_block(char *y, const float *x, float scale)
{
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
    vf top = splat(before), bad = splat(0.f);
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
INLINE void narrow_row(const gemm_args *g, const float *a, int64_t tiles, char *y, float scale)
{
    for (int64_t t = 0; t < tiles; t++, y += TILE) {
        int64_t s = 0, p = t * DEPTH;
        while (p >= g->k && s + 1 < g->segments)
            p -= g->k, s++;
        if (p + DEPTH <= g->k) {
            narrow_block(y, a + (g->offset ? g->offset[s] : 0) + p, scale);
            continue;
        }
        float block[DEPTH] = {0};
        for (int64_t room = DEPTH; room && s < g->segments; s++, p = 0) {
            const int64_t count = g->k - p < room ? g->k - p : room;
            memcpy(block + DEPTH - room, a + (g->offset ? g->offset[s] : 0) + p, count * sizeof(float));
            room -= count;
        }
        narrow_block(y, block, scale);
    }
}

static void narrow_rows(const gemm_args *g, int64_t tiles)
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
        for (int64_t s = 0; s < g->segments; s++)
            top = largest(g->a + i * g->lda + (g->offset ? g->offset[s] : 0), g->k, top);
        inverse = top > 0.f ? 127.f / top : 0.f;
        ((float *)(operand + rows * tiles * 64))[i] = top / 127.f;
#endif
        narrow_row(g, g->a + i * g->lda, tiles, y, inverse);
    }
}

/* y of a block's row, columns j to j + n */
INLINE void finish_row(const gemm_args *g, const sum *sums, const float *scales, float scale, int64_t i, int64_t j, int64_t n)
{
    float *y = g->y + i * g->ldy + j;
    const float *residual = g->residual ? g->residual + i * g->ldr + j : NULL;
    UNROLL for (int v = 0; v < COLUMNS; v += VL) {
        if (v >= n)
            break;
        const int64_t count = n - v;
#if TERMS == 2
        vf s = load(sums + v);
#else
        const vi whole = *(const vi *)(sums + v) + *(const vi *)(scales + COLUMNS + v) * (OFFSET != 0);
        vf s = __builtin_convertvector(whole, vf) * (load(scales + v) * scale);
#endif
        if (count >= VL) {
            if (g->bias)
                s += load(g->bias + j + v);
            if (residual)
                s += load(residual + v);
            store(y + v, act_v(s, g->act));
        } else {
            if (g->bias)
                s += load_part(g->bias + j + v, count, 0.f);
            if (residual)
                s += load_part(residual + v, count, 0.f);
            store_part(y + v, act_v(s, g->act), count);
        }
    }
}

static void product(const gemm_args *g)
{
    const int64_t tiles = (g->segments * g->k + DEPTH - 1) / DEPTH, rows = (g->m + TILE_ROWS - 1) / TILE_ROWS * TILE_ROWS;
    const char *operand = g->operand;
    const float *row_scales = (const float *)(operand + rows * tiles * 64);
    sum sums[BLOCK][COLUMNS] __attribute__((aligned(64)));
    narrow_rows(g, tiles);
    begin();
    for (int64_t j = 0; j < g->n; j += COLUMNS) {
        const float *b = g->b + j / COLUMNS * g->panel, *scales = b + tiles * TILE_ROWS * COLUMNS;
        for (int64_t i = 0; i < g->m; i += BLOCK) {
            const int64_t m = g->m - i < BLOCK ? g->m - i : BLOCK;
            multiply(sums, m, operand + i / TILE_ROWS * tiles * TILE, tiles, (const uint32_t *)b);
            for (int64_t r = 0; r < m; r++)
                finish_row(g, sums[r], scales, EXTRA ? row_scales[i + r] : 1.f, i + r, j, g->n - j);
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
        float top = 0.f;
        int32_t total = 0;
        for (int64_t p = 0; p < k; p++) {
            const float x = fabsf(half ? from_half(h[p]) : f[p]);
            top = x > top ? x : top;
        }
        const float inverse = top > 0.f ? 127.f / top : 0.f;
        for (int64_t p = 0; p < k; p++) {
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

#define NAME_(suffix) narrow_##suffix
#define NAME(suffix) NAME_(suffix)

const narrow_product NAME(PRODUCT) = {
    .product = product,
    .pack = pack,
    .weight = {.columns = COLUMNS, .terms = TERMS, .depth = DEPTH, .extra = EXTRA},
};
