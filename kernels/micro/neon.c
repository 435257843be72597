#include <arm_neon.h>
#define GENERIC_ISA neon
#define VL 4
#define MR 5 /* 6 rows would fit the 32 registers, but GCC then loads a whole column of a at once and spills registers */
#define NV 4
#define TAPW 4
#define vmin(a, b) ((vf)vminq_f32((float32x4_t)(a), (float32x4_t)(b)))
#define vmax(a, b) ((vf)vmaxq_f32((float32x4_t)(a), (float32x4_t)(b)))
#include "generic.h"
