#include <immintrin.h>
#define PRODUCT amx_fp32
#define TERMS 2
#define PIECES 3
#define DOT(sum, a, b) _tile_dpbf16ps(sum, a, b)
#include "amx.h"
