/* Every micro-kernel, written once. A stub defines GENERIC_ISA (the table's suffix), VL (floats a vector), MR and NV (the GEMM
 * tile is MR rows by NR = NV*VL columns), TAPW (output pixels a depthwise step holds), vmin and vmax, and includes this; it may
 * define vpick. */
#include "vector.h"
#include "fma.h"
#include "gemm.h"
#include "convolve.h"
#include "norm.h"
#include "softmax.h"
#include "dot.h"
#include "resample.h"
#include "elementwise.h"

/* As many chains as the GEMM's tile has sums: enough to hide an FMA's latency, and no loads. */
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
    .norm_columns = norm_columns, .draw_columns = draw_columns, .dot_rows = dot_rows, .spread = spread, .transpose = transpose,
    .activate = activate, .add = add, .pack = pack, .pack_columns = pack_columns, .turns = turns, .blend = blend,
    .resample = resample, .normalize = normalize, .above = above, .count_above = count_above, .fma_probe = fma_probe,
};
