#include <immintrin.h>
#define NARROW_PRODUCT amx_fp32
#define NARROW_TERMS 2
#define NARROW_PIECES 3
#define NARROW_DOT(sum, a, b) _tile_dpbf16ps(sum, a, b)
#include "amx.h"
