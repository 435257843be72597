"""Convolutions, computed as GEMMs that read the feature map in place, without im2col."""
import numpy as np

from core.common cimport *
from core.launch cimport *

from mobilesam.kernels.core import check
from mobilesam.kernels.core.gemm import as_panels, linear
from mobilesam.kernels.core.panels import Panels
from mobilesam.kernels.core.threads import resolve

import_runtime()


def conv2d(x, weight, bias=None, *, stride=1, pad=0, dilation=1, activation=None, residual=None, out=None, threads=None):
    """y[h,w,o] = act(Σ_ijc x[h·s + i·d − p, w·s + j·d − p, c] · weight[o,i,j,c] + bias[o] + residual[h,w,o]).

    s, p and d are stride, pad and dilation. In NHWC, KW neighbouring pixels are KW·C contiguous floats. With dilation 1, a row of
    outputs is therefore a GEMM with KH segments of inner dimension KW·C, and the rows of A overlap, stride·C floats apart. A 1×1
    convolution is one GEMM over all pixels.

    Args:
        x: (H, W, C) or (B, H, W, C) float32.
        weight: (OC, KH, KW, C) float32, or Panels of this shape.
        bias: (OC,) float32, or None.
        stride: An int or (vertical, horizontal).
        pad: An int or (vertical, horizontal).
        dilation: An int or (vertical, horizontal).
        activation: None, "gelu" or "relu".
        residual: Float32 of the output's shape, added before the activation, or None.
        out: Float32 of the output's shape that receives the result, or None.
        threads: The number of threads, or None for the default.

    Returns:
        (OH, OW, OC) or (B, OH, OW, OC) float32, with OH = (H + 2p − d·(KH − 1) − 1) // s + 1.

    Raises:
        TypeError, ValueError: An argument has the wrong type, shape or value. The message names the argument.
    """
    cdef int act = check.activation(activation), nthreads = resolve(threads)
    x = check.array(x, "x", ("H", "W", "C"), ("B", "H", "W", "C"))
    panels = as_panels(weight, "weight", ("OC", "KH", "KW", x.shape[-1]), threads=threads)
    cdef int64_t oc = panels.n, kh = panels.shape[1], kw = panels.shape[2], c = x.shape[-1]
    (sh, sw), (ph, pw), (dh, dw) = check.pair(stride, "stride", 1), check.pair(pad, "pad", 0), check.pair(dilation, "dilation", 1)
    oh_ = check.conv_size(x.shape[-3], kh, sh, ph, dh, "height")
    ow_ = check.conv_size(x.shape[-2], kw, sw, pw, dw, "width")
    shape = (*x.shape[:-3], oh_, ow_, oc)
    bias = check.optional(bias, "bias", (oc,))
    residual = check.optional(residual, "residual", shape)
    y = check.output(out, shape, x, bias, residual)
    if (kh, kw, sh, sw, ph, pw) == (1, 1, 1, 1, 0, 0):
        flat = Panels(panels.words, (oc, c), panels.isa)
        linear(x, flat, bias, activation=activation, residual=residual, out=y, threads=threads)
        return y
    if ph or pw:
        padded = check.new((*x.shape[:-3], x.shape[-3] + 2 * ph, x.shape[-2] + 2 * pw, c), "pad")
        padded[:] = 0
        padded[..., ph : ph + x.shape[-3], pw : pw + x.shape[-2], :] = x
        x = padded
    offsets = _segments(kh, kw, dh, dw, x.shape[-2], c)
    cdef const int64_t[::1] offset = offsets
    cdef const float[::1] xv = x.reshape(-1), bv = bias
    cdef const float[::1] rv = None if residual is None else residual.reshape(-1)
    cdef matrix w = as_matrix(panels)
    cdef float[::1] yv = y.reshape(-1)
    cdef conv_rows rows
    cdef int64_t oh = oh_, ow = ow_, units = yv.shape[0] // (ow * oc)
    rows.g = new_gemm(ow, oc, kh * kw * c // offset.shape[0])
    rows.g.segments, rows.g.offset, rows.g.lda = offset.shape[0], &offset[0], sw * c
    rows.g.b, rows.g.ldb, rows.g.panel = w.data, w.u.weight.columns, w.panel
    rows.g.bias, rows.g.act, rows.g.ldr, rows.g.ldy = floats(bv), act, oc, oc
    rows.x, rows.residual, rows.y = &xv[0], floats(rv), &yv[0]
    rows.oh, rows.image, rows.step = oh, x.shape[-3] * x.shape[-2] * c, sh * x.shape[-2] * c
    rows.u = w.u
    launch("conv2d", conv_row, &rows, sizeof(rows), units, conv_layout, nthreads if units > 1 else 1)
    return y


cdef struct conv_rows:
    const micro *u
    gemm_args g
    const float *x
    const float *residual
    float *y
    int64_t oh, image, step
    float *operand


cdef void conv_layout(void *job, arena *scratch) noexcept nogil:
    cdef conv_rows *rows = <conv_rows *>job
    rows.operand = take_floats(scratch, operand_floats_of(rows.u, rows.g.m, rows.g.segments * rows.g.k))


cdef void conv_row(void *job, int64_t unit) noexcept nogil:
    """Compute output row ``unit``. Row numbers continue from one image of the batch to the next."""
    cdef const conv_rows *rows = <const conv_rows *>job
    cdef gemm_args g = rows.g
    cdef int64_t at = unit * g.m * g.n
    g.a = rows.x + unit // rows.oh * rows.image + unit % rows.oh * rows.step
    g.y = rows.y + at
    g.residual = NULL if rows.residual == NULL else rows.residual + at
    product(rows.u, &g, rows.operand)


def _segments(kh, kw, dh, dw, width, c):
    """Return the start of each GEMM segment: the offset in floats from the first input pixel of an output pixel.

    With horizontal dilation 1, a segment is a row of the kernel. Otherwise, a segment is a single kernel element.
    """
    columns = np.zeros(1, np.int64) if dw == 1 else np.arange(kw, dtype=np.int64) * dw * c
    return (np.arange(kh, dtype=np.int64)[:, None] * dh * width * c + columns).reshape(-1)
