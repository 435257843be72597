"""The second half of a TinyViT block, fused: local convolution, LayerNorm, MLP and shortcut of a few tokens at a time."""
import numpy as np

from core.common cimport *
from core.launch cimport *

from mobilesam.kernels.core import check
from mobilesam.kernels.core.gemm import as_panels
from mobilesam.kernels.core.threads import resolve

import_runtime()

# RUN is the largest number of tokens in a run. A run is a unit of work: neighbouring tokens of one row of the feature map.
# A run is long enough to amortize reading the weights, and short enough for its hidden layer to stay in L2.
cdef int64_t RUN = 84

cdef struct mlp_job:
    const micro *u
    depthwise_map conv
    const float *norm_weight
    const float *norm_bias
    matrix fc1
    const float *fc1_bias
    matrix fc2
    const float *fc2_bias
    float *y
    int64_t c, hidden_channels, run
    bint chained  # whether fc1's product writes the hidden layer as packed A of fc2's product
    float eps
    int64_t runs  # number of runs in a row
    float *local  # output of the local convolution, (run, c)
    float *normed  # output of the LayerNorm, (run, c)
    float *hidden  # hidden layer, (run, hidden_channels), or if chained, fc2's packed A
    float *operand  # packed A


def local_mlp(x, conv_weight, conv_bias, norm_weight, norm_bias, fc1_weight, fc1_bias, fc2_weight, fc2_bias, *, eps=1e-5,
              out=None, threads=None):
    """t = depthwise 3×3(x, pad 1) + conv_bias;  y = t + fc2(gelu(fc1(layer_norm(t)))).

    Args:
        x: (H, W, C) float32. C is at least the current ISA's vector length (16 on AVX-512).
        conv_weight: (3, 3, C) float32, with the batch norm folded in.
        conv_bias: (C,) float32, with the batch norm folded in.
        norm_weight: (C,) float32.
        norm_bias: (C,) float32.
        fc1_weight: (E, C) float32, or Panels.
        fc1_bias: (E,) float32.
        fc2_weight: (C, E) float32, or Panels.
        fc2_bias: (C,) float32.
        eps: A number added to the variance.
        out: (H, W, C) float32 that receives the result, or None.
        threads: The number of threads, or None for the default.

    Returns:
        (H, W, C) float32.

    Source: ``local_conv`` and ``Mlp`` of ``TinyViTBlock`` in the reference's modeling/tiny_vit_sam.py.
    """
    cdef mlp_job p
    cdef int nthreads = resolve(threads)
    x = check.array(x, "x", ("H", "W", "C"))
    p.conv.height, p.conv.width, p.c = x.shape
    fc1 = as_panels(fc1_weight, "fc1_weight", ("E", p.c), threads=threads)
    fc2 = as_panels(fc2_weight, "fc2_weight", (p.c, fc1.n), threads=threads)
    p.fc1, p.fc2 = as_matrix(fc1), as_matrix(fc2)
    cdef const micro *u = p.fc1.u
    check_same_isa(&p.fc2, &p.fc1, "fc2_weight")
    if p.c < u.vl:
        raise ValueError(f"x: expected at least {u.vl} channels, got {p.c}")
    p.hidden_channels, p.eps = fc1.n, check.real(eps, "eps")
    cdef const float[::1] xv = x.reshape(-1), cw = check.array(conv_weight, "conv_weight", (3, 3, p.c)).reshape(-1)
    cdef const float[::1] cb = check.array(conv_bias, "conv_bias", (p.c,))
    cdef const float[::1] nw = check.array(norm_weight, "norm_weight", (p.c,)), nb = check.array(norm_bias, "norm_bias", (p.c,))
    cdef const float[::1] b1 = check.array(fc1_bias, "fc1_bias", (p.hidden_channels,)), b2 = check.array(fc2_bias, "fc2_bias", (p.c,))
    cdef const float[::1] zeros = np.zeros(p.conv.width * p.c, np.float32)
    y = check.output(out, x.shape, x, conv_weight, conv_bias, norm_weight, norm_bias, fc1_bias, fc2_bias)
    cdef float[::1] yv = y.reshape(-1)
    p.conv.x, p.conv.weight, p.conv.bias, p.conv.zeros = &xv[0], &cw[0], &cb[0], &zeros[0]
    p.conv.channels, p.conv.stride, p.conv.act = p.c, 1, ACT_NONE
    p.norm_weight, p.norm_bias, p.y = &nw[0], &nb[0], &yv[0]
    p.fc1_bias, p.fc2_bias = &b1[0], &b2[0]

    p.chained = p.fc1.u == p.fc2.u and p.fc1.u.product_to_operand != NULL and p.hidden_channels % p.fc1.u.weight.columns == 0

    p.u, p.runs = u, (p.conv.width + RUN - 1) // RUN
    p.run = (p.conv.width + p.runs - 1) // p.runs
    launch("local_mlp", run_of_row, &p, sizeof(p), p.conv.height * p.runs, mlp_layout, nthreads)
    return y


cdef void mlp_layout(void *job, arena *scratch) noexcept nogil:
    cdef mlp_job *p = <mlp_job *>job
    p.local = take_floats(scratch, p.run * p.c)
    p.normed = take_floats(scratch, p.run * p.c)
    p.hidden = take_floats(scratch, operand_floats(&p.fc2, p.run) if p.chained else p.run * p.hidden_channels)
    p.operand = take_floats(scratch, max(operand_floats(&p.fc1, p.run), 0 if p.chained else operand_floats(&p.fc2, p.run)))


cdef void run_of_row(void *job, int64_t unit) noexcept nogil:
    """Compute `local_mlp` for up to ``p.run`` neighbouring tokens of a row of the feature map."""
    cdef const mlp_job *p = <const mlp_job *>job
    cdef int64_t c = p.c, h = unit // p.runs, w0 = unit % p.runs * p.run, m = min(p.run, p.conv.width - w0)
    cdef float *y = p.y + (h * p.conv.width + w0) * c
    cdef norm_args norm
    cdef gemm_args fc1, fc2
    cdef product_args packed
    if m <= 0:
        return
    depthwise3x3_row(p.u, &p.conv, h, w0, w0 + m, p.local)
    norm.m, norm.n, norm.x, norm.ldx, norm.y, norm.ldy = m, c, p.local, c, p.normed, c
    norm.weight, norm.bias, norm.eps, norm.act = p.norm_weight, p.norm_bias, p.eps, ACT_NONE
    p.u.layer_norm(&norm)
    fc1 = of_rows(&p.fc1, m, p.normed, c)
    fc1.bias, fc1.act, fc1.y, fc1.ldy = p.fc1_bias, ACT_GELU, p.hidden, p.hidden_channels
    fc2 = of_rows(&p.fc2, m, p.hidden, p.hidden_channels)
    fc2.bias, fc2.residual, fc2.ldr, fc2.y, fc2.ldy = p.fc2_bias, p.local, c, y, c
    if p.chained:
        pack_operand(p.fc1.u, &fc1, p.operand)
        packed = of_operand(&fc1, p.operand)
        p.fc1.u.product_to_operand(&packed, p.hidden)
        packed = of_operand(&fc2, p.hidden)
        p.fc2.u.product(&packed)
    else:
        product(p.fc1.u, &fc1, p.operand)
        product(p.fc2.u, &fc2, p.operand)
