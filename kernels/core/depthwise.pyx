"""Direct depthwise convolution, channels last: every output pixel is KH·KW multiply-adds of channel vectors."""
import math

import numpy as np

from core.common cimport *
from core.launch cimport *

from mobilesam.kernels.core import check
from mobilesam.kernels.core.threads import resolve

import_runtime()

cdef struct depthwise_conv:
    const micro *u
    const float *x
    const float *weight  # (KH*KW, period)
    const float *bias
    float *y
    int64_t height, width, channels, kh, kw, sh, sw, ph, pw, dh, dw, oh, ow, period, rows
    int act, path
    const float *zeros  # (width, channels) zeros, for rows outside the feature map; only for PATH_3X3
    const float **taps  # (2, kh*kw) pointers: first to the input pixel of each kernel tap, then to each tap's weights; PATH_3X3 does not use taps


cdef enum:
    ROWS = 8  # output rows in a unit of work
    PATH_3X3 = 0  # for 3×3 kernels with stride 1 or 2 and pad 1: register tiles of several pixels
    PATH_FLAT = 1  # for horizontal stride 1: a row is computed as one run of floats, so that even 3 channels fill vectors
    PATH_TAPS = 2  # for any convolution: one output pixel at a time


def depthwise_conv2d(x, weight, bias=None, *, stride=1, pad=0, dilation=1, activation=None, out=None, threads=None):
    """y[h,w,c] = act(Σ_ij x[h·s + i·d − p, w·s + j·d − p, c] · weight[i,j,c] + bias[c]).

    s, p and d are stride, pad and dilation.

    Args:
        x: (H, W, C) or (B, H, W, C) float32.
        weight: (KH, KW, C) float32.
        bias: (C,) float32, or None.
        stride: An int or (vertical, horizontal).
        pad: An int or (vertical, horizontal).
        dilation: An int or (vertical, horizontal).
        activation: None, "gelu" or "relu".
        out: Float32 of the output's shape that receives the result, or None.
        threads: The number of threads, or None for the default.

    Returns:
        (OH, OW, C) or (B, OH, OW, C) float32, with OH = (H + 2p − d·(KH − 1) − 1) // s + 1.

    Raises:
        TypeError, ValueError: An argument has the wrong type, shape or value. The message names the argument.
    """
    cdef depthwise_conv d
    cdef int nthreads = resolve(threads)
    d.act = check.activation(activation)
    x = check.array(x, "x", ("H", "W", "C"), ("B", "H", "W", "C"))
    weight = check.array(weight, "weight", ("KH", "KW", x.shape[-1]))
    bias = check.optional(bias, "bias", (x.shape[-1],))
    d.kh, d.kw, d.channels = weight.shape
    d.height, d.width = x.shape[-3], x.shape[-2]
    (d.sh, d.sw), (d.ph, d.pw) = check.pair(stride, "stride", 1), check.pair(pad, "pad", 0)
    d.dh, d.dw = check.pair(dilation, "dilation", 1)
    d.oh = check.conv_size(d.height, d.kh, d.sh, d.ph, d.dh, "height")
    d.ow = check.conv_size(d.width, d.kw, d.sw, d.pw, d.dw, "width")
    y = check.output(out, (*x.shape[:-3], d.oh, d.ow, d.channels), x, weight, bias)

    cdef const micro *u = &rt.tables[rt.active[0]]
    d.path = PATH_TAPS
    d.period = d.channels
    if (d.kh, d.kw, d.dh, d.dw, d.ph, d.pw) == (3, 3, 1, 1, 1, 1) and d.sh == d.sw <= 2 and d.channels >= u.vl:
        d.path = PATH_3X3
    elif d.sw == 1:
        d.path = PATH_FLAT
        d.period = math.lcm(d.channels, u.vl)
        weight = np.tile(weight, d.period // d.channels)
        bias = None if bias is None else np.tile(bias, d.period // d.channels)
    cdef const float[::1] xv = x.reshape(-1), wv = weight.reshape(-1), bv = bias
    cdef float[::1] yv = y.reshape(-1)
    cdef const float[::1] zeros = np.zeros(d.width * d.channels, np.float32)
    d.u, d.x, d.weight, d.bias, d.y, d.zeros = u, &xv[0], &wv[0], floats(bv), &yv[0], &zeros[0]

    cdef int64_t work = yv.shape[0] * d.kh * d.kw
    d.rows = yv.shape[0] // (d.ow * d.channels)
    launch("depthwise_conv2d", depthwise_rows, &d, sizeof(d), (d.rows + ROWS - 1) // ROWS, depthwise_layout,
           nthreads if work > 1 << 16 else 1)
    return y


cdef void depthwise_layout(void *job, arena *scratch) noexcept nogil:
    cdef depthwise_conv *d = <depthwise_conv *>job
    d.taps = <const float **>arena_take(scratch, 2 * d.kh * d.kw * sizeof(float *))


cdef void depthwise_rows(void *job, int64_t unit) noexcept nogil:
    cdef const depthwise_conv *d = <const depthwise_conv *>job
    cdef int64_t row
    for row in range(unit * ROWS, min((unit + 1) * ROWS, d.rows)):
        depthwise_row(d, row)


cdef void depthwise_row(const depthwise_conv *d, int64_t unit) noexcept nogil:
    """Compute output row ``unit``. Row numbers continue from one image of the batch to the next."""
    cdef const micro *u = d.u
    cdef int64_t h = unit % d.oh, c = d.channels, begin = d.ow, end = d.ow, w
    cdef const float *image = d.x + unit // d.oh * d.height * d.width * c
    cdef float *y = d.y + unit * d.ow * c
    cdef depthwise_map whole
    cdef const float **x = d.taps
    cdef const float **weight = x + d.kh * d.kw
    cdef taps_args g
    g.x, g.w, g.bias, g.act = x, weight, d.bias, d.act
    if d.path == PATH_3X3:
        whole.x, whole.height, whole.width, whole.channels, whole.stride = image, d.height, d.width, c, d.sh
        whole.weight, whole.bias, whole.zeros, whole.act = d.weight, d.bias, d.zeros, d.act
        depthwise3x3_row(u, &whole, h, 0, d.ow, y)
        return
    if d.path == PATH_FLAT:  # for pixels begin to end - 1, all kernel columns lie inside the input row
        begin = min(d.pw, d.ow)
        end = max(begin, min(d.ow, d.width + d.pw - (d.kw - 1) * d.dw))
        if end > begin:
            g.taps, g.y = gather(d, image, h, begin, x, weight), y + begin * c
            u.depthwise_flat(&g, d.period, (end - begin) * c)
    for w in range(d.ow):
        if not begin <= w < end:
            g.taps, g.y = gather(d, image, h, w, x, weight), y + w * c
            u.depthwise_taps(&g, c)


cdef inline int64_t gather(const depthwise_conv *d, const float *image, int64_t h, int64_t w, const float **x,
                           const float **weight) noexcept nogil:
    """Store pointers to the input pixels of output pixel (h, w) that lie inside the image, and to their weights.

    Returns the number of these pixels.
    """
    cdef int64_t taps = 0, i, j, row, column
    for i in range(d.kh):
        row = h * d.sh + i * d.dh - d.ph
        for j in range(d.kw):
            column = w * d.sw + j * d.dw - d.pw
            if 0 <= row < d.height and 0 <= column < d.width:
                x[taps] = image + (row * d.width + column) * d.channels
                weight[taps] = d.weight + (i * d.kw + j) * d.period
                taps += 1
    return taps
