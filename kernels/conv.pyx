"""Convolutions as GEMMs that read the map in place (no im2col): regular ones and the 2×2 stride-2 transposed one."""
import numpy as np

from cython.parallel cimport parallel, prange
from libc.string cimport memcpy

from common cimport *

from mobilesam.kernels import check
from mobilesam.kernels.gemm import as_panels, linear
from mobilesam.kernels.panels import Panels
from mobilesam.kernels.threads import resolve

cdef const runtime *rt = shared_runtime()


def conv2d(x, weight, bias=None, *, stride=1, pad=0, dilation=1, activation=None, residual=None, out=None, threads=None):
    """y[h,w,o] = act(Σ_ijc x[h·s + i·d − p, w·s + j·d − p, c] · weight[o,i,j,c] + bias[o] + residual[h,w,o]).

    In NHWC, KW neighbouring pixels are KW·C contiguous floats: with dilation 1 a row of outputs is KH GEMM accumulations of
    depth KW·C whose A rows overlap, stride·C apart. A 1×1 convolution is one GEMM over all pixels.

    Args:
        x: (H, W, C) or (B, H, W, C) float32.
        weight: (OC, KH, KW, C) float32, or Panels of that shape.
        bias: (OC,) float32.
        stride, pad, dilation: an int or (vertical, horizontal).
        activation: None, "gelu" or "relu".
        residual: of the output's shape, added before the activation.
        out: of the output's shape, to write into.

    Returns:
        (OH, OW, OC) or (B, OH, OW, OC) float32. TypeError or ValueError names the argument that does not fit.
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
        x = np.pad(x, [(0, 0)] * (x.ndim - 3) + [(ph, ph), (pw, pw), (0, 0)])
    offsets = _segments(kh, kw, dh, dw, x.shape[-2], c)
    cdef const int64_t[::1] offset = offsets
    cdef const float[::1] xv = x.reshape(-1), bv = bias
    cdef const float[::1] rv = None if residual is None else residual.reshape(-1)
    cdef matrix w = as_matrix(rt, panels)
    cdef float[::1] yv = y.reshape(-1)
    cdef conv_rows rows
    cdef int64_t oh = oh_, ow = ow_, unit, units = yv.shape[0] // (ow * oc)
    rows.g = new_gemm(ow, oc, kh * kw * c // offset.shape[0])
    rows.g.segments, rows.g.offset, rows.g.lda = offset.shape[0], &offset[0], sw * c
    rows.g.b, rows.g.ldb, rows.g.panel = w.data, w.u.weight.columns, w.panel
    rows.g.bias, rows.g.act, rows.g.ldr, rows.g.ldy = floats(bv), act, oc, oc
    rows.x, rows.residual, rows.y = &xv[0], floats(rv), &yv[0]
    rows.oh, rows.image, rows.step = oh, x.shape[-3] * x.shape[-2] * c, sh * x.shape[-2] * c
    cdef size_t size = sizeof(float) * operand_floats(&w, ow)
    cdef float *operand
    cdef int failed = 0
    with nogil, parallel(num_threads=nthreads if units > 1 else 1):
        operand = <float *>rt.scratch(size) if size else NULL
        for unit in prange(units, schedule="dynamic"):
            if size and operand == NULL:
                failed += 1
            else:
                conv_row(w.u, &rows, unit, operand)
    if failed:
        raise MemoryError(f"conv2d: no memory for {size} bytes of scratch")
    return y


cdef struct conv_rows:
    gemm_args g
    const float *x
    const float *residual
    float *y
    int64_t oh, image, step


cdef void conv_row(const micro *u, const conv_rows *rows, int64_t unit, float *operand) noexcept nogil:
    """Output row ``unit`` of all the batch's rows."""
    cdef gemm_args g = rows.g
    cdef int64_t at = unit * g.m * g.n
    g.a = rows.x + unit // rows.oh * rows.image + unit % rows.oh * rows.step
    g.y = rows.y + at
    g.residual = NULL if rows.residual == NULL else rows.residual + at
    g.operand = operand
    u.product(&g)


def _segments(kh, kw, dh, dw, width, c):
    """Where a row's GEMM segments start, in floats from the output pixel's first tap."""
    columns = np.zeros(1, np.int64) if dw == 1 else np.arange(kw, dtype=np.int64) * dw * c
    return (np.arange(kh, dtype=np.int64)[:, None] * dh * width * c + columns).reshape(-1)


def conv_transpose2d(x, weight, bias=None, *, activation=None, out=None, threads=None):
    """y[2h+i, 2w+j, o] = act(Σ_c x[h,w,c] · weight[o,i,j,c] + bias[o]), as ``torch.nn.ConvTranspose2d(kernel_size=2, stride=2)``.

    Args:
        x: (H, W, C) or (B, H, W, C) float32.
        weight: (OC, 2, 2, C) float32, or what :func:`pack_transpose` made of it.
        bias: (OC,) float32.
        activation: None, "gelu" or "relu".
        out: of the output's shape, to write into.

    Returns:
        (2H, 2W, OC) or (B, 2H, 2W, OC) float32.
    """
    cdef int act = check.activation(activation), nthreads = resolve(threads)
    x = check.array(x, "x", ("H", "W", "C"), ("B", "H", "W", "C"))
    if not isinstance(weight, Panels):
        weight = pack_transpose(check.array(weight, "weight", ("OC", 2, 2, x.shape[-1])), threads=threads)
    if len(weight.shape) != 2 or weight.shape[1] != x.shape[-1] or weight.n % 4:
        raise ValueError(f"weight: expected 4·OC rows of {x.shape[-1]} packed by pack_transpose, got Panels of {weight.shape}")
    cdef int64_t n = weight.n, oc = n // 4, c = x.shape[-1], width = x.shape[-2]
    bias = check.optional(bias, "bias", (oc,))
    y = check.output(out, (*x.shape[:-3], 2 * x.shape[-3], 2 * width, oc), x, bias)
    tiled = None if bias is None else np.tile(bias, 4)
    cdef const float[::1] xv = x.reshape(-1), bv = tiled
    cdef matrix w = as_matrix(rt, weight)
    cdef float[::1] yv = y.reshape(-1)
    cdef int64_t unit, units = xv.shape[0] // (width * c)
    cdef size_t size = sizeof(float) * (round_up(width * n, 16) + operand_floats(&w, width))
    cdef const float *tiled_bias = floats(bv)
    cdef float *row
    cdef int failed = 0
    with nogil, parallel(num_threads=nthreads):
        row = <float *>rt.scratch(size)
        for unit in prange(units, schedule="dynamic"):
            if row == NULL:
                failed += 1
            else:
                transpose_row(&w, &xv[unit * width * c], tiled_bias, row, &yv[unit * width * n], width, oc, act)
    if failed:
        raise MemoryError(f"conv_transpose2d: no memory for {size} bytes of scratch")
    return y


cdef void transpose_row(const matrix *w, const float *x, const float *bias, float *row, float *y, int64_t width, int64_t oc,
                        int act) noexcept nogil:
    """An input row: row[w, (i,j,o)] in one GEMM, then its halves i to the output rows 2h and 2h+1."""
    cdef int64_t half = 2 * oc, i, p
    product(w, width, x, w.k, bias, NULL, 0, row, 4 * oc, act, row + round_up(width * 4 * oc, 16))
    for i in range(2):
        for p in range(width):
            memcpy(y + (i * width + p) * half, row + p * 4 * oc + i * half, half * sizeof(float))


def pack_transpose(weight, *, threads=None):
    """Pack the (OC, 2, 2, C) weight of :func:`conv_transpose2d`: Panels of shape (4·OC, C), rows ordered (i, j, o)."""
    weight = check.array(weight, "weight", ("OC", 2, 2, "C"))
    rows = np.ascontiguousarray(weight.transpose(1, 2, 0, 3)).reshape(-1, weight.shape[-1])
    return as_panels(rows, "weight", rows.shape, threads=threads)
