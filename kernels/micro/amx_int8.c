#include <immintrin.h>
#define PRODUCT amx_int8
#define TERMS 4
#define DOT(sum, a, b) _tile_dpbssd(sum, a, b)
#include "amx.h"
