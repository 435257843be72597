#include <immintrin.h>
#define PAIRS_PRODUCT zen4_fp32
#define PAIRS_PLAIN micro_avx512
#define VL 16
#define MR 13
#define NV 2
#define vmin(a, b) ((vf)_mm512_min_ps((__m512)(a), (__m512)(b)))
#define vmax(a, b) ((vf)_mm512_max_ps((__m512)(a), (__m512)(b)))
#define vswap(x) ((vf)_mm512_permute_ps((__m512)(x), 0xb1))
#define vpick(a, b, i) ((vf)_mm512_permutex2var_ps((__m512)(a), (__m512i)(i), (__m512)(b))) /* lanes i: 0-15 are of a, 16-31 of b */
#define PAIRS_ADD(y, b, a) __asm__("vaddps %2%{1to16%}, %1, %0" : "=v"(y) : "v"(b), "m"(*(const float *)(a)))
#define PAIRS_FMA(y, b, a) __asm__("vfmadd231ps %2%{1to16%}, %1, %0" : "+v"(y) : "v"(b), "m"(*(const float *)(a)))
#include "pairs.h"
