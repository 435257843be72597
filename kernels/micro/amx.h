/* AMX: a tile of 16 rows by 64 bytes against two of a panel, 32 rows at a time where there are as many. */
#define VL 16
#define vmin(a, b) ((vf)_mm512_min_ps((__m512)(a), (__m512)(b)))
#define vmax(a, b) ((vf)_mm512_max_ps((__m512)(a), (__m512)(b)))
#include "narrow.h"

static void begin(void)
{
    const struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t bytes[16];
        uint8_t rows[16];
    } shapes = {1, 0, {0}, {64, 64, 64, 64, 64, 64, 64, 64}, {16, 16, 16, 16, 16, 16, 16, 16}};
    _tile_loadconfig(&shapes);
}

static void end(void) { _tile_release(); }

/* a piece of one tile of a, of a panel's tile, and their products */
#define ROWS(q) { \
        _tile_loadd(4, a + (q) * TILE, 64); \
        if (both) \
            _tile_loadd(5, second + (q) * TILE, 64); \
    }
#define PANEL(q) { \
        _tile_loadd(6, b + (q) * WORDS, 4 * COLUMNS); \
        _tile_loadd(7, b + (q) * WORDS + 16, 4 * COLUMNS); \
    }
#define DOTS { \
        DOT(0, 4, 6); \
        DOT(1, 4, 7); \
        if (both) { \
            DOT(2, 5, 6); \
            DOT(3, 5, 7); \
        } \
    }

static void multiply(sum (*sums)[COLUMNS], int64_t rows, const char *a, int64_t tiles, const uint32_t *b, int64_t pieces,
                     block *before)
{
    const int both = rows > TILE_ROWS;
    const int64_t share = (BLOCK + tiles - 1) / tiles;
    const char *second = a + tiles * PIECES * TILE;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t t = 0; t < tiles; t++, a += PIECES * TILE, second += PIECES * TILE, b += pieces * WORDS) {
#if PIECES == 3
        ROWS(2) PANEL(0) DOTS
        ROWS(1) DOTS
        PANEL(1) DOTS
        ROWS(0) DOTS
        if (pieces == 3) {
            PANEL(2) DOTS
        }
        PANEL(0) DOTS
#else
        ROWS(0) PANEL(0) DOTS
#endif
        if (before)
            advance(before, share);
    }
    _tile_stored(0, sums[0], 4 * COLUMNS);
    _tile_stored(1, sums[0] + 16, 4 * COLUMNS);
    if (both) {
        _tile_stored(2, sums[TILE_ROWS], 4 * COLUMNS);
        _tile_stored(3, sums[TILE_ROWS] + 16, 4 * COLUMNS);
    }
}
