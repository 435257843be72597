#include <immintrin.h>
#define PRODUCT avx512_bf16
#define TERMS 2
#define VL 16
#define STEP 8
#define vmin(a, b) ((vf)_mm512_min_ps((__m512)(a), (__m512)(b)))
#define vmax(a, b) ((vf)_mm512_max_ps((__m512)(a), (__m512)(b)))
#define DOT(sums, a, b) ((vi)_mm512_dpbf16_ps((__m512)(sums), (__m512bh)(a), (__m512bh)(b)))
#include "dot.h"
