#include <immintrin.h>
#define PRODUCT amx_bf16
#define TERMS 2
#define DOT(sum, a, b) _tile_dpbf16ps(sum, a, b)
#include "amx.h"
