/* Defines `multiply` with AMX instructions: up to two tiles of A, 16 rows by 64 bytes each, times two tiles of a panel of B. */
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

/* AMX_ROWS loads piece q of A's tiles, AMX_PANEL loads piece q of B's tiles, and AMX_DOTS adds their products to the sums. */
#define AMX_ROWS(q) { \
        _tile_loadd(4, a + (q) * NARROW_TILE, 64); \
        if (both) \
            _tile_loadd(5, second + (q) * NARROW_TILE, 64); \
    }
#define AMX_PANEL(q) { \
        _tile_loadd(6, b + (q) * NARROW_WORDS, 4 * NARROW_COLUMNS); \
        _tile_loadd(7, b + (q) * NARROW_WORDS + 16, 4 * NARROW_COLUMNS); \
    }
#define AMX_DOTS { \
        NARROW_DOT(0, 4, 6); \
        NARROW_DOT(1, 4, 7); \
        if (both) { \
            NARROW_DOT(2, 5, 6); \
            NARROW_DOT(3, 5, 7); \
        } \
    }

static void multiply(sum (*sums)[NARROW_COLUMNS], int64_t rows, const char *a, int64_t tiles, const uint32_t *b, int64_t pieces,
                     block *before)
{
    const int both = rows > NARROW_TILE_ROWS;
    const int64_t share = (NARROW_BLOCK + tiles - 1) / tiles;
    const char *second = a + tiles * NARROW_PIECES * NARROW_TILE;
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t t = 0; t < tiles;
         t++, a += NARROW_PIECES * NARROW_TILE, second += NARROW_PIECES * NARROW_TILE, b += pieces * NARROW_WORDS) {
#if NARROW_PIECES == 3
        AMX_ROWS(2) AMX_PANEL(0) AMX_DOTS
        AMX_ROWS(1) AMX_DOTS
        AMX_PANEL(1) AMX_DOTS
        AMX_ROWS(0) AMX_DOTS
        if (pieces == 3) {
            AMX_PANEL(2) AMX_DOTS
        }
        AMX_PANEL(0) AMX_DOTS
#else
        AMX_ROWS(0) AMX_PANEL(0) AMX_DOTS
#endif
        if (before)
            advance(before, share);
    }
    _tile_stored(0, sums[0], 4 * NARROW_COLUMNS);
    _tile_stored(1, sums[0] + 16, 4 * NARROW_COLUMNS);
    if (both) {
        _tile_stored(2, sums[NARROW_TILE_ROWS], 4 * NARROW_COLUMNS);
        _tile_stored(3, sums[NARROW_TILE_ROWS] + 16, 4 * NARROW_COLUMNS);
    }
}
