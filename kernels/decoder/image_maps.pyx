"""What is asked of an image's tokens by every prompt, once: see ``mobilesam/network/low_rank.py``."""

from typing import NamedTuple

import numpy as np

from cython.parallel cimport parallel, prange
from libc.string cimport memcpy, memset

from core.common cimport *

from mobilesam.kernels.core import check, memory
from mobilesam.kernels.core import isa as isas
from mobilesam.kernels.core.threads import resolve

cdef const runtime *rt = shared_runtime()

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
    cdef uint8_t[::1] operand = packed.operand
    cdef map_rows r = as_map_rows(rt, packed)
    r.a = &rv[0, 0]
    make_operand(&r, &operand[0])
    return packed


cdef struct turning:
    const micro *u
    const float *x  # (n, c)
    const float *added  # (n, c) or (c), NULL for none
    float *y  # (chunks, c, IMAGE_CHUNK)
    int64_t n, c, step  # step: from a token to the next, in added


def turn_image(x, added=None, *, isa=None, queue=None, threads=None):
    """ImageMaps (C, N) of an image's tokens x (N, C) float32, plus ``added``, (N, C) or (C,).

    queue: a Queue to leave the work to.
    """
    cdef int nthreads = resolve(threads)
    table, later = isas.index(isa), queue is not None
    x = check.array(x, "x", ("N", "C"), later=later)
    added = check.optional(added, "added", x.shape, x.shape[1:], later=later)
    cdef const float[:, ::1] xv = x
    cdef const float[::1] av = None if added is None else added.reshape(-1)
    cdef int64_t n = xv.shape[0], c = xv.shape[1], chunks = (n + IMAGE_CHUNK - 1) // IMAGE_CHUNK
    y = memory.empty((chunks, c, IMAGE_CHUNK))
    cdef float[:, :, ::1] yv = y
    storage = np.zeros(sizeof(turning), np.uint8)
    cdef uint8_t[::1] bytes = storage
    cdef turning *p = <turning *>&bytes[0]
    p.u, p.x, p.added, p.y, p.n, p.c = &rt.tables[<int>table], &xv[0, 0], floats(av), &yv[0, 0, 0], n, c
    p.step = 0 if added is None or added.ndim == 1 else c
    do_work("turn_image", turn, storage, (x, added, y), queue, nthreads)
    return ImageMaps(y, n)


cdef size_t turn(void *storage, int nthreads) noexcept nogil:
    cdef const turning *p = <const turning *>storage
    cdef int64_t chunks = (p.n + IMAGE_CHUNK - 1) // IMAGE_CHUNK, unit
    cdef size_t size = sizeof(float) * IMAGE_CHUNK * p.c
    cdef float *scratch
    cdef int failed = 0
    with parallel(num_threads=nthreads):
        scratch = <float *>rt.scratch(size)
        for unit in prange(chunks, schedule="static"):
            if scratch == NULL:
                failed += 1
            else:
                turn_chunk(p, unit, scratch)
    return size if failed else 0


cdef void turn_chunk(const turning *p, int64_t chunk, float *sums) noexcept nogil:
    cdef int64_t first = chunk * IMAGE_CHUNK, count = min(IMAGE_CHUNK, p.n - first), c = p.c, i
    for i in range(count):
        if p.added == NULL:
            memcpy(sums + i * c, p.x + (first + i) * c, c * sizeof(float))
        else:
            p.u.add(sums + i * c, p.x + (first + i) * c, p.added + (first + i) * p.step, c)
    memset(sums + count * c, 0, (IMAGE_CHUNK - count) * c * sizeof(float))
    p.u.transpose(p.y + chunk * c * IMAGE_CHUNK, IMAGE_CHUNK, sums, c, IMAGE_CHUNK, c)


def check_maps(maps, pe, count, pe_count, images):
    """Raise unless an update finds so many maps of one image and of its positional encoding, and the images are of it."""
    check.instance(maps, "maps", ImageMaps)
    check.instance(pe, "pe", ImageMaps)
    if maps.n != pe.n or maps.data.shape[1] < count or pe.data.shape[1] < pe_count:
        raise ValueError(f"maps: expected {count} of one image and {pe_count} of its pe, got {maps.data.shape[1]} and "
                         f"{pe.data.shape[1]} of {maps.n} and {pe.n} tokens")
    for image in images:
        if image.n != maps.n:
            raise ValueError(f"before: expected an image of {maps.n} tokens, got {image.n}")


cdef struct projection:
    const float *x  # (n, c)
    const float *shift
    const float *scale  # NULL: no squares are asked for
    const float *zeros
    map_rows rows  # (m, c)
    const float *added  # (chunks, added_rows, IMAGE_CHUNK), NULL for none
    float *y  # (chunks, maps, IMAGE_CHUNK)
    int64_t n, c, m, maps, first, added_rows


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
    cdef projection p
    cdef int nthreads = resolve(threads)
    x = check.array(x, "x", ("N", "C"))
    p.n, p.c = x.shape
    zeros_ = np.zeros(p.c, np.float32)
    cdef const float[::1] shift_ = zeros_ if shift is None else check.array(shift, "shift", (p.c,))
    cdef const float[::1] scale_ = check.optional(scale, "scale", (p.c,)), zeros = zeros_
    if not isinstance(rows, MapRows):
        rows = pack_rows(rows, precision=precision, isa=isa)
    check.array(rows.rows, "rows", ("M", p.c))
    p.rows = as_map_rows(rt, rows)
    p.m = p.rows.m
    cdef int64_t chunks = (p.n + IMAGE_CHUNK - 1) // IMAGE_CHUNK, unit
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
    cdef const micro *u = p.rows.u
    cdef size_t size = sizeof(float) * (2 * IMAGE_CHUNK * p.c + IMAGE_CHUNK // u.weight.columns * panel_words(u, p.c, False) + 64)
    cdef float *scratch
    cdef int failed = 0
    with nogil, parallel(num_threads=nthreads):
        scratch = <float *>rt.scratch(size)
        for unit in prange(chunks, schedule="dynamic"):
            if scratch == NULL:
                failed += 1
            else:
                project_chunk(&p, unit, scratch)
    if failed:
        raise MemoryError(f"project_image: no memory for {size} bytes of scratch")
    return ImageMaps(y, p.n)


cdef void project_chunk(const projection *p, int64_t chunk, float *free) noexcept nogil:
    """A chunk's tokens are packed as a weight would be, so that they become the product's columns."""
    cdef const micro *u = p.rows.u
    cdef int64_t first = chunk * IMAGE_CHUNK, count = min(IMAGE_CHUNK, p.n - first), c = p.c, i, nr = u.weight.columns
    cdef int64_t panel = panel_words(u, c, False)
    cdef float *x = take(&free, IMAGE_CHUNK * c)
    cdef float *scaled = take(&free, IMAGE_CHUNK * c)
    cdef float *panels = take(&free, IMAGE_CHUNK // nr * panel)
    cdef float *y = p.y + chunk * p.maps * IMAGE_CHUNK
    cdef float *squares = y + p.m * IMAGE_CHUNK
    cdef const float *added
    cdef float eps = 1e-5
    for i in range(count):
        u.add(x + i * c, p.x + (first + i) * c, p.shift, c)
    memset(x + count * c, 0, (IMAGE_CHUNK - count) * c * sizeof(float))
    for i in range(IMAGE_CHUNK // nr):
        u.pack(panels + i * panel, x + i * nr * c, 0, nr, c, c)
    if p.scale != NULL:
        u.spread(squares, x, c, IMAGE_CHUNK, c)
        u.layer_norm(scaled, c, x, c, IMAGE_CHUNK, c, p.scale, p.zeros, eps, ACT_NONE)
        u.spread(squares + IMAGE_CHUNK, scaled, c, IMAGE_CHUNK, c)
        for i in range(IMAGE_CHUNK):
            squares[IMAGE_CHUNK + i] *= squares[i] / c + eps
    map_product(&p.rows, panels, IMAGE_CHUNK, NULL, 0, y, IMAGE_CHUNK)
    if p.added != NULL:
        added = p.added + chunk * p.added_rows * IMAGE_CHUNK
        u.add(y, y, added, p.first * IMAGE_CHUNK)
