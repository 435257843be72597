/* Every float32 micro-kernel, for all ISAs. A stub includes this file after it has defined
 *     GENERIC_ISA     the suffix of the table's name,
 *     VL              floats of a vector,
 *     MR, NV          the GEMM's register tile has MR rows and NR = NV*VL columns,
 *     TAPW            output pixels that a depthwise convolution computes at once,
 *     vmin, vmax      of two vectors,
 *     vpick           optional: vpick(a, b, i) selects lanes by the indices i: 0 to VL - 1 of a, VL and up of b. */
#include "vector.h"
#include "fma.h"
#include "gemm.h"
#include "convolve.h"
#include "norm.h"
#include "softmax.h"
#include "dot.h"
#include "resample.h"
#include "elementwise.h"

/* Repeats y[f] += y[f]*x `steps` times, f < MR*NR. The MR*NR sums are independent of one another, which hides the FMA latency. */
static void fma_probe(float *y, float x, int64_t steps)
{
    vf acc[MR][NV];
    UNROLL for (int i = 0; i < MR; i++)
        UNROLL for (int v = 0; v < NV; v++) acc[i][v] = load(y + i * NR + v * VL);
    for (; steps > 0; steps--)
        UNROLL for (int i = 0; i < MR; i++)
            UNROLL for (int v = 0; v < NV; v++) acc[i][v] += acc[i][v] * x;
    UNROLL for (int i = 0; i < MR; i++)
        UNROLL for (int v = 0; v < NV; v++) store(y + i * NR + v * VL, acc[i][v]);
}

#define GENERIC_NAME_(isa) micro_##isa
#define GENERIC_NAME(isa) GENERIC_NAME_(isa)

const micro GENERIC_NAME(GENERIC_ISA) = {
    .vl = VL, .mr = MR, .nr = NR,
    .gemm = gemm, .weight = {.columns = NR, .terms = 1, .depth = 1, .pieces = 1},
    .depthwise3x3 = depthwise3x3, .depthwise_taps = depthwise_taps, .depthwise_flat = depthwise_flat,
    .winograd_input = winograd_input, .winograd_output = winograd_output,
    .layer_norm = layer_norm, .softmax = softmax, .softmax_columns = softmax_columns, .exp_rows = exp_rows,
    .scale_columns = scale_columns, .dot_columns = dot_columns,
    .norm_columns = norm_columns, .draw_columns = draw_columns, .dot_rows = dot_rows, .sum_sq_deviation = sum_sq_deviation,
    .transpose = transpose, .activate = activate, .add = add, .pack = pack, .pack_columns = pack_columns,
    .sincos_2pi = sincos_2pi, .blend = blend, .resample = resample, .normalize = normalize, .greater_than = greater_than,
    .count_greater = count_greater, .fma_probe = fma_probe,
};
