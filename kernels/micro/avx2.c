#include <immintrin.h>
#define GENERIC_ISA avx2
#define VL 8
#define MR 6
#define NV 2
#define TAPW 4
#define vmin(a, b) ((vf)_mm256_min_ps((__m256)(a), (__m256)(b)))
#define vmax(a, b) ((vf)_mm256_max_ps((__m256)(a), (__m256)(b)))
#include "generic.h"
