#include <immintrin.h>
#define NARROW_PRODUCT amx_int8
#define NARROW_TERMS 4
#define NARROW_DOT(sum, a, b) _tile_dpbssd(sum, a, b)
#include "amx.h"
