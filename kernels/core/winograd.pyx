"""3×3 convolution with 2.25 times fewer multiplications: Winograd's minimal filtering F(2×2, 3×3), Lavin & Gray, arXiv:1509.09308.

A 2×2 tile of outputs is A'[(G g G') ⊙ (B' d B)]A of its 4×4 inputs d: sixteen GEMMs over channels, with tiles as rows. All
entries of A and B are 0 or ±1, so it rounds about as the direct form does.
"""

from typing import NamedTuple

import numpy as np

from cython.parallel cimport parallel, prange

from core.common cimport *

from mobilesam.kernels.core import check, isa
from mobilesam.kernels.core.threads import resolve

cdef const runtime *rt = shared_runtime()

# Tiles of a row that are transformed at once: their 16 products' inputs take 0.5 MB at 256 channels, half of an L2.
cdef int64_t TILES = 32


class WinogradPanels(NamedTuple):
    """A (OC, 3, 3, C) weight as G g G', packed: ``data`` (16, ceil(OC / NR), C, NR); ``isa`` as in Panels."""

    data: np.ndarray
    shape: tuple[int, int, int, int]
    isa: int


def pack_winograd(weight, *, threads=None):
    """Transform and pack a (OC, 3, 3, C) float32 weight, OC a multiple of 32, for :func:`winograd_conv3x3`."""
    weight = check.array(weight, "weight", ("OC", 3, 3, "C"))
    if weight.shape[0] % 32:
        raise ValueError(f"weight: expected a multiple of 32 output channels, got shape {weight.shape}")
    cdef int nthreads = resolve(threads)
    cdef int64_t index = isa.index(), oc = weight.shape[0], c = weight.shape[3], j
    cdef int64_t nr = rt.tables[index].nr
    data = np.empty((16, oc // nr, c, nr), np.float32)
    cdef const float[::1] wv = weight.reshape(-1)
    cdef float[::1] panels = data.reshape(-1)
    for j in prange(oc, nogil=True, num_threads=nthreads, schedule="static"):
        transform_filter(&wv[j * 9 * c], c, &panels[j // nr * c * nr + j % nr], nr, oc * c)
    return WinogradPanels(data, tuple(weight.shape), index)


cdef void transform_filter(const float *g, int64_t c, float *column, int64_t nr, int64_t product) noexcept nogil:
    """G g G' of an output channel's filters g (3, 3, c), to ``column`` of its panel in each of the sixteen products."""
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


cdef struct winograd_pass:
    const float *x  # (height, width, c)
    const float *w  # (16, oc/NR, c, NR)
    const float *zeros  # (c)
    float *y  # (height, width, oc)
    int64_t height, width, c, oc


def winograd_conv3x3(x, weight, *, out=None, threads=None):
    """y[h,w,o] = Σ_ijc x[h + i − 1, w + j − 1, c] · weight[o,i,j,c]: :func:`conv2d` of a 3×3 kernel with stride 1 and pad 1.

    Args:
        x: (H, W, C) float32, C a multiple of 16.
        weight: (OC, 3, 3, C) float32, OC a multiple of 32, or what :func:`pack_winograd` made of it.
        out: (H, W, OC) to write into.

    Returns:
        (H, W, OC) float32.
    """
    cdef winograd_pass p
    cdef int nthreads = resolve(threads)
    x = check.array(x, "x", ("H", "W", "C"))
    p.height, p.width, p.c = x.shape
    if not isinstance(weight, WinogradPanels):
        weight = pack_winograd(check.array(weight, "weight", ("OC", 3, 3, p.c)), threads=threads)
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

    cdef const micro *u = &rt.tables[<int>weight.isa]
    cdef int64_t across = ((p.width + 1) // 2 + TILES - 1) // TILES, unit
    cdef size_t size = sizeof(float) * (16 * TILES * (p.c + u.nr) + 2 * u.nr + 48)
    cdef float *scratch
    cdef int failed = 0
    with nogil, parallel(num_threads=nthreads):
        scratch = <float *>rt.scratch(size)
        for unit in prange((p.height + 1) // 2 * across, schedule="dynamic"):
            if scratch == NULL:
                failed += 1
            else:
                tile_run(u, &p, unit // across, unit % across * TILES, scratch)
    if failed:
        raise MemoryError(f"winograd_conv3x3: no memory for {size} bytes of scratch")
    return y


cdef void tile_run(const micro *u, const winograd_pass *p, int64_t row, int64_t first, float *free) noexcept nogil:
    """Tiles first to first + TILES of a row of tiles: one transform, then panel by panel sixteen products and their sum."""
    cdef int64_t count = min(TILES, (p.width + 1) // 2 - first), nr = u.nr, t, f, i, j, h, w
    cdef float *v = take(&free, 16 * TILES * p.c)
    cdef float *products = take(&free, 16 * TILES * nr)
    cdef float *discard = take(&free, nr)
    cdef const float *pixels[16]
    cdef float *outputs[4]
    for t in range(count):
        for i in range(4):
            for j in range(4):
                h, w = 2 * row + i - 1, 2 * (first + t) + j - 1
                pixels[4 * i + j] = p.x + (h * p.width + w) * p.c if 0 <= h < p.height and 0 <= w < p.width else p.zeros
        u.winograd_input(v + t * p.c, TILES * p.c, pixels, p.c)
    for j in range(p.oc // nr):
        for f in range(16):
            gemm(u, count, nr, p.c, v + f * TILES * p.c, p.c, p.w + (f * p.oc + j * nr) * p.c, NULL, NULL, 0,
                 products + f * TILES * nr, nr, ACT_NONE)
        for t in range(count):
            for i in range(4):
                h, w = 2 * row + (i >> 1), 2 * (first + t) + (i & 1)
                outputs[i] = p.y + (h * p.width + w) * p.oc + j * nr if h < p.height and w < p.width else discard
            u.winograd_output(outputs, products + t * nr, TILES * nr, nr)
