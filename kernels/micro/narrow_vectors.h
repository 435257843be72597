/* Defines `multiply` with vector instructions that add the products of neighbouring values of k to a lane of the sums. A stub defines such
 * an instruction as NARROW_DOT(sums, words of A, words of B). The stub also defines NARROW_STEP, the number of rows whose sums fit the
 * registers. NARROW_STEP is a divisor of 16. */
#include "narrow.h"

static void begin(void) {}
static void end(void) {}

static void multiply(sum (*sums)[NARROW_COLUMNS], int64_t rows, const char *a, int64_t tiles, const uint32_t *b, int64_t pieces,
                     block *before)
{
    enum { NARROW_VECTORS = NARROW_COLUMNS / VL };
    (void)pieces, (void)before;
    for (int64_t r = 0; r < rows; r += NARROW_STEP) {
        const char *at = a + (r / NARROW_TILE_ROWS * tiles * NARROW_TILE_ROWS + r % NARROW_TILE_ROWS) * 64;
        const uint32_t *words = b;
        vi acc[NARROW_STEP][NARROW_VECTORS] = {0};
        for (int64_t t = 0; t < tiles; t++, at += NARROW_TILE)
            for (int p = 0; p < NARROW_TILE_ROWS; p++, words += NARROW_COLUMNS) {
                vi bv[NARROW_VECTORS];
                UNROLL for (int v = 0; v < NARROW_VECTORS; v++) memcpy(&bv[v], words + v * VL, sizeof bv[v]);
                UNROLL for (int i = 0; i < NARROW_STEP; i++) {
                    int32_t word;
                    memcpy(&word, at + 64 * i + 4 * p, sizeof word);
                    const vi av = word - (vi){0};
                    UNROLL for (int v = 0; v < NARROW_VECTORS; v++) acc[i][v] = NARROW_DOT(acc[i][v], av, bv[v]);
                }
            }
        UNROLL for (int i = 0; i < NARROW_STEP; i++)
            UNROLL for (int v = 0; v < NARROW_VECTORS; v++) memcpy(sums[r + i] + v * VL, &acc[i][v], sizeof acc[i][v]);
    }
}
