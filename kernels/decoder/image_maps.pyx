"""What is asked of an image's tokens by every prompt, once: see ``mobilesam/network/low_rank.py``."""

from typing import NamedTuple

import numpy as np

from core.common cimport *
from core.launch cimport *

from mobilesam.kernels.core import check, memory
from mobilesam.kernels.core import isa as isas
from mobilesam.kernels.core.threads import resolve

import_runtime()

class ImageMaps(NamedTuple):
    """Maps (M, N) of an image of n tokens in chunks (⌈N / 256⌉, M, 256), zeros beyond: what :func:`project_image` makes."""

    data: np.ndarray
    n: int


class MapRows(NamedTuple):
    """A matrix (M, K) of products whose columns are pixels: ``rows``, as the micro-kernels of index ``isa`` take them."""

    rows: np.ndarray
    operand: np.ndarray
    isa: int


def pack_rows(rows, *, precision="fp32", isa=None):
    """MapRows of (M, K) float32, a copy, for "fp32" or "bf16" and the ISA of a name, by default the one in force."""
    if precision not in ("fp32", "bf16"):
        raise ValueError(f"precision: expected 'fp32' or 'bf16', got {precision!r}")
    table = isas.index(isa, precision)
    rows = np.array(check.array(rows, "rows", ("M", "K")))
    cdef const float[:, ::1] rv = rows
    cdef int64_t size = operand_bytes(&rt.tables[<int>table], rv.shape[0], rv.shape[1])
    packed = MapRows(rows, np.empty(max(1, size), np.uint8), table)
    cdef map_rows r = as_map_rows(packed)
    pack_map_rows(&r)
    return packed


cdef struct project_job:
    const float *x  # (n, c)
    const float *shift
    const float *scale  # NULL: no squares are asked for
    const float *zeros
    map_rows rows  # (m, c)
    const float *added  # (chunks, added_rows, IMAGE_CHUNK), NULL for none
    float *y  # (chunks, maps, IMAGE_CHUNK)
    int64_t n, c, m, maps, first, added_rows
    float *shifted  # (IMAGE_CHUNK, c)
    float *scaled  # (IMAGE_CHUNK, c)
    float *panels


def project_image(x, shift, scale, rows, added=None, *, precision="fp32", isa=None, threads=None):
    """Maps rows·(x + shift)ᵀ, |x₁|² and |x₂|² of x₁ = (x + shift)C and x₂ = (x₁∘scale)C, C centring.

    Args:
        x: (N, C) float32; shift: (C,) or None for zeros; scale: (C,), or None for no |x₁|² and |x₂|².
        rows: (M, C) float32, or MapRows of them, which have a precision and an ISA.
        added: ImageMaps and a number: how many of its first maps to add to the first of these.
        precision: "fp32" or "bf16": of the product with rows that are no MapRows.
        isa: the name of the ISA to run on where they are none; by default the one in force.

    Returns:
        ImageMaps of M + 2 maps, or M.
    """
    cdef project_job p
    cdef int nthreads = resolve(threads)
    x = check.array(x, "x", ("N", "C"))
    p.n, p.c = x.shape
    zeros_ = np.zeros(p.c, np.float32)
    cdef const float[::1] shift_ = zeros_ if shift is None else check.array(shift, "shift", (p.c,))
    cdef const float[::1] scale_ = check.optional(scale, "scale", (p.c,)), zeros = zeros_
    if not isinstance(rows, MapRows):
        rows = pack_rows(rows, precision=precision, isa=isa)
    check.array(rows.rows, "rows", ("M", p.c))
    p.rows = as_map_rows(rows)
    p.m = p.rows.m
    cdef int64_t chunks = (p.n + IMAGE_CHUNK - 1) // IMAGE_CHUNK
    cdef const float[:, ::1] xv = x
    cdef const float[:, :, ::1] av
    p.added, p.first, p.added_rows = NULL, 0, 0
    if added is not None:
        maps, p.first = added
        if maps.n != p.n or not 0 < p.first <= min(p.m, maps.data.shape[1]):
            raise ValueError(f"added: expected at most {p.m} maps of {p.n} tokens, got {p.first} of {maps.n}")
        av = maps.data
        p.added, p.added_rows = &av[0, 0, 0], av.shape[1]
    p.maps = p.m if scale is None else p.m + 2
    y = memory.empty((chunks, p.maps, IMAGE_CHUNK))
    cdef float[:, :, ::1] yv = y
    p.x, p.shift, p.scale, p.zeros, p.y = &xv[0, 0], &shift_[0], floats(scale_), &zeros[0], &yv[0, 0, 0]
    launch("project_image", project_chunk, &p, sizeof(p), chunks, project_layout, nthreads)
    return ImageMaps(y, p.n)


cdef void project_layout(void *job, arena *scratch) noexcept nogil:
    cdef project_job *p = <project_job *>job
    p.shifted = take_floats(scratch, IMAGE_CHUNK * p.c)
    p.scaled = take_floats(scratch, IMAGE_CHUNK * p.c)
    p.panels = take_floats(scratch, IMAGE_CHUNK // p.rows.u.weight.columns * panel_words(p.rows.u, p.c, False))


cdef void project_chunk(void *job, int64_t chunk) noexcept nogil:
    """A chunk's tokens are packed as a weight would be, so that they become the product's columns."""
    cdef const project_job *p = <const project_job *>job
    cdef const micro *u = p.rows.u
    cdef int64_t first = chunk * IMAGE_CHUNK, count = min(IMAGE_CHUNK, p.n - first), c = p.c, i, nr = u.weight.columns
    cdef int64_t panel = panel_words(u, c, False)
    cdef float *x = p.shifted
    cdef float *scaled = p.scaled
    cdef float *panels = p.panels
    cdef float *y = p.y + chunk * p.maps * IMAGE_CHUNK
    cdef float *squares = y + p.m * IMAGE_CHUNK
    cdef const float *added
    cdef float eps = 1e-5
    cdef norm_args norm
    cdef gemm_args g
    for i in range(count):
        u.add(x + i * c, p.x + (first + i) * c, p.shift, c)
    memset(x + count * c, 0, (IMAGE_CHUNK - count) * c * sizeof(float))
    for i in range(IMAGE_CHUNK // nr):
        u.pack(panels + i * panel, x + i * nr * c, 0, nr, c, c)
    if p.scale != NULL:
        u.spread(squares, x, c, IMAGE_CHUNK, c)
        norm.m, norm.n, norm.x, norm.ldx, norm.y, norm.ldy = IMAGE_CHUNK, c, x, c, scaled, c
        norm.weight, norm.bias, norm.eps, norm.act = p.scale, p.zeros, eps, ACT_NONE
        u.layer_norm(&norm)
        u.spread(squares + IMAGE_CHUNK, scaled, c, IMAGE_CHUNK, c)
        for i in range(IMAGE_CHUNK):
            squares[IMAGE_CHUNK + i] *= squares[i] / c + eps
    g = of_maps(&p.rows, panels, IMAGE_CHUNK)
    g.y, g.ldy = y, IMAGE_CHUNK
    map_product(&p.rows, &g)
    if p.added != NULL:
        added = p.added + chunk * p.added_rows * IMAGE_CHUNK
        u.add(y, y, added, p.first * IMAGE_CHUNK)
