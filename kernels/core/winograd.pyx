"""3×3 convolution with 2.25 times fewer multiplications: Winograd's minimal filtering F(2×2, 3×3), Lavin & Gray, arXiv:1509.09308.

A 2×2 tile of outputs is Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A, with d its 4×4 inputs and g the 3×3 filter. Summed over input channels, ⊙ becomes
sixteen GEMMs, one for each element of the 4×4 matrices, with one row for each tile. All entries of A and B are 0 or ±1, so rounding
errors are about the same as in the direct convolution.
"""

from typing import NamedTuple

import numpy as np

from core.common cimport *
from core.launch cimport *

from mobilesam.kernels.core import check, isa
from mobilesam.kernels.core.threads import resolve

import_runtime()

# The number of neighbouring tiles that are transformed at once. With 256 channels, their transforms take 0.5 MB, half of an L2 cache.
cdef int64_t TILES = 32


class WinogradPanels(NamedTuple):
    """A weight (OC, 3, 3, C), transformed to G g Gᵀ and packed.

    Attributes:
        data: (16, OC / NR, C, NR) float32.
        shape: The weight's original shape, (OC, 3, 3, C).
        isa: The index of the micro-kernel table, as in Panels.
    """

    data: np.ndarray
    shape: tuple[int, int, int, int]
    isa: int


def pack_winograd(weight, *, threads=None):
    """Transform a weight to G g Gᵀ and pack it for ``winograd_conv3x3``.

    Args:
        weight: (OC, 3, 3, C) float32, with OC a multiple of 32.
        threads: The number of threads, or None for the default.

    Returns:
        WinogradPanels for the current ISA.
    """
    weight = check.array(weight, "weight", ("OC", 3, 3, "C"))
    if weight.shape[0] % 32:
        raise ValueError(f"weight: expected a multiple of 32 output channels, got shape {weight.shape}")
    cdef int nthreads = resolve(threads)
    cdef int64_t index = isa.index(), oc = weight.shape[0], c = weight.shape[3]
    cdef int64_t nr = rt.tables[index].nr
    cdef filters p
    data = np.empty((16, oc // nr, c, nr), np.float32)
    cdef const float[::1] wv = weight.reshape(-1)
    cdef float[::1] panels = data.reshape(-1)
    p.w, p.panels, p.oc, p.c, p.nr = &wv[0], &panels[0], oc, c, nr
    launch("pack_winograd", transform_panel, &p, sizeof(p), oc // nr, NULL, nthreads)
    return WinogradPanels(data, tuple(weight.shape), index)


cdef struct filters:
    const float *w  # the weight, (oc, 3, 3, c)
    float *panels  # the transformed weight, (16, oc/nr, c, nr)
    int64_t oc, c, nr


cdef void transform_panel(void *job, int64_t unit) noexcept nogil:
    cdef const filters *p = <const filters *>job
    cdef int64_t j
    for j in range(p.nr):
        transform_filter(p.w + (unit * p.nr + j) * 9 * p.c, p.c, p.panels + unit * p.c * p.nr + j, p.nr, p.oc * p.c)


cdef void transform_filter(const float *g, int64_t c, float *column, int64_t nr, int64_t product) noexcept nogil:
    """Compute G g Gᵀ of an output channel's filters g (3, 3, c), and write it to a column of a panel of each of the sixteen products."""
    cdef double half[4][3]
    cdef double outer, middle
    cdef int64_t i, j, p
    for p in range(c):
        for j in range(3):
            outer, middle = <double>g[j * c + p] + g[(6 + j) * c + p], g[(3 + j) * c + p]
            half[0][j], half[3][j] = g[j * c + p], g[(6 + j) * c + p]
            half[1][j], half[2][j] = (outer + middle) / 2, (outer - middle) / 2
        for i in range(4):
            outer, middle = half[i][0] + half[i][2], half[i][1]
            column[4 * i * product + p * nr] = half[i][0]
            column[(4 * i + 1) * product + p * nr] = (outer + middle) / 2
            column[(4 * i + 2) * product + p * nr] = (outer - middle) / 2
            column[(4 * i + 3) * product + p * nr] = half[i][2]


cdef struct winograd_job:
    const micro *u
    const float *x  # the input, (height, width, c)
    const float *w  # the transformed weight, (16, oc/NR, c, NR)
    const float *zeros  # (c)
    float *y  # the output, (height, width, oc)
    int64_t height, width, c, oc, across  # across is the number of units of work in a row of tiles
    float *v  # the transformed inputs, (16, TILES, c)
    float *products  # the sixteen products for one panel, (16, TILES, NR)
    float *discard  # (NR), receives output pixels outside y


def winograd_conv3x3(x, weight, *, out=None, threads=None):
    """y[h,w,o] = Σ_ijc x[h + i − 1, w + j − 1, c] · weight[o,i,j,c]: ``conv2d`` with stride 1 and pad 1.

    Args:
        x: (H, W, C) float32, with C a multiple of 16.
        weight: (OC, 3, 3, C) float32, with OC a multiple of 32, or WinogradPanels of this shape.
        out: (H, W, OC) float32 that receives the result, or None.
        threads: The number of threads, or None for the default.

    Returns:
        (H, W, OC) float32.
    """
    cdef winograd_job p
    cdef int nthreads = resolve(threads)
    x = check.array(x, "x", ("H", "W", "C"))
    p.height, p.width, p.c = x.shape
    if not isinstance(weight, WinogradPanels):
        weight = pack_winograd(check.array(weight, "weight", ("OC", 3, 3, p.c)), threads=threads)
    check.record(weight, "weight", WinogradPanels)
    check_panels(weight, "weight")
    if weight.shape[3] != p.c:
        raise ValueError(f"weight: expected shape (OC, 3, 3, {p.c}), got WinogradPanels of {weight.shape}")
    if p.c % 16:
        raise ValueError(f"x: expected a multiple of 16 channels, got {p.c}")
    p.oc = weight.shape[0]
    y = check.output(out, (p.height, p.width, p.oc), x)
    cdef const float[::1] xv = x.reshape(-1), zeros = np.zeros(p.c, np.float32)
    cdef const float[:, :, :, ::1] wv = weight.data
    cdef float[::1] yv = y.reshape(-1)
    p.x, p.w, p.zeros, p.y = &xv[0], &wv[0, 0, 0, 0], &zeros[0], &yv[0]

    p.u = &rt.tables[<int>weight.isa]
    p.across = ((p.width + 1) // 2 + TILES - 1) // TILES
    launch("winograd_conv3x3", tile_run, &p, sizeof(p), (p.height + 1) // 2 * p.across, winograd_layout, nthreads)
    return y


cdef check_panels(panels, name):
    """Raise TypeError or ValueError unless micro-kernels can read ``panels`` within bounds, whichever numbers ``panels.data`` has."""
    isa.check_table(panels.isa, name, "WinogradPanels", precisions=("fp32",))
    check.whole_shape(panels.shape, f"{name}.shape", 4)
    nr, (oc, kh, kw, c) = rt.tables[<int>panels.isa].nr, panels.shape
    if (kh, kw) != (3, 3) or oc % 32:
        raise ValueError(f"{name}.shape: expected (OC, 3, 3, C) with a multiple of 32 output channels, got {panels.shape}")
    check.in_place(panels.data, f"{name}.data", (16, oc // nr, c, nr))


cdef void winograd_layout(void *job, arena *scratch) noexcept nogil:
    cdef winograd_job *p = <winograd_job *>job
    p.v = take_floats(scratch, 16 * TILES * p.c)
    p.products = take_floats(scratch, 16 * TILES * p.u.nr)
    p.discard = take_floats(scratch, p.u.nr)


cdef void tile_run(void *job, int64_t unit) noexcept nogil:
    """Compute TILES output tiles: transform the inputs, then for each panel compute the sixteen products and transform the products."""
    cdef const winograd_job *p = <const winograd_job *>job
    cdef const micro *u = p.u
    cdef int64_t row = unit // p.across, first = unit % p.across * TILES
    cdef int64_t count = min(TILES, (p.width + 1) // 2 - first), nr = u.nr, t, f, i, j, h, w
    cdef float *v = p.v
    cdef float *products = p.products
    cdef gemm_args g = new_gemm(count, nr, p.c)
    cdef const float *pixels[16]
    cdef float *outputs[4]
    for t in range(count):
        for i in range(4):
            for j in range(4):
                h, w = 2 * row + i - 1, 2 * (first + t) + j - 1
                pixels[4 * i + j] = p.x + (h * p.width + w) * p.c if 0 <= h < p.height and 0 <= w < p.width else p.zeros
        u.winograd_input(v + t * p.c, TILES * p.c, pixels, p.c)
    g.lda, g.ldb, g.panel, g.ldy = p.c, nr, p.c * nr, nr
    for j in range(p.oc // nr):
        for f in range(16):
            g.a, g.b, g.y = v + f * TILES * p.c, p.w + (f * p.oc + j * nr) * p.c, products + f * TILES * nr
            u.gemm(&g)
        for t in range(count):
            for i in range(4):
                h, w = 2 * row + (i >> 1), 2 * (first + t) + (i & 1)
                outputs[i] = p.y + (h * p.width + w) * p.oc + j * nr if h < p.height and w < p.width else p.discard
            u.winograd_output(outputs, products + t * nr, TILES * nr, nr)
