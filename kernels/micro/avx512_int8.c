#include <immintrin.h>
#define NARROW_PRODUCT avx512_int8
#define NARROW_TERMS 4
#define NARROW_OFFSET 128
#define VL 16
#define NARROW_STEP 8
#define vmin(a, b) ((vf)_mm512_min_ps((__m512)(a), (__m512)(b)))
#define vmax(a, b) ((vf)_mm512_max_ps((__m512)(a), (__m512)(b)))
#define NARROW_DOT(sums, a, b) ((vi)_mm512_dpbusd_epi32((__m512i)(sums), (__m512i)(a), (__m512i)(b)))
#include "narrow_vectors.h"
