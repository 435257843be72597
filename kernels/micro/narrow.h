/* The product in a narrow precision: a's rows are converted to bf16 or int8, multiplied by a weight of the same kind and
 * summed in 32 bits; the epilogue goes on in float32. A stub defines NARROW_PRODUCT (the struct's suffix), NARROW_TERMS (k in a
 * 32-bit word: 2 for bf16, 4 for int8), VL, vmin and vmax, includes this, and then defines `multiply` and its frame.
 *
 * With NARROW_PIECES 3, float32 by way of bf16 (Henry, Tang & Heinecke, arXiv:1904.06376): x = x0 + x1 + x2, each the rest rounded
 * to bf16's eight bits, which is exact; float16, in a weight, is x0 + x1. Products of a piece i of a with a piece j of b are
 * summed in float32 where i + j <= 2; what is left out is below 2^-25 of |a||b|. An infinity gives NaN, as does
 * what rounds to one in bf16, and pieces below the normal numbers are taken for zero.
 *
 * bf16 rounds to nearest, ties to even, and takes what is below the normal numbers for zero, as the instructions do.
 * int8 has a scale for each row of a and each column of b, largest magnitude / 127, and rounds to nearest, ties to even;
 * the scale is NaN where a value is not finite.
 *
 * An operand is cut into tiles of 16 rows by 64 bytes, in the order (row / 16, k / NARROW_DEPTH, piece), zeros beyond m and k: AMX
 * loads one as it is, other instructions broadcast its words. int8 has the rows' scales behind the tiles. */
#include "vector.h"
#ifndef NARROW_PIECES
#define NARROW_PIECES 1
#endif

enum {
    NARROW_COLUMNS = 32, /* of a panel of b */
    NARROW_TILE_ROWS = 16,
    NARROW_TILE = 1024, /* bytes of a tile */
    NARROW_DEPTH = 16 * NARROW_TERMS, /* terms of a tile */
    NARROW_BLOCK = 2 * NARROW_TILE_ROWS, /* rows multiplied at once */
    NARROW_WORDS = NARROW_TILE_ROWS * NARROW_COLUMNS, /* of a panel, for each NARROW_DEPTH terms */
};

#if NARROW_TERMS == 2
typedef float sum;
enum { NARROW_EXTRA = 0 };
#else
typedef int32_t sum;
static const float NARROW_LEAST = 0x1p-121f; /* of a row's largest; the inverse of the scale overflows below */
enum { NARROW_EXTRA = 2 }; /* rows of a panel: the columns' scales, and -128 times their sums for stubs that add 128 to a */
#ifndef NARROW_OFFSET
#define NARROW_OFFSET 0
#endif
#endif

static void begin(void); /* a thread's products, and their end */
static void end(void);

#if NARROW_PIECES == 3
/* 32 floats to 64 bytes of each piece, `apart` from one another: word p holds what came from x0[p] and x1[p] */
INLINE void narrow_pair(char *y, int64_t apart, vf x0, vf x1)
{
    UNROLL for (int q = 0; q < NARROW_PIECES; q++, y += apart) {
        const int half = q < NARROW_PIECES - 1 ? 0x8000 : 0; /* of the last piece nothing is left */
        const vi y0 = ((vi)x0 + half) & -0x10000, y1 = ((vi)x1 + half) & -0x10000, words = (vi)((vu)y0 >> 16) | y1;
        memcpy(y, &words, sizeof words);
        x0 -= (vf)y0;
        x1 -= (vf)y1;
    }
}
#elif NARROW_TERMS == 2
INLINE void narrow_pair(char *y, int64_t apart, vf x0, vf x1)
{
    (void)apart;
    const __m512bh pair = _mm512_cvtne2ps_pbh((__m512)x1, (__m512)x0);
    memcpy(y, &pair, sizeof pair);
}
#endif

/* NARROW_DEPTH floats to 64 bytes, of each piece */
#if NARROW_TERMS == 2
INLINE void narrow_block(char *y, const float *x, float scale, const int act)
{
    (void)scale;
    narrow_pair(y, NARROW_TILE, act_v(load(x), act), act_v(load(x + VL), act));
}
#else
INLINE void narrow_block(char *y, const float *x, float scale, const int act)
{
    (void)act; /* done before the largest was sought */
#if VL == 16
    UNROLL for (int p = 0; p < NARROW_DEPTH; p += VL) {
        const __m128i bytes = _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32((__m512)(load(x + p) * scale)));
        _mm_storeu_si128((__m128i *)(y + p), _mm_xor_si128(bytes, _mm_set1_epi8((char)NARROW_OFFSET)));
    }
#else
    const __m256i in_order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    UNROLL for (int p = 0; p < NARROW_DEPTH; p += 4 * VL) {
        __m256i q[4];
        UNROLL for (int v = 0; v < 4; v++) q[v] = _mm256_cvtps_epi32((__m256)(load(x + p + v * VL) * scale));
        const __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
        _mm256_storeu_si256((__m256i *)(y + p), _mm256_xor_si256(_mm256_permutevar8x32_epi32(bytes, in_order),
                                                                 _mm256_set1_epi8((char)NARROW_OFFSET)));
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

/* What row i of a is multiplied by before it is rounded. int8 keeps the inverse behind the operand, and is activated here. */
INLINE float row_scale(const operand_args *g, int64_t i, int64_t tiles, const int act)
{
#if NARROW_TERMS == 2
    (void)g, (void)i, (void)tiles, (void)act;
    return 1.f;
#else
    const int64_t rows = (g->m + NARROW_TILE_ROWS - 1) / NARROW_TILE_ROWS * NARROW_TILE_ROWS;
    float top = 0.f;
    if (act)
        activate_row(g->a + i * g->lda, g->a + i * g->lda, g->k, act);
    for (int64_t s = 0; s < g->segments; s++)
        top = largest(g->a + i * g->lda + (g->offset ? g->offset[s] : 0), g->k, top);
    ((float *)((char *)g->operand + rows * tiles * 64))[i] = top / 127.f;
    return top >= NARROW_LEAST ? 127.f / top : 0.f;
#endif
}

/* Tile t of one row of a, from the row's segments. */
INLINE void narrow_depth(const operand_args *g, const float *a, int64_t t, char *y, float scale, const int act)
{
    int64_t s = 0, p = t * NARROW_DEPTH;
    while (p >= g->k && s + 1 < g->segments)
        p -= g->k, s++;
    if (p + NARROW_DEPTH <= g->k) {
        narrow_block(y, a + (g->offset ? g->offset[s] : 0) + p, scale, act);
        return;
    }
    float block[NARROW_DEPTH] = {0};
    for (int64_t room = NARROW_DEPTH; room && s < g->segments; s++, p = 0) {
        const int64_t count = g->k - p < room ? g->k - p : room;
        memcpy(block + NARROW_DEPTH - room, a + (g->offset ? g->offset[s] : 0) + p, count * sizeof(float));
        room -= count;
    }
    narrow_block(y, block, scale, act);
}

/* The packed rows of a: tiles of 16 rows by 64 bytes, which hold NARROW_DEPTH terms in the narrow precision.
 *
 *          a (m, k)                                               operand
 *          terms 0..DEPTH-1   DEPTH..2*DEPTH-1   ...
 *      rows 0-15    T[0,0]        T[0,1]         ...              T[0,0] T[0,1] ... T[1,0] T[1,1] ...  [scales]
 *      rows 16-31   T[1,0]        T[1,1]         ...
 *      ...
 *
 *      one tile     byte 0                        byte 63
 *      row 0        a[0,0] a[0,1] ...             a[0,DEPTH-1]
 *      ...
 *      row 15       a[15,0] ...                   a[15,DEPTH-1]
 *
 * With NARROW_PIECES 3, T[i,t] is three such tiles one after the other, one for each piece. Rows beyond m and terms beyond k are
 * zeros. In int8 a float for each row, its scale, lies behind the tiles.
 * NARROW_TILE_ROWS rows are made at a time, tile by tile: whole rows, one after the other, would meet in a few sets of L1. */
INLINE void narrow_rows_act(const operand_args *g, int64_t tiles, const int act)
{
    char *y = g->operand;
    for (int64_t i = 0; i < g->m; i += NARROW_TILE_ROWS) {
        const int64_t count = g->m - i < NARROW_TILE_ROWS ? g->m - i : NARROW_TILE_ROWS;
        float inverse[NARROW_TILE_ROWS];
        for (int64_t r = 0; r < count; r++)
            inverse[r] = row_scale(g, i + r, tiles, act);
        for (int64_t t = 0; t < tiles; t++, y += NARROW_PIECES * NARROW_TILE) {
            for (int64_t r = 0; r < count; r++)
                narrow_depth(g, g->a + (i + r) * g->lda, t, y + r * 64, inverse[r], act);
            for (int q = 0; q < NARROW_PIECES && count < NARROW_TILE_ROWS; q++)
                memset(y + q * NARROW_TILE + count * 64, 0, (NARROW_TILE_ROWS - count) * 64);
        }
    }
}

INLINE int64_t tiles_of(int64_t k) { return (k + NARROW_DEPTH - 1) / NARROW_DEPTH; }

static void pack_operand(const operand_args *g)
{
    const int64_t tiles = tiles_of(g->segments * g->k);
    if (g->act == ACT_GELU)
        narrow_rows_act(g, tiles, ACT_GELU);
    else if (g->act == ACT_RELU)
        narrow_rows_act(g, tiles, ACT_RELU);
    else
        narrow_rows_act(g, tiles, ACT_NONE);
}

/* Vector v of a row of sums as float32 */
INLINE vf widen(const sum *sums, const float *scales, float scale, int v)
{
#if NARROW_TERMS == 2
    (void)scales, (void)scale;
    return load(sums + v);
#else
    vi whole, correction;
    memcpy(&whole, sums + v, sizeof whole);
    memcpy(&correction, scales + NARROW_COLUMNS + v, sizeof correction);
    if (NARROW_OFFSET)
        whole += correction;
    return __builtin_convertvector(whole, vf) * (load(scales + v) * scale);
#endif
}

/* A block of sums on its way to y. `multiply` of the next one finishes its rows between its own steps, where tiles leave the
 * vector units idle. */
typedef struct block {
    const product_args *g;
    void *next; /* the operand that the rows go to instead of y, or NULL */
    sum (*sums)[NARROW_COLUMNS];
    const float *row_scales, *scales, *bias; /* of this block's rows and columns, bias never NULL */
    int64_t i, j, m; /* where the block is, and its rows */
    int64_t done; /* rows that have been finished */
    void (*finish)(const struct block *, int64_t first, int64_t end);
} block;

INLINE void advance(block *b, int64_t rows)
{
    const int64_t end = b->done + rows < b->m ? b->done + rows : b->m;
    if (b->done < end)
        b->finish(b, b->done, end);
    b->done = end;
}

/* sums[i][j] of rows i < 16, or < 32 where rows > 16, and one panel: `tiles` tiles deep, rows of tiles that far apart; b has
 * so many pieces, up to NARROW_PIECES. `before`, where not NULL, may be advanced meanwhile. */
static void multiply(sum (*sums)[NARROW_COLUMNS], int64_t rows, const char *a, int64_t tiles, const uint32_t *b, int64_t pieces,
                     block *before);

/* rows of y, 32 columns */
INLINE void finish(const block *b, int64_t first, int64_t end, const int residual, const int act)
{
    const product_args *g = b->g;
    vf bias[NARROW_COLUMNS / VL];
    UNROLL for (int v = 0; v < NARROW_COLUMNS / VL; v++) bias[v] = load(b->bias + v * VL);
    for (int64_t r = first; r < end; r++) {
        float *y = g->y + (b->i + r) * g->ldy + b->j;
        UNROLL for (int v = 0; v < NARROW_COLUMNS / VL; v++) {
            vf s = widen(b->sums[r], b->scales, NARROW_EXTRA ? b->row_scales[r] : 1.f, v * VL) + bias[v];
            if (residual)
                s += load(g->residual + (b->i + r) * g->ldr + b->j + v * VL);
            store(y + v * VL, act_v(s, act));
        }
    }
}

#define NARROW_FINISH(name, residual, act) \
    static void name(const block *b, int64_t first, int64_t end) { finish(b, first, end, residual, act); }
NARROW_FINISH(finish_plain, 0, ACT_NONE)
NARROW_FINISH(finish_gelu, 0, ACT_GELU)
NARROW_FINISH(finish_relu, 0, ACT_RELU)
NARROW_FINISH(finish_sum, 1, ACT_NONE)
NARROW_FINISH(finish_sum_gelu, 1, ACT_GELU)
NARROW_FINISH(finish_sum_relu, 1, ACT_RELU)

static void (*const finishes[2][3])(const block *, int64_t, int64_t) = { /* with a residual or none, and by activation */
    {finish_plain, finish_gelu, finish_relu}, {finish_sum, finish_sum_gelu, finish_sum_relu},
};

/* rows of the last, partial panel through a whole-width copy */
static void finish_part(const block *b, int64_t first, int64_t end)
{
    float y[NARROW_COLUMNS], residual[NARROW_COLUMNS], bias[NARROW_COLUMNS];
    const int64_t bytes = (b->g->n - b->j) * sizeof(float);
    product_args g = *b->g;
    block whole = *b;
    memcpy(bias, b->bias, bytes);
    g.y = y, g.ldy = g.ldr = 0, g.residual = g.residual ? residual : NULL;
    whole.g = &g, whole.bias = bias, whole.j = 0;
    for (int64_t r = first; r < end; r++) {
        if (g.residual)
            memcpy(residual, b->g->residual + (b->i + r) * b->g->ldr + b->j, bytes);
        finishes[g.residual != NULL][g.act](&whole, r, r + 1);
        memcpy(b->g->y + (b->i + r) * b->g->ldy + b->j, y, bytes);
    }
}

#if NARROW_TERMS == 2
/* rows to the operand of the next product */
INLINE void finish_next(const block *b, int64_t first, int64_t end, const int act)
{
    const vf bias0 = load(b->bias), bias1 = load(b->bias + VL);
    for (int64_t r = first; r < end; r++) {
        const int64_t i = b->i + r, tile = i / NARROW_TILE_ROWS * (b->g->n / NARROW_COLUMNS) + b->j / NARROW_COLUMNS;
        narrow_pair((char *)b->next + tile * NARROW_PIECES * NARROW_TILE + i % NARROW_TILE_ROWS * 64, NARROW_TILE,
                    act_v(load(b->sums[r]) + bias0, act), act_v(load(b->sums[r] + VL) + bias1, act));
    }
}

static void finish_next_plain(const block *b, int64_t first, int64_t end) { finish_next(b, first, end, ACT_NONE); }
static void finish_next_gelu(const block *b, int64_t first, int64_t end) { finish_next(b, first, end, ACT_GELU); }
#endif

/* To y, or packed to `next` where not NULL. */
INLINE void multiply_panels(const product_args *g, void *next)
{
    static const float zeros[NARROW_COLUMNS];
    const int64_t tiles = tiles_of(g->k);
    const int64_t rows = (g->m + NARROW_TILE_ROWS - 1) / NARROW_TILE_ROWS * NARROW_TILE_ROWS;
    const int64_t pieces = NARROW_PIECES == 1 ? 1 : g->panel / (tiles * NARROW_WORDS);
    const char *operand = g->operand;
    sum sums[2][NARROW_BLOCK][NARROW_COLUMNS] __attribute__((aligned(64)));
    block blocks[2] = {{.g = g, .next = next, .sums = sums[0]}, {.g = g, .next = next, .sums = sums[1]}}, *b = blocks, *before = blocks + 1;
    begin();
    for (int64_t j = 0; j < g->n; j += NARROW_COLUMNS) {
        const float *panel = g->b + j / NARROW_COLUMNS * g->panel;
        for (int64_t i = 0; i < g->m; i += NARROW_BLOCK) {
            b->i = i, b->j = j, b->m = g->m - i < NARROW_BLOCK ? g->m - i : NARROW_BLOCK, b->done = 0;
            b->scales = panel + tiles * NARROW_TILE_ROWS * NARROW_COLUMNS;
            b->row_scales = (const float *)(operand + rows * tiles * 64) + i;
            b->bias = g->bias ? g->bias + j : zeros;
            b->finish = g->n - j < NARROW_COLUMNS ? finish_part : finishes[g->residual != NULL][g->act];
#if NARROW_TERMS == 2
            if (next)
                b->finish = g->act == ACT_GELU ? finish_next_gelu : finish_next_plain;
#endif
            multiply(b->sums, b->m, operand + i / NARROW_TILE_ROWS * tiles * NARROW_PIECES * NARROW_TILE, tiles,
                     (const uint32_t *)panel, pieces, before);
            advance(before, NARROW_BLOCK);
            block *const swap = b;
            b = before, before = swap;
        }
    }
    advance(before, NARROW_BLOCK);
    end();
}

static void product(const product_args *g) { multiply_panels(g, NULL); }

#if NARROW_TERMS == 2
static void product_to_operand(const product_args *g, void *operand) { multiply_panels(g, operand); }
#endif

#if NARROW_TERMS == 2
/* words[p][j] of 16 columns j from the 16 words p of each */
INLINE void transpose_words(uint32_t *y, vi *rows)
{
    static const vi lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    UNROLL for (int s = 1; s < 16; s *= 2)
        UNROLL for (int i = 0; i < 16; i++)
            if (!(i & s)) {
                const vi a = rows[i], b = rows[i | s], odd = (lane & s) != 0;
                const vi low = (odd & ((lane ^ s) + 16)) | (~odd & lane), high = (odd & (lane + 16)) | (~odd & (lane ^ s));
                rows[i] = (vi)_mm512_permutex2var_epi32((__m512i)a, (__m512i)low, (__m512i)b);
                rows[i | s] = (vi)_mm512_permutex2var_epi32((__m512i)a, (__m512i)high, (__m512i)b);
            }
    UNROLL for (int p = 0; p < 16; p++) memcpy(y + p * NARROW_COLUMNS, &rows[p], sizeof rows[p]);
}

/* y[i] = x[i], halves or floats, i < n <= NARROW_DEPTH, and zeros beyond */
INLINE void read_weights(float *y, const void *x, int half, int64_t n)
{
    if (half && n == NARROW_DEPTH) {
        UNROLL for (int i = 0; i < NARROW_DEPTH; i += VL) {
            const __m512 v = _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)((const uint16_t *)x + i)));
            memcpy(y + i, &v, sizeof v);
        }
        return;
    }
    if (n == NARROW_DEPTH) {
        memcpy(y, x, NARROW_DEPTH * sizeof *y);
        return;
    }
    for (int64_t i = 0; i < NARROW_DEPTH; i++)
        y[i] = i >= n ? 0.f : half ? from_half(((const uint16_t *)x)[i]) : ((const float *)x)[i];
}

/* A panel of words: for each NARROW_DEPTH of k and each piece, 16 words of every column. */
static void pack(float *y, const void *w, int half, int64_t n, int64_t k, int64_t ldw)
{
    const int64_t item = half ? sizeof(uint16_t) : sizeof(float), pieces = half && NARROW_PIECES > 2 ? 2 : NARROW_PIECES;
    char words[NARROW_PIECES * NARROW_TILE];
    vi rows[NARROW_TILE_ROWS];
    float x[NARROW_DEPTH];
    for (int64_t p = 0; p < k; p += NARROW_DEPTH, y += pieces * NARROW_WORDS)
        for (int64_t first = 0; first < NARROW_COLUMNS; first += NARROW_TILE_ROWS) {
            for (int64_t i = 0; i < NARROW_TILE_ROWS; i++) {
                const int64_t j = first + i, left = j < n ? k - p : 0;
                read_weights(x, (const char *)w + (left ? j * ldw + p : 0) * item, half, left < NARROW_DEPTH ? left : NARROW_DEPTH);
                narrow_block(words + 64 * i, x, 1.f, ACT_NONE);
            }
            for (int64_t q = 0; q < pieces; q++) {
                memcpy(rows, words + q * NARROW_TILE, sizeof rows);
                transpose_words((uint32_t *)y + q * NARROW_WORDS + first, rows);
            }
        }
}
/* lane i of x0 and x1 to word i, of each piece, a panel's tile apart */
INLINE void narrow_lanes(uint32_t *y, vf x0, vf x1)
{
#if NARROW_PIECES == 3
    narrow_pair((char *)y, NARROW_WORDS * sizeof *y, x0, x1);
#else
    const __m256i low = (__m256i)_mm512_cvtneps_pbh((__m512)x0), high = (__m256i)_mm512_cvtneps_pbh((__m512)x1);
    const __m512i words = _mm512_or_si512(_mm512_cvtepu16_epi32(low), _mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16));
    memcpy(y, &words, sizeof words);
#endif
}

/* the k that word p of a tile holds: neighbours, or those that a pair of vectors brings together */
enum { PAIR_STEP = NARROW_PIECES == 3 ? 1 : 2, PAIR_APART = NARROW_PIECES == 3 ? NARROW_TILE_ROWS : 1 };

/* The words that `pack` makes, of NARROW_COLUMNS columns that lie in k rows. */
static void pack_columns(float *y, const float *x, int64_t ldx, int64_t k)
{
    static const float none[NARROW_COLUMNS];
    uint32_t *words = (uint32_t *)y;
    for (int64_t first = 0; first < k; first += NARROW_DEPTH, words += NARROW_PIECES * NARROW_WORDS)
        for (int64_t p = 0; p < NARROW_TILE_ROWS; p++) {
            const int64_t p0 = first + p * PAIR_STEP, p1 = p0 + PAIR_APART;
            const float *x0 = p0 < k ? x + p0 * ldx : none, *x1 = p1 < k ? x + p1 * ldx : none;
            UNROLL for (int c = 0; c < NARROW_COLUMNS; c += VL)
                narrow_lanes(words + p * NARROW_COLUMNS + c, load(x0 + c), load(x1 + c));
        }
}
#else
/* A panel of words, k fastest, then what NARROW_EXTRA says. */
static void pack(float *y, const void *w, int half, int64_t n, int64_t k, int64_t ldw)
{
    const int64_t words = (k + NARROW_DEPTH - 1) / NARROW_DEPTH * NARROW_TILE_ROWS;
    memset(y, 0, (words + NARROW_EXTRA) * NARROW_COLUMNS * sizeof(float));
    for (int64_t j = 0; j < n; j++) {
        const uint16_t *h = (const uint16_t *)w + j * ldw;
        const float *f = (const float *)w + j * ldw;
        int8_t *column = (int8_t *)(y + j);
        float top = 0.f, bad = 0.f;
        int32_t total = 0;
        for (int64_t p = 0; p < k; p++) {
            const float x = fabsf(half ? from_half(h[p]) : f[p]);
            top = x > top ? x : top;
            bad += x * 0.f;
        }
        top += bad;
        const float inverse = top >= NARROW_LEAST ? 127.f / top : 0.f;
        for (int64_t p = 0; inverse && p < k; p++) {
            const int32_t q = (int32_t)rintf((half ? from_half(h[p]) : f[p]) * inverse);
            column[p / 4 * 4 * NARROW_COLUMNS + p % 4] = (int8_t)q;
            total += q;
        }
        const int32_t correction = -128 * total;
        y[words * NARROW_COLUMNS + j] = top / 127.f;
        memcpy(y + (words + 1) * NARROW_COLUMNS + j, &correction, sizeof correction);
    }
}
#endif

#if NARROW_TERMS == 2
#include "attend.h"
#endif

#define NARROW_NAME_(suffix) packed_##suffix
#define NARROW_NAME(suffix) NARROW_NAME_(suffix)

const packed_product NARROW_NAME(NARROW_PRODUCT) = {
    .pack_operand = pack_operand,
    .product = product,
    .pack = pack,
    .weight = {.columns = NARROW_COLUMNS, .terms = NARROW_TERMS, .depth = NARROW_DEPTH, .extra = NARROW_EXTRA,
               .pieces = NARROW_PIECES, .operand = 64 * NARROW_PIECES},
#if NARROW_TERMS == 2
    .product_to_operand = product_to_operand,
    .pack_columns = pack_columns,
    .attend = attend,
#endif
};
