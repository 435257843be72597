/* One head of attention in bf16, both products of it; softmax in float32, normalised after the second. Included by the
 * stubs of bf16, after narrow.h. */

enum { WORDS = TILE_ROWS * COLUMNS }; /* of a panel, one tile deep */

/* 2^x for x <= 0, at least 2^-126: a relative error of 3e-6, where bf16's is 2e-3 */
INLINE vf exp2_narrow(vf x)
{
    x = vmax(splat(-126.f), x); /* in this order NaN stays */
    const vf shifted = x + 12582912.f;
    const vf f = x - (shifted - 12582912.f);
    vf p = f * 0.00957010407f + 0.0559179038f;
    p = p * f + 0.240247458f;
    p = p * f + 0.693121791f;
    p = p * f + 0.999999285f;
    return (vf)((vi)p + ((vi)shifted << 23));
}

/* d floats in bf16 as one row of `tiles` tiles */
INLINE void narrow_vector(char *y, const float *x, int64_t d, int64_t tiles)
{
    const gemm_args whole = {.k = d, .segments = 1};
    narrow_row(&whole, x, tiles, y, 1.f, ACT_NONE);
}

/* words[p][j] of 16 keys j from the 16 words p of each */
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
    UNROLL for (int p = 0; p < 16; p++) memcpy(y + p * COLUMNS, &rows[p], sizeof rows[p]);
}

/* keys, (columns / 32, d_tiles * 16, 32) words: a panel's columns are keys, its rows pairs of channels */
static void pack_keys(const attend_args *g, uint32_t *y, int64_t d_tiles, int64_t columns)
{
    char words[TILE_ROWS * 64];
    for (int64_t t = 0; t < d_tiles; t++)
        for (int64_t j = 0; j < columns; j += TILE_ROWS) {
            vi rows[TILE_ROWS];
            for (int64_t i = 0; i < TILE_ROWS; i++) {
                if (j + i < g->n)
                    narrow_vector(words, g->tokens[j + i] + g->at_k + 32 * t, g->d - 32 * t < 32 ? g->d - 32 * t : 32, 1);
                else
                    memset(words, 0, 64);
                memcpy(&rows[i], words, sizeof rows[i]);
            }
            transpose_words(y + (j / COLUMNS * d_tiles + t) * WORDS + j % COLUMNS, rows);
        }
}

/* values, (d_tiles, columns / 2, 32) words: a panel's columns are channels, its rows pairs of keys */
static void pack_values(const attend_args *g, uint32_t *y, int64_t d_tiles, int64_t columns)
{
    static const float none[32];
    for (int64_t t = 0; t < d_tiles; t++)
        for (int64_t p = 0; p < columns / 2; p++, y += COLUMNS) {
            float pair[2][32] = {0};
            const float *x[2];
            for (int i = 0; i < 2; i++) {
                x[i] = 2 * p + i < g->n ? g->tokens[2 * p + i] + g->at_v + 32 * t : none;
                if (g->d - 32 * t < 32 && x[i] != none)
                    x[i] = memcpy(pair[i], x[i], (g->d - 32 * t) * sizeof(float));
            }
            UNROLL for (int c = 0; c < COLUMNS; c += VL) {
                const __m256i low = (__m256i)_mm512_cvtneps_pbh((__m512)load(x[0] + c));
                const __m256i high = (__m256i)_mm512_cvtneps_pbh((__m512)load(x[1] + c));
                const __m512i words = _mm512_or_si512(_mm512_cvtepu16_epi32(low), _mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16));
                memcpy(y + c, &words, sizeof words);
            }
        }
}

/* exp of a row of scores, in bf16, to its row of tiles; its sum */
INLINE float exp_row(char *y, const float *scores, int64_t columns, float top)
{
    vf total = splat(0.f);
    for (int64_t j = 0; j < columns; j += 32, y += TILE) {
        const vf e0 = exp2_narrow((load(scores + j) - top) * 1.44269504f);
        const vf e1 = exp2_narrow((load(scores + j + 16) - top) * 1.44269504f);
        const __m512bh pair = _mm512_cvtne2ps_pbh((__m512)e1, (__m512)e0);
        memcpy(y, &pair, sizeof pair);
        total += e0 + e1;
    }
    return sum_lanes(total);
}

static void attend(const attend_args *g)
{
    const int64_t n_tiles = (g->n + 31) / 32, d_tiles = (g->d + 31) / 32, columns = 32 * n_tiles;
    uint32_t *keys = g->scratch, *values = keys + n_tiles * d_tiles * WORDS;
    float *scores = (float *)(values + n_tiles * d_tiles * WORDS);
    char *queries = (char *)(scores + BLOCK * columns), *weights = queries + 2 * d_tiles * TILE;
    sum sums[BLOCK][COLUMNS] __attribute__((aligned(64)));
    vf tops[BLOCK];
    float total[BLOCK];
    pack_keys(g, keys, d_tiles, columns);
    pack_values(g, values, d_tiles, columns);
    begin();
    for (int64_t i = 0; i < g->m; i += BLOCK) {
        const int64_t m = g->m - i < BLOCK ? g->m - i : BLOCK;
        for (int64_t r = 0; r < m; r++) {
            narrow_vector(queries + (r / TILE_ROWS * d_tiles * TILE_ROWS + r % TILE_ROWS) * 64, g->q + (i + r) * g->ldq, g->d, d_tiles);
            tops[r] = splat(-INFINITY);
        }
        for (int64_t j = 0; j < columns; j += COLUMNS) {
            multiply(sums, m, queries, d_tiles, keys + j / COLUMNS * d_tiles * WORDS);
            for (int64_t r = 0; r < m; r++)
                UNROLL for (int v = 0; v < COLUMNS; v += VL) {
                    const vf s = load(sums[r] + v) * g->scale + load(g->bias + (i + r) * g->ldbias + j + v);
                    tops[r] = vmax(tops[r], s);
                    store(scores + r * columns + j + v, s);
                }
        }
        for (int64_t r = 0; r < m; r++)
            total[r] = 1.f / exp_row(weights + (r / TILE_ROWS * n_tiles * TILE_ROWS + r % TILE_ROWS) * 64, scores + r * columns, columns, max_lanes(tops[r]));
        for (int64_t c = 0; c < g->d; c += COLUMNS) {
            multiply(sums, m, weights, n_tiles, values + c / COLUMNS * n_tiles * WORDS);
            for (int64_t r = 0; r < m; r++)
                for (int64_t v = c; v < g->d && v < c + COLUMNS; v += VL) {
                    const vf s = load(sums[r] + v - c) * total[r];
                    float *y = g->y + (i + r) * g->ldy + v;
                    if (g->d - v >= VL)
                        store(y, s);
                    else
                        store_part(y, s, g->d - v);
                }
        }
    }
    end();
}
