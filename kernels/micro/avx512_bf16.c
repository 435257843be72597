#include <immintrin.h>
#define NARROW_PRODUCT avx512_bf16
#define NARROW_TERMS 2
#define VL 16
#define NARROW_STEP 8
#define vmin(a, b) ((vf)_mm512_min_ps((__m512)(a), (__m512)(b)))
#define vmax(a, b) ((vf)_mm512_max_ps((__m512)(a), (__m512)(b)))
#define NARROW_DOT(sums, a, b) ((vi)_mm512_dpbf16_ps((__m512)(sums), (__m512bh)(a), (__m512bh)(b)))
#include "narrow_vectors.h"
