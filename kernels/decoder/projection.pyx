"""Packed rows of weights, and a step of plans that projects image tokens to channel-major maps."""
from typing import NamedTuple

import numpy as np

from decoder.record cimport *

from mobilesam.kernels.core import check
from mobilesam.kernels.core import isa as isas
from mobilesam.kernels.decoder.recorder import Maps

import_runtime()


class PackedRows(NamedTuple):
    """A weight (M, K) that is the left factor of products. The right factor has one column for each image token.

    Attributes:
        rows: (M, K) float32, the weight in its original layout.
        packed: The bytes of the weight, packed as the left factor of a GEMM.
        isa: The index of the table of micro-kernels that ``packed`` is made for.
    """

    rows: np.ndarray
    packed: np.ndarray
    isa: int


def pack_rows(rows, *, precision="fp32", isa=None):
    """Pack a weight as the left factor of products with an image.

    Args:
        rows: (M, K) float32, the weight. The function keeps a copy of the weight.
        precision: The precision of the products, "fp32" or "bf16".
        isa: The name of an ISA, or None for the ISA in force.

    Returns:
        PackedRows.

    Raises:
        ValueError: ``precision`` is not "fp32" or "bf16", or ``rows`` does not have two axes.
    """
    if not isinstance(precision, str) or precision not in ("fp32", "bf16"):
        raise ValueError(f"precision: expected 'fp32' or 'bf16', got {check.shortened(precision)}")
    table = isas.index(isa, precision)
    rows = np.array(check.array(rows, "rows", ("M", "K")))
    cdef const float[:, ::1] rv = rows
    cdef int64_t size = operand_bytes(&rt.tables[<int>table], rv.shape[0], rv.shape[1])
    result = PackedRows(rows, np.empty(max(1, size), np.uint8), table)
    cdef map_rows r = as_map_rows(result)
    pack_map_rows(&r)
    return result


def checked_rows(packed, name):
    """Return ``packed`` if it is PackedRows that micro-kernels can read within bounds, whichever numbers its arrays have.

    Raises:
        TypeError: ``packed`` is not PackedRows, or its arrays have other dtypes.
        ValueError: This CPU lacks the ISA that ``packed`` is made for, or the arrays have other shapes.
    """
    check.record(packed, name, PackedRows)
    isas.check_table(packed.isa, name, "PackedRows", precisions=("fp32", "bf16"))
    check.in_place(packed.rows, f"{name}.rows", ("M", "K"))
    operand, (m, k) = packed.packed, packed.rows.shape
    if type(operand) is not np.ndarray or operand.dtype != np.uint8:
        raise TypeError(f"{name}.packed: expected a uint8 NumPy array, got {getattr(operand, 'dtype', type(operand).__name__)}")
    size = max(1, operand_bytes(&rt.tables[<int>packed.isa], m, k))
    if operand.shape != (size,) or not operand.flags.c_contiguous:
        raise ValueError(f"{name}.packed: expected a C-contiguous array ({size},), got {operand.shape}: pack the weight again")
    return packed


cdef struct project_job:
    const float *x  # (n, c)
    const float *shift  # (c), added to each image token, or NULL
    const float *scale  # (c), for the two channels of squared lengths, or NULL if these channels are not wanted
    const float *zeros
    map_rows rows  # (m, c)
    const float *added  # (chunks, added_rows, IMAGE_CHUNK), maps that are added to the first channels of y, or NULL
    float *y  # (chunks, maps, IMAGE_CHUNK), the result
    int64_t n, c, maps, added_channels, added_rows
    float *shifted  # (IMAGE_CHUNK, c), the image tokens of a chunk plus shift
    float *scaled  # (IMAGE_CHUNK, c), the normalized image tokens times scale
    float *panels


def project(plan, x, rows, added=None, *, shift=None, scale=None):
    """y = rows·(x + shift)ᵀ + added: a linear layer with a channel-major result.

    Args:
        plan: The Recorder that records the step.
        x: Array (1, N, C), the tokens of an image.
        rows: PackedRows (M, C), the weight of the linear layer.
        added: Maps with at most M channels, which are added to the first channels of y, or None.
        shift: (C,) float32, or None for zeros.
        scale: (C,) float32, or None. With a scale, y gets two more channels, |x₁|² and |x₂|², where x₁ = c(x + shift),
            x₂ = c(x₁∘scale), and c(·) subtracts a token's mean.

    Returns:
        Maps with M channels, or with M + 2 channels if ``scale`` is given.
    """
    cdef project_job p
    memset(&p, 0, sizeof(p))
    p.rows = as_map_rows(checked_rows(rows, "rows"))
    plan.check(x, "x", (1, "N", p.rows.k))
    p.n, p.c = x.shape[1:]
    zeros = np.zeros(p.c, np.float32)
    shift, scale = check.optional(shift, "shift", (p.c,)), check.optional(scale, "scale", (p.c,))
    cdef const float[::1] shift_ = shift, scale_ = scale, zeros_ = zeros
    p.shift, p.scale, p.zeros = floats(shift_), floats(scale_), &zeros_[0]
    p.maps = p.rows.m if scale is None else p.rows.m + 2
    y = plan.array(chunks_of(p.n), p.maps, IMAGE_CHUNK)
    p.x, p.y = address(x), address(y)
    if added is not None:
        plan.check_maps(added, "added", None, p.n)
        if added.channels > p.rows.m:
            raise ValueError(f"added: expected at most {p.rows.m} channels, got {added.channels}")
        p.added_channels, p.added_rows = added.channels, added.array.shape[1]
        p.added = channel(added)
    plan.keep(rows, shift, scale, zeros)
    record(plan, project_chunk, project_layout, &p, sizeof(p), chunks_of(p.n), [y])
    return Maps(y, p.n, 0, p.maps)


cdef void project_layout(void *job, arena *scratch) noexcept nogil:
    cdef project_job *p = <project_job *>job
    p.shifted = take_floats(scratch, IMAGE_CHUNK * p.c)
    p.scaled = take_floats(scratch, IMAGE_CHUNK * p.c)
    p.panels = take_floats(scratch, IMAGE_CHUNK // p.rows.u.weight.columns * panel_words(p.rows.u, p.c, False))


cdef void project_chunk(void *job, int64_t chunk) noexcept nogil:
    """Project the image tokens of a chunk. The image tokens are packed as the columns of the right factor of a GEMM."""
    cdef const project_job *p = <const project_job *>job
    cdef const micro *u = p.rows.u
    cdef int64_t first = chunk * IMAGE_CHUNK, count = min(IMAGE_CHUNK, p.n - first), c = p.c, i, nr = u.weight.columns
    cdef int64_t panel = panel_words(u, c, False)
    cdef const float *x = p.x + first * c
    cdef float *y = p.y + chunk * p.maps * IMAGE_CHUNK
    cdef float *squares = y + p.rows.m * IMAGE_CHUNK
    cdef float eps = 1e-5
    cdef norm_args norm
    cdef gemm_args g
    if p.shift != NULL or count < IMAGE_CHUNK:
        for i in range(count):
            u.add(p.shifted + i * c, x + i * c, p.zeros if p.shift == NULL else p.shift, c)
        memset(p.shifted + count * c, 0, (IMAGE_CHUNK - count) * c * sizeof(float))
        x = p.shifted
    for i in range(IMAGE_CHUNK // nr):
        u.pack(p.panels + i * panel, x + i * nr * c, 0, nr, c, c)
    g = of_maps(&p.rows, p.panels, IMAGE_CHUNK)
    g.y, g.ldy = y, IMAGE_CHUNK
    map_product(&p.rows, &g)
    if p.added != NULL:
        u.add(y, y, p.added + chunk * p.added_rows * IMAGE_CHUNK, p.added_channels * IMAGE_CHUNK)
    if p.scale != NULL:
        u.sum_sq_deviation(squares, x, c, IMAGE_CHUNK, c)
        norm.m, norm.n, norm.x, norm.ldx, norm.y, norm.ldy = IMAGE_CHUNK, c, x, c, p.scaled, c
        norm.weight, norm.bias, norm.eps, norm.act = p.scale, p.zeros, eps, ACT_NONE
        u.layer_norm(&norm)
        u.sum_sq_deviation(squares + IMAGE_CHUNK, p.scaled, c, IMAGE_CHUNK, c)
        for i in range(IMAGE_CHUNK):
            squares[IMAGE_CHUNK + i] *= squares[i] / c + eps
