#include <arm_neon.h>
#define GENERIC_ISA neon
#define VL 4
#define MR 5 /* 6 would fit the 32 registers, but GCC loads all of a column at once and spills */
#define NV 4
#define TAPW 4
#define vmin(a, b) ((vf)vminq_f32((float32x4_t)(a), (float32x4_t)(b)))
#define vmax(a, b) ((vf)vmaxq_f32((float32x4_t)(a), (float32x4_t)(b)))
#include "generic.h"
