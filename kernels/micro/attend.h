/* Computes one attention head (attend_args in micro.h). Both matrix products are in bf16 or, for float32 accuracy, in bf16 pieces. The
 * softmax is in float32, and its denominator divides the result of the second product. Included by narrow.h. */

#if NARROW_PIECES == 3
INLINE vf power(vf x) { return exp_v(x); }
#else
/* exp(x) for x <= 0, but at least 2^-126. The relative error is 3e-6; rounding to bf16 afterwards has an error of 2e-3. */
INLINE vf power(vf x)
{
    x *= 1.44269504f;
    x = vmax(splat(-126.f), x); /* if x is NaN, vmax with this order of arguments gives NaN */
    const vf shifted = x + 12582912.f;
    const vf f = x - (shifted - 12582912.f);
    vf p = f * 0.00957010407f + 0.0559179038f;
    p = p * f + 0.240247458f;
    p = p * f + 0.693121791f;
    p = p * f + 0.999999285f;
    return (vf)((vi)p + ((vi)shifted << 23));
}
#endif

/* Rounds d floats to one row of packed A, which extends over `tiles` tiles. */
INLINE void narrow_vector(char *y, const float *x, int64_t d, int64_t tiles)
{
    const operand_args whole = {.k = d, .segments = 1};
    for (int64_t t = 0; t < tiles; t++)
        narrow_depth(&whole, x, t, y + t * NARROW_PIECES * NARROW_TILE, 1.f, ACT_NONE);
}

/* Packs the keys as packed B: y (columns / 32, d_tiles, NARROW_PIECES, 16, 32) words. Columns are keys, rows are pairs of channels. */
static void pack_keys(const attend_args *g, uint32_t *y, int64_t d_tiles, int64_t columns)
{
    char words[NARROW_PIECES * NARROW_TILE];
    vi rows[NARROW_TILE_ROWS];
    for (int64_t t = 0; t < d_tiles; t++)
        for (int64_t j = 0; j < columns; j += NARROW_TILE_ROWS) {
            for (int64_t i = 0; i < NARROW_TILE_ROWS; i++) {
                if (j + i < g->n)
                    narrow_vector(words + 64 * i, g->tokens[j + i] + g->at_k + 32 * t, g->d - 32 * t < 32 ? g->d - 32 * t : 32, 1);
                else
                    for (int q = 0; q < NARROW_PIECES; q++)
                        memset(words + q * NARROW_TILE + 64 * i, 0, 64);
            }
            for (int q = 0; q < NARROW_PIECES; q++) {
                memcpy(rows, words + q * NARROW_TILE, sizeof rows);
                transpose_words(y + ((j / NARROW_COLUMNS * d_tiles + t) * NARROW_PIECES + q) * NARROW_WORDS + j % NARROW_COLUMNS,
                                rows);
            }
        }
}

/* Packs the values as packed B: y (d_tiles, columns / 32, NARROW_PIECES, 16, 32) words. Columns are channels, rows are pairs of keys. */
static void pack_values(const attend_args *g, uint32_t *y, int64_t d_tiles, int64_t columns)
{
    static const float none[32];
    for (int64_t t = 0; t < d_tiles; t++)
        for (int64_t first = 0; first < columns; first += NARROW_DEPTH, y += NARROW_PIECES * NARROW_WORDS)
            for (int64_t p = 0; p < NARROW_TILE_ROWS; p++) {
                float pair[2][32] = {0};
                const float *x[2];
                for (int i = 0; i < 2; i++) {
                    const int64_t j = first + p * PAIR_STEP + i * PAIR_APART;
                    x[i] = j < g->n ? g->tokens[j] + g->at_v + 32 * t : none;
                    if (g->d - 32 * t < 32 && x[i] != none)
                        x[i] = memcpy(pair[i], x[i], (g->d - 32 * t) * sizeof(float));
                }
                UNROLL for (int c = 0; c < NARROW_COLUMNS; c += VL)
                    narrow_lanes(y + p * NARROW_COLUMNS + c, load(x[0] + c), load(x[1] + c));
            }
}

/* Rounds exp(scores - top) to one row of packed A of the second product. Returns the sum of the exponentials. */
INLINE float exp_row(char *y, const float *scores, int64_t columns, float top)
{
    vf total = splat(0.f);
    for (int64_t j = 0; j < columns; j += 32, y += NARROW_PIECES * NARROW_TILE) {
        const vf e0 = power(load(scores + j) - top), e1 = power(load(scores + j + VL) - top);
        narrow_pair(y, NARROW_TILE, e0, e1);
        total += e0 + e1;
    }
    return sum_lanes(total);
}

static void attend(const attend_args *g)
{
    const int64_t n_tiles = (g->n + 31) / 32, d_tiles = (g->d + 31) / 32, columns = 32 * n_tiles;
    uint32_t *keys = g->scratch, *values = keys + n_tiles * d_tiles * NARROW_PIECES * NARROW_WORDS;
    float *scores = (float *)(values + n_tiles * d_tiles * NARROW_PIECES * NARROW_WORDS);
    char *queries = (char *)(scores + NARROW_BLOCK * columns), *weights = queries + 2 * d_tiles * NARROW_PIECES * NARROW_TILE;
    sum sums[NARROW_BLOCK][NARROW_COLUMNS] __attribute__((aligned(64)));
    vf tops[NARROW_BLOCK];
    float total[NARROW_BLOCK];
    pack_keys(g, keys, d_tiles, columns);
    pack_values(g, values, d_tiles, columns);
    begin();
    for (int64_t i = 0; i < g->m; i += NARROW_BLOCK) {
        const int64_t m = g->m - i < NARROW_BLOCK ? g->m - i : NARROW_BLOCK;
        for (int64_t r = 0; r < m; r++) {
            narrow_vector(queries + r / NARROW_TILE_ROWS * d_tiles * NARROW_PIECES * NARROW_TILE + r % NARROW_TILE_ROWS * 64,
                          g->q + (i + r) * g->ldq, g->d, d_tiles);
            tops[r] = splat(-INFINITY);
        }
        for (int64_t j = 0; j < columns; j += NARROW_COLUMNS) {
            multiply(sums, m, queries, d_tiles, keys + j / NARROW_COLUMNS * d_tiles * NARROW_PIECES * NARROW_WORDS, NARROW_PIECES,
                     NULL);
            for (int64_t r = 0; r < m; r++)
                UNROLL for (int v = 0; v < NARROW_COLUMNS; v += VL) {
                    const vf s = load(sums[r] + v) * g->scale + load(g->bias + (i + r) * g->ldbias + j + v);
                    tops[r] = vmax(tops[r], s);
                    store(scores + r * columns + j + v, s);
                }
        }
        for (int64_t r = 0; r < m; r++)
            total[r] = 1.f / exp_row(weights + r / NARROW_TILE_ROWS * n_tiles * NARROW_PIECES * NARROW_TILE + r % NARROW_TILE_ROWS * 64,
                                     scores + r * columns, columns, max_lanes(tops[r]));
        for (int64_t c = 0; c < g->d; c += NARROW_COLUMNS) {
            multiply(sums, m, weights, n_tiles, values + c / NARROW_COLUMNS * n_tiles * NARROW_PIECES * NARROW_WORDS, NARROW_PIECES,
                     NULL);
            for (int64_t r = 0; r < m; r++)
                for (int64_t v = c; v < g->d && v < c + NARROW_COLUMNS; v += VL) {
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
