"""MBConv and PatchMerging, fused: a ring buffer holds three rows of the hidden feature map, which is never stored as a whole."""
from libc.string cimport memset

from core.common cimport *
from core.launch cimport *

from mobilesam.kernels.core import check
from mobilesam.kernels.core.gemm import as_panels
from mobilesam.kernels.core.threads import resolve

import_runtime()

# STRIP is the largest number of output columns in a strip.
# With 256 channels, three hidden rows of a strip take 0.2 MB, which leaves space in L2 for the weights.
cdef int64_t STRIP = 68

cdef struct mbconv_job:
    const micro *u
    const float *x  # the input, (height, width, c)
    matrix w1
    const float *b1
    const float *w2  # (9, e)
    const float *b2
    matrix w3
    const float *b3
    float *y  # the output, (oh, ow, oc)
    int64_t height, width, c, e, oc, oh, ow, stride, strip, strips, band
    bint residual
    float *ring[3]  # three rows of the hidden feature map, each (strip·stride + 2, e)
    float *depthwise  # a row of the depthwise convolution's output, (strip, e)
    float *operand  # packed A


def mbconv(x, w1, b1, w2, b2, w3, b3, *, stride=1, residual=False, out=None, threads=None):
    """t = gelu(depthwise 3×3(gelu(x·w1ᵀ + b1), w2) + b2)·w3ᵀ + b3;  y = gelu(x + t) if residual else t.

    With ``residual``, this is TinyViT's ``MBConv``. Without ``residual``, it is ``PatchMerging``. The depthwise convolution has pad 1.

    Args:
        x: (H, W, C) float32.
        w1: (E, C) float32, or Panels, of the 1×1 expansion.
        b1: (E,) float32.
        w2: (3, 3, E) float32, of the depthwise convolution.
        b2: (E,) float32.
        w3: (OC, E) float32, or Panels, of the 1×1 projection.
        b3: (OC,) float32.
        stride: The depthwise convolution's stride, 1 or 2.
        residual: Whether to add x to the output and apply GELU to the sum. Requires OC = C and stride 1.
        out: Float32 of the output's shape that receives the result, or None.
        threads: The number of threads, or None for the default.

    Returns:
        (ceil(H / stride), ceil(W / stride), OC) float32.

    Source: ``MBConv`` and ``PatchMerging`` in the reference's modeling/tiny_vit_sam.py.
    """
    cdef mbconv_job p
    cdef int nthreads = resolve(threads)
    x = check.array(x, "x", ("H", "W", "C"))
    p.height, p.width, p.c = x.shape
    expand = as_panels(w1, "w1", ("E", p.c), threads=threads)
    p.e, p.residual = expand.n, check.flag(residual, "residual")
    project = as_panels(w3, "w3", ("OC", p.e), threads=threads)
    p.oc = project.n
    p.w1, p.w3 = as_matrix(expand), as_matrix(project)
    cdef const micro *u = p.w1.u
    check_same_isa(&p.w3, &p.w1, "w3")
    if p.e < u.vl:
        raise ValueError(f"w1: expected at least {u.vl} hidden channels, got {p.e}")
    p.stride = check.whole(stride, "stride", 1)
    if p.stride > 2 or (residual and (p.stride, p.oc) != (1, p.c)):
        raise ValueError(f"stride: expected 1 or 2, and with a residual 1 and {p.c} output channels, got {stride} and {p.oc} output channels")
    p.oh, p.ow = (p.height - 1) // p.stride + 1, (p.width - 1) // p.stride + 1
    y = check.output(out, (p.oh, p.ow, p.oc), x, b1, w2, b2, b3)
    cdef const float[::1] xv = x.reshape(-1), w2v = check.array(w2, "w2", (3, 3, p.e)).reshape(-1)
    cdef const float[::1] b1v = check.array(b1, "b1", (p.e,)), b2v = check.array(b2, "b2", (p.e,)), b3v = check.array(b3, "b3", (p.oc,))
    cdef float[::1] yv = y.reshape(-1)
    p.x, p.y, p.w2 = &xv[0], &yv[0], &w2v[0]
    p.b1, p.b2, p.b3 = &b1v[0], &b2v[0], &b3v[0]

    cdef int64_t strips = (p.ow + STRIP - 1) // STRIP, bands = max(1, min(p.oh // 8, (4 * nthreads + strips - 1) // strips))
    p.u, p.strips, p.strip, p.band = u, strips, (p.ow + strips - 1) // strips, (p.oh + bands - 1) // bands
    launch("mbconv", strip_of_band, &p, sizeof(p), strips * bands, mbconv_layout, nthreads)
    return y


cdef void mbconv_layout(void *job, arena *scratch) noexcept nogil:
    cdef mbconv_job *p = <mbconv_job *>job
    cdef int64_t columns = p.strip * p.stride + 2, i
    for i in range(3):
        p.ring[i] = take_floats(scratch, columns * p.e)
    p.depthwise = take_floats(scratch, p.strip * p.e)
    p.operand = take_floats(scratch, max(operand_floats(&p.w1, columns), operand_floats(&p.w3, p.strip)))


cdef void strip_of_band(void *job, int64_t unit) noexcept nogil:
    """Compute ``band`` output rows by ``strip`` output columns. Hidden row r is in ring[(r + 3) % 3]."""
    cdef const mbconv_job *p = <const mbconv_job *>job
    cdef int64_t h0 = unit // p.strips * p.band, w0 = unit % p.strips * p.strip
    cdef int64_t width = min(p.strip, p.ow - w0), left = w0 * p.stride - 1, columns = (width - 1) * p.stride + 3
    cdef int64_t h, i, r, next_row = h0 * p.stride - 1
    cdef depthwise3x3_args d
    cdef gemm_args g
    cdef product_args packed
    cdef bint narrow = p.w3.u.weight.terms > 1  # whether pack_operand, not depthwise3x3, applies the second GELU
    if width <= 0:
        return
    d.width, d.channels, d.stride = width, p.e, p.stride
    d.weight, d.bias, d.y, d.act = p.w2, p.b2, p.depthwise, ACT_NONE if narrow else ACT_GELU
    for h in range(h0, min(h0 + p.band, p.oh)):
        r = h * p.stride - 1
        while next_row < r + 3:
            expand_row(p, next_row, left, columns, p.ring[(next_row + 3) % 3])
            next_row += 1
        for i in range(3):
            d.x[i] = p.ring[(r + i + 3) % 3]
        p.u.depthwise3x3(&d)
        i = (h * p.ow + w0) * p.oc
        g = of_rows(&p.w3, width, p.depthwise, p.e)
        g.bias, g.y, g.ldy = p.b3, p.y + i, p.oc
        if p.residual:
            g.residual, g.ldr, g.act = p.x + i, p.oc, ACT_GELU
        if narrow:
            pack_operand(p.w3.u, &g, p.operand, ACT_GELU)
            packed = of_operand(&g, p.operand)
            p.w3.u.product(&packed)
        else:
            product(p.w3.u, &g, p.operand)


cdef void expand_row(const mbconv_job *p, int64_t r, int64_t left, int64_t columns, float *hidden) noexcept nogil:
    """Compute ``columns`` pixels of hidden row r, from column ``left`` on, to hidden (columns, e). Pixels outside the image are zero."""
    cdef int64_t first = max(0, left), end = min(p.width, left + columns)
    cdef gemm_args g
    if not 0 <= r < p.height:
        memset(hidden, 0, columns * p.e * sizeof(float))
        return
    memset(hidden, 0, (first - left) * p.e * sizeof(float))
    g = of_rows(&p.w1, end - first, p.x + (r * p.width + first) * p.c, p.c)
    g.bias, g.act, g.y, g.ldy = p.b1, ACT_GELU, hidden + (first - left) * p.e, p.e
    product(p.w1.u, &g, p.operand)
    memset(hidden + (end - left) * p.e, 0, (left + columns - end) * p.e * sizeof(float))
