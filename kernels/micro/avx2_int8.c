#include <immintrin.h>
#define NARROW_PRODUCT avx2_int8
#define NARROW_TERMS 4
#define NARROW_OFFSET 128
#define VL 8
#define NARROW_STEP 2
#define vmin(a, b) ((vf)_mm256_min_ps((__m256)(a), (__m256)(b)))
#define vmax(a, b) ((vf)_mm256_max_ps((__m256)(a), (__m256)(b)))
#define NARROW_DOT(sums, a, b) ((vi)_mm256_dpbusd_avx_epi32((__m256i)(sums), (__m256i)(a), (__m256i)(b)))
#include "narrow_vectors.h"
