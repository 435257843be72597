"""The second half of a TinyViT block as one pass per run of tokens: local convolution, LayerNorm, MLP, shortcut."""
import numpy as np

from cython.parallel cimport parallel, prange

from core.common cimport *

from mobilesam.kernels.core import check
from mobilesam.kernels.core.gemm import as_panels
from mobilesam.kernels.core.threads import resolve

cdef const runtime *rt = shared_runtime()

# Tokens of a run: enough to pay for streaming the weights past it, few enough for its hidden layer to stay in L2.
cdef int64_t RUN = 84

cdef struct mlp_pass:
    depthwise_map conv
    const float *norm_weight
    const float *norm_bias
    matrix fc1
    const float *fc1_bias
    matrix fc2
    const float *fc2_bias
    float *y
    int64_t c, hidden, run
    bint chained  # the hidden layer goes from one product to the next as its operand
    float eps


def local_mlp(x, conv_weight, conv_bias, norm_weight, norm_bias, fc1_weight, fc1_bias, fc2_weight, fc2_bias, *, eps=1e-5,
              out=None, threads=None):
    """t = depthwise 3×3(x, pad 1) + conv_bias;  y = t + fc2(gelu(fc1(layer_norm(t)))).

    Args:
        x: (H, W, C) float32, C at least a vector of the ISA in force (16 on AVX-512).
        conv_weight: (3, 3, C), conv_bias: (C,), BatchNorm folded in.
        norm_weight, norm_bias: (C,) float32.
        fc1_weight: (E, C), fc1_bias: (E,); fc2_weight: (C, E), fc2_bias: (C,).
        out: (H, W, C) to write into.

    Returns:
        (H, W, C) float32.

    Source: ``local_conv`` and ``Mlp`` of ``TinyViTBlock`` in the reference's modeling/tiny_vit_sam.py.
    """
    cdef mlp_pass p
    cdef int nthreads = resolve(threads)
    x = check.array(x, "x", ("H", "W", "C"))
    p.conv.height, p.conv.width, p.c = x.shape
    fc1 = as_panels(fc1_weight, "fc1_weight", ("E", p.c), threads=threads)
    fc2 = as_panels(fc2_weight, "fc2_weight", (p.c, fc1.n), threads=threads)
    p.fc1, p.fc2 = as_matrix(rt, fc1), as_matrix(rt, fc2)
    cdef const micro *u = p.fc1.u
    check_same_isa(&p.fc2, &p.fc1, "fc2_weight")
    if p.c < u.vl:
        raise ValueError(f"x: expected at least {u.vl} channels, got {p.c}")
    p.hidden, p.eps = fc1.n, eps
    cdef const float[::1] xv = x.reshape(-1), cw = check.array(conv_weight, "conv_weight", (3, 3, p.c)).reshape(-1)
    cdef const float[::1] cb = check.array(conv_bias, "conv_bias", (p.c,))
    cdef const float[::1] nw = check.array(norm_weight, "norm_weight", (p.c,)), nb = check.array(norm_bias, "norm_bias", (p.c,))
    cdef const float[::1] b1 = check.array(fc1_bias, "fc1_bias", (p.hidden,)), b2 = check.array(fc2_bias, "fc2_bias", (p.c,))
    cdef const float[::1] zeros = np.zeros(p.conv.width * p.c, np.float32)
    y = check.output(out, x.shape, x, conv_weight, conv_bias, norm_weight, norm_bias, fc1_bias, fc2_bias)
    cdef float[::1] yv = y.reshape(-1)
    p.conv.x, p.conv.weight, p.conv.bias, p.conv.zeros = &xv[0], &cw[0], &cb[0], &zeros[0]
    p.conv.channels, p.conv.stride, p.conv.act = p.c, 1, ACT_NONE
    p.norm_weight, p.norm_bias, p.y = &nw[0], &nb[0], &yv[0]
    p.fc1_bias, p.fc2_bias = &b1[0], &b2[0]

    p.chained = p.fc1.u == p.fc2.u and p.fc1.u.weight.terms == 2 and p.hidden % p.fc1.u.weight.columns == 0

    cdef int64_t runs = (p.conv.width + RUN - 1) // RUN, unit
    p.run = (p.conv.width + runs - 1) // runs
    cdef size_t size = sizeof(float) * (2 * p.run * p.c + hidden_floats(&p) + 48
                                        + max(operand_floats(&p.fc1, p.run), operand_floats(&p.fc2, p.run)))
    cdef float *scratch
    cdef int failed = 0
    with nogil, parallel(num_threads=nthreads):
        scratch = <float *>rt.scratch(size)
        for unit in prange(p.conv.height * runs, schedule="dynamic"):
            if scratch == NULL:
                failed += 1
            else:
                run_of_row(u, &p, unit // runs, unit % runs * p.run, scratch)
    if failed:
        raise MemoryError(f"local_mlp: no memory for {size} bytes of scratch")
    return y


cdef int64_t hidden_floats(const mlp_pass *p) noexcept nogil:
    return operand_floats(&p.fc2, p.run) if p.chained else p.run * p.hidden


cdef void run_of_row(const micro *u, const mlp_pass *p, int64_t h, int64_t w0, float *free) noexcept nogil:
    """Tokens w0 to w0 + run of row h."""
    cdef int64_t c = p.c, m = min(p.run, p.conv.width - w0)
    cdef float *local
    cdef float *normed
    cdef float *hidden
    if m <= 0:
        return
    local = take(&free, p.run * c)
    normed = take(&free, p.run * c)
    hidden = take(&free, hidden_floats(p))
    depthwise3x3_row(u, &p.conv, h, w0, w0 + m, local)
    u.layer_norm(normed, c, local, c, m, c, p.norm_weight, p.norm_bias, p.eps, ACT_NONE)
    product(&p.fc1, m, normed, c, p.fc1_bias, NULL, 0, hidden, p.hidden, ACT_GELU, free, ACT_NONE, hidden if p.chained else NULL)
    if p.chained:
        free, hidden = hidden, NULL
    product(&p.fc2, m, hidden, p.hidden, p.fc2_bias, local, c, p.y + (h * p.conv.width + w0) * c, c, ACT_NONE, free)
