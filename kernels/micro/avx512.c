#include <immintrin.h>
#define GENERIC_ISA avx512
#define VL 16
#define MR 14
#define NV 2
#define TAPW 4
#define vmin(a, b) ((vf)_mm512_min_ps((__m512)(a), (__m512)(b)))
#define vmax(a, b) ((vf)_mm512_max_ps((__m512)(a), (__m512)(b)))
#define vpick(a, b, i) ((vf)_mm512_permutex2var_ps((__m512)(a), (__m512i)(i), (__m512)(b))) /* lanes i: 0-15 are of a, 16-31 of b */
#include "generic.h"
