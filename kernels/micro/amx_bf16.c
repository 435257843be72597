#include <immintrin.h>
#define NARROW_PRODUCT amx_bf16
#define NARROW_TERMS 2
#define NARROW_DOT(sum, a, b) _tile_dpbf16ps(sum, a, b)
#include "amx.h"
