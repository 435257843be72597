/* A product in bf16 or int8: y (m,n) = act(A (m,k) * B (k,n) + bias + residual) (product_args in micro.h). The rows of A are rounded to
 * bf16 or int8, multiplied by a weight of the same type and summed in 32 bits. Bias, residual and activation are float32.
 *
 * A stub defines NARROW_PRODUCT (the struct's suffix), NARROW_TERMS (values of k in a 32-bit word: 2 for bf16, 4 for int8) and
 * NARROW_DOT (the instruction that multiplies words and adds). An AMX stub then includes amx.h. Any other stub also defines VL, vmin and
 * vmax and includes narrow_vectors.h. amx.h and narrow_vectors.h include this file and define `multiply`, `begin` and `end`.
 *
 * bf16 rounds to nearest, ties to even. Subnormal numbers become zero, as in the instructions.
 * int8 rounds to nearest, ties to even, with a scale for each row of A and each column of B: the largest magnitude / 127. The scale is NaN
 * if a value of the row or column is not finite.
 *
 * With NARROW_PIECES 3, the product has the accuracy of float32 (Henry, Tang & Heinecke, arXiv:1904.06376). Each number is split into
 * three bf16 pieces: x0 is x rounded to bf16, x1 is x - x0 rounded to bf16, and x2 is x - x0 - x1. The sum of the pieces is exactly x.
 * A float16 weight needs only x0 + x1. The products ai*bj of pieces of A and B with i + j <= 2 are summed in float32. The other products of
 * pieces are left out, because they are below 2^-25 of |a||b|. An infinity, or a number that rounds to infinity in bf16, gives NaN.
 * Subnormal pieces become zero.
 *
 * `narrow_rows_act` below has the layout of packed A. AMX loads tiles of packed A directly. The other instructions broadcast words of
 * packed A. */
#include "vector.h"
#ifndef NARROW_PIECES
#define NARROW_PIECES 1
#endif

enum {
    NARROW_COLUMNS = 32, /* NARROW_COLUMNS: number of columns in a panel of B */
    NARROW_TILE_ROWS = 16,
    NARROW_TILE = 1024, /* NARROW_TILE: number of bytes in a tile */
    NARROW_DEPTH = 16 * NARROW_TERMS, /* NARROW_DEPTH: number of values of k in a row of a tile */
    NARROW_BLOCK = 2 * NARROW_TILE_ROWS, /* NARROW_BLOCK: number of rows of A that one call of `multiply` handles */
    NARROW_WORDS = NARROW_TILE_ROWS * NARROW_COLUMNS, /* NARROW_WORDS: words in a panel for NARROW_DEPTH values of k of one piece */
};

#if NARROW_TERMS == 2
typedef float sum;
enum { NARROW_EXTRA = 0 };
#else
typedef int32_t sum;
static const float NARROW_LEAST = 0x1p-121f; /* a row with max |x| < NARROW_LEAST becomes zeros, as 127 / max |x| may overflow */
enum { NARROW_EXTRA = 2 }; /* NARROW_EXTRA: a panel's last two rows: column scales, and -128 * column sums for stubs that add 128 to A */
#ifndef NARROW_OFFSET
#define NARROW_OFFSET 0
#endif
#endif

static void begin(void); /* `begin` is called before the first `multiply` of a product */
static void end(void); /* `end` is called after the last `multiply` of a product */

#if NARROW_PIECES == 3
/* Splits 32 floats into pieces of 64 bytes, `apart` bytes apart. Word p of a piece holds the pieces of x0[p] and x1[p]. */
INLINE void narrow_pair(char *y, int64_t apart, vf x0, vf x1)
{
    UNROLL for (int q = 0; q < NARROW_PIECES; q++, y += apart) {
        const int half = q < NARROW_PIECES - 1 ? 0x8000 : 0; /* `half` rounds the piece to nearest; the last piece is exact */
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

/* Rounds NARROW_DEPTH floats to one row of a tile, which has 64 bytes. With NARROW_PIECES 3, each piece has its own tile. */
#if NARROW_TERMS == 2
INLINE void narrow_block(char *y, const float *x, float scale, const int act)
{
    (void)scale;
    narrow_pair(y, NARROW_TILE, act_v(load(x), act), act_v(load(x + VL), act));
}
#else
INLINE void narrow_block(char *y, const float *x, float scale, const int act)
{
    (void)act; /* row_scale has already applied the activation */
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

/* Returns the maximum of `before` and all |x|, or NaN if a number is not finite. */
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

/* Returns the factor by which row i of A is multiplied before rounding. For int8, also applies the activation to the row and stores the
 * row's scale, the inverse of the factor, after the tiles of packed A. */
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

/* Rounds one row of tile t, whose values may come from several segments of A's row. */
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
    for (int64_t terms_left = NARROW_DEPTH; terms_left && s < g->segments; s++, p = 0) {
        const int64_t count = g->k - p < terms_left ? g->k - p : terms_left;
        memcpy(block + NARROW_DEPTH - terms_left, a + (g->offset ? g->offset[s] : 0) + p, count * sizeof(float));
        terms_left -= count;
    }
    narrow_block(y, block, scale, act);
}

/* Packs A: tiles of 16 rows by 64 bytes, in which each row holds NARROW_DEPTH values of k in the narrow precision.
 *
 *          A (m, k)                                               packed A
 *          k = 0..DEPTH-1     DEPTH..2*DEPTH-1   ...
 *      rows 0-15    T[0,0]        T[0,1]         ...              T[0,0] T[0,1] ... T[1,0] T[1,1] ...  [scales]
 *      rows 16-31   T[1,0]        T[1,1]         ...
 *      ...
 *
 *      one tile     byte 0                        byte 63
 *      row 0        a[0,0] a[0,1] ...             a[0,DEPTH-1]
 *      ...
 *      row 15       a[15,0] ...                   a[15,DEPTH-1]
 *
 * With NARROW_PIECES 3, T[i,t] is three such tiles in succession, one for each piece. Rows beyond m and values beyond k are zeros. In
 * int8, the scales follow the tiles, a float for each row.
 * The loop packs a tile before the next, because writing a whole row of A, 64 bytes in each tile, would use only a few sets of L1. */
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

/* Converts VL sums, from column v on, to float32. In int8, multiplies them by the scales of their row and columns. */
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

/* A block of NARROW_BLOCK rows by NARROW_COLUMNS columns whose sums are complete, but not yet written to y. The `multiply` of the next
 * block writes them between its own steps, in which AMX tiles leave the vector units idle. */
typedef struct block {
    const product_args *g;
    void *next; /* next: packed A of the next product, which is written instead of y, or NULL */
    sum (*sums)[NARROW_COLUMNS];
    const float *row_scales, *scales, *bias; /* scales of the block's rows, scales of its columns, and bias, which is never NULL */
    int64_t i, j, m; /* the block's first row i, first column j and number of rows m */
    int64_t done; /* done: number of rows of the block that have been written to y */
    void (*finish)(const struct block *, int64_t first, int64_t end);
} block;

/* Writes the next `rows` rows of a block. */
INLINE void advance(block *b, int64_t rows)
{
    const int64_t end = b->done + rows < b->m ? b->done + rows : b->m;
    if (b->done < end)
        b->finish(b, b->done, end);
    b->done = end;
}

/* Multiplies rows by one panel: sums[i][j] = sum_p A[i,p] * B[p,j], for i < 16, or i < 32 if rows > 16. `a` is packed A with `tiles` tiles
 * for each 16 rows, and b is the packed panel with `pieces` <= NARROW_PIECES pieces. If the block `before` is not NULL, `multiply` may
 * advance it between its own steps. */
static void multiply(sum (*sums)[NARROW_COLUMNS], int64_t rows, const char *a, int64_t tiles, const uint32_t *b, int64_t pieces,
                     block *before);

/* Writes rows first to end - 1 of a block to y: y = act(sums + bias + residual). */
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

static void (*const finishes[2][3])(const block *, int64_t, int64_t) = { /* finishes[with a residual][activation] */
    {finish_plain, finish_gelu, finish_relu}, {finish_sum, finish_sum_gelu, finish_sum_relu},
};

/* Like `finish`, for a last panel with fewer than NARROW_COLUMNS columns: computes each row in a buffer with all columns. */
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
/* Like `finish`, but writes the rows as packed A of the next product. */
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

/* Computes the product. Writes the result to `next`, as packed A of the next product, or to g->y if `next` is NULL. */
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
/* Transposes 16 columns of 16 words, rows[j][p], to 16 rows of a panel, y[p][j]. */
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

/* Reads n weights as float32 and appends zeros up to NARROW_DEPTH floats. x is float16 if half, else float32. */
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

/* Packs a panel of a weight. Every NARROW_DEPTH values of k take 16 rows for each piece. A row has one word for each column. */
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

/* Rounds lane i of x0 and lane i of x1 to word i of y, for each piece. Pieces lie NARROW_WORDS words apart. */
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

/* Word p of a row of a tile holds the values k = PAIR_STEP*p and k = PAIR_STEP*p + PAIR_APART. */
enum { PAIR_STEP = NARROW_PIECES == 3 ? 1 : 2, PAIR_APART = NARROW_PIECES == 3 ? NARROW_TILE_ROWS : 1 };

/* Packs a panel like `pack`, but from a row-major matrix x (k, NARROW_COLUMNS). */
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
/* Packs a panel of a weight: words of four neighbouring values of k, and then the two rows that NARROW_EXTRA describes. */
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
