#include <immintrin.h>
#define GENERIC_ISA x86_64_v2
#define VL 4
#define MR 6
#define NV 2
#define TAPW 4
#define vmin(a, b) ((vf)_mm_min_ps((__m128)(a), (__m128)(b)))
#define vmax(a, b) ((vf)_mm_max_ps((__m128)(a), (__m128)(b)))
#include "generic.h"
