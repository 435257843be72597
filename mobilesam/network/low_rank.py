"""Constants of the low-rank form of the image updates, computed once for each model.

An image update is the attention from image tokens to prompt tokens, with its norm. `docs/decoder.md` derives the
low-rank form. Each of the two image updates adds the result of an attention to the N image tokens x (N, C), and
normalizes the sum Z to y:

    first update:   Z₁ = x₁ + P₁·U₁             y₁ = Z₁/σ₁∘γ₁ + β₁    x₁ = c(x + b₁)
    second update:  Z₂ = x₂ + S·[U₁'; β'; U₂]   y₂ = Z₂/σ₂∘γ₂ + β₂    x₂ = c(x₁∘γ₁)    S = [P₁, σ₁, σ₁∘P₂]

The function c subtracts a row's mean from the row. P₁ and P₂ (N, 8·T) are the attention weights in 8 heads, a softmax
over the T tokens of a prompt. O₁ and O₂ (E, C) are the weights of the output projections, b₁ and b₂ their biases. Row
h·T + t of U₁ is the value of prompt token t in head h times the rows of c(O₁) that belong to head h. U₁' is computed
like U₁, with c(c(O₁)∘γ₁) instead of c(O₁). U₂ is computed like U₁, with c(O₂) instead of c(O₁). β' is c(β₁ + b₂).

The updated images y₁ and y₂ are never computed. The layers that read y₁ or y₂ (the *readers*) are linear in Z₁ or Z₂.
The result of a reader is therefore a sum: maps of the image, which are the same for every prompt, plus a small matrix
times P₁ or S. The standard deviation σ is computed from |x₁|² or |x₂|² and a quadratic function of P₁ or S.

The *output rows* are the constant rows from which U₁, U₁' and U₂ are computed: c(O₁) in the first image update, and
[c(c(O₁)∘γ₁); β'; c(O₂)] in the second. Their number is J = E = 128 in the first image update and J = 2·E + 1 = 257 in
the second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .. import kernels
from ..architecture import DECODER_DEPTH
from ..kernels import PANEL, PackedRows, Update
from .parameters import F32, Parameters

F64 = NDArray[np.float64]


class Affine(NamedTuple):
    """The float64 weight (N, K) and bias (N,) of a linear layer, or the weight (C,) and bias (C,) of a LayerNorm."""

    weight: F64
    bias: F64


@dataclass(frozen=True, slots=True, eq=False)
class LowRank:
    """The constants of the image's maps (channel-major projections), of both image updates, and of the upscaling.

    The image's maps are the result of the step `project` with the arguments rows, shift and scale. The maps of the
    positional encoding are pe_rows times the positional encoding, plus pe_bias.

    Attributes:
        shift: (C,), b₁, the bias of the first image update's output projection.
        scale: (C,), γ₁, the weight of the first image update's LayerNorm.
        rows: (M, C), the weight with one row for each map, in the order of the table in `docs/decoder.md`.
        pe_rows: (5·E, C), the weight with one row for each map of the positional encoding. The maps are for the first
            attention's keys, the first image update's queries, the second attention's keys, the second image update's
            queries and the last attention's keys. `project` adds the first 2·E maps of the positional encoding to the
            first 2·E maps of the image.
        pe_bias: (5·E,), added to the maps of the positional encoding. It is not 0 for queries only, because a constant
            in the keys does not change a softmax.
        before_at: two numbers of maps: where the keys start, and where the values start, of the attention before the
            image updates.
        before_bias: (E,), the bias of the value projection of the attention before the image updates, minus the
            projection of ``shift``, because the maps are computed from x + shift.
        first: the constants of the first image update.
        second: the constants of the second image update.
        last_at: the number of the first map that belongs to the first transposed convolution.
        last_shift: (OC,), added to the result of the first transposed convolution after the division by σ₂.
    """

    shift: F32
    scale: F32
    rows: PackedRows
    pe_rows: PackedRows
    pe_bias: F32
    before_at: tuple[int, int]
    before_bias: F32
    first: Update
    second: Update
    last_at: int
    last_shift: F32


def low_rank(
    outs: Sequence[Affine],
    norms: Sequence[Affine],
    queries: Sequence[Affine],
    keys: Sequence[Affine],
    values: Sequence[Affine],
    last: Affine,
    *,
    precision: str = "fp32",
    isa: str | None = None,
    threads: int | None = None,
) -> LowRank:
    """Compute the constants of the low-rank form from layers of the image's side.

    Args:
        outs: the output projections (C, E) of the two image updates.
        norms: the LayerNorms of the two image updates.
        queries: the query projections (E, C) of the two image updates.
        keys: the key projections (E, C) of three attentions to the image: before, between and after the image updates.
        values: the value projections (E, C) of the same three attentions as for ``keys``.
        last: the first transposed convolution of the upscaling, its (C, OC/4, 2, 2) weight as a matrix (OC, C).
        precision: precision of the product that computes the image's maps, "fp32" or "bf16".
        isa: name of the ISA, or None for the ISA in force.
        threads: number of threads, or None for the default.
    """
    (out1, out2), (norm1, norm2) = outs, norms
    (key0, *keys), (value0, *values) = keys, values
    products = partial(_products, isa=isa, threads=threads)
    out_rows1 = centred(out1.weight.T)
    beta = centred(norm1.bias + out2.bias)
    out_rows2 = np.concatenate([to_second(out1.weight.T, norm1.weight), beta[None], centred(out2.weight.T)])
    e = len(out_rows1)
    readers1 = [part.weight * norm1.weight for part in (keys[0], values[0], queries[1])]
    readers2 = [part.weight * norm2.weight for part in (keys[1], values[1])]
    last2 = last.weight * norm2.weight
    rows = [
        key0.weight, queries[0].weight, 2 * centred(out_rows1), *map(centred, readers1),
        *(to_second(part, norm1.weight) for part in (2 * out_rows2, *readers2, last2)),
        value0.weight,
    ]  # fmt: skip
    count = sum(map(len, rows))

    grams = [_one_sided(products(out, out), e) for out in (out_rows1, out_rows2)]
    of_out_rows = [(products(k, o), products(o, v)) for (k, v), o in ((readers1[:2], out_rows1), (readers2, out_rows2))]
    query_rows, last_basis = products(readers1[2], out_rows1), products(out_rows2, last2)

    def update(i: int, at: int, query_rows: F32 | None = None, last_basis: F32 | None = None) -> Update:
        key_rows, value_rows = map(_padded, of_out_rows[i])
        bias = _f32(_applied(values[i], norms[i].bias))
        return Update(
            at, count + i, e + 2 * e * i, _padded(grams[i]), query_rows, key_rows, value_rows, bias, last_basis
        )

    pe_rows = np.concatenate([part.weight for part in (key0, queries[0], keys[0], queries[1], keys[1])])
    query_biases, zeros = (_applied(queries[0], -out1.bias), _applied(queries[1], norm1.bias)), np.zeros(e)
    return LowRank(
        shift=_f32(out1.bias),
        scale=_f32(norm1.weight),
        rows=kernels.pack_rows(_f32(np.concatenate(rows)), precision=precision, isa=isa),
        pe_rows=kernels.pack_rows(_f32(pe_rows), isa=isa),
        pe_bias=_f32(np.concatenate([zeros, query_biases[0], zeros, query_biases[1], zeros])),
        before_at=(0, count - e),
        before_bias=_f32(_applied(value0, -out1.bias)),
        first=update(0, e),
        second=update(1, 5 * e, _padded(query_rows), _f32(last_basis)),
        last_at=count - e - len(last2),
        last_shift=_f32(_applied(last, norm2.bias)),
    )


def decoder_constants(p: Parameters, last: Affine, precision: str, isa: str, threads: int) -> LowRank:
    """Compute the constants of the low-rank form from the weights of a model.

    Args:
        p: the weights of the transformer.
        last: the first transposed convolution of the upscaling.
        precision: precision of the product that computes the image's maps, "fp32" or "bf16".
        isa: name of the ISA.
        threads: number of threads.
    """
    layers = [p / "layers" / i for i in range(DECODER_DEPTH)]
    updates = [layer / "cross_attn_image_to_token" for layer in layers]
    attentions = [*(layer / "cross_attn_token_to_image" for layer in layers), p / "final_attn_token_to_image"]

    def all_(modules: Sequence[Parameters], name: str) -> list[Affine]:
        return [Affine(np.float64(m.tensor(f"{name}.weight")), np.float64(m.tensor(f"{name}.bias"))) for m in modules]

    outs, norms, queries = all_(updates, "out_proj"), all_(layers, "norm4"), all_(updates, "q_proj")
    keys, values = all_(attentions, "k_proj"), all_(attentions, "v_proj")
    return low_rank(outs, norms, queries, keys, values, last, precision=precision, isa=isa, threads=threads)


def centred(x: F64) -> F64:
    """Return x with the mean of each row subtracted from the row."""
    return x - x.mean(axis=-1, keepdims=True)


def to_second(x: F64, gamma1: F64) -> F64:
    """Return c(c(x)∘γ₁), if c subtracts the mean of each row. The function maps the image tokens x + b₁ to x₂.

    The function also maps the weight of a linear layer on x₂ to the weight of the same layer on x + b₁, because
    c(c(x)∘γ₁) is the product of x with a symmetric matrix.
    """
    return centred(centred(x) * gamma1)


def _applied(layer: Affine, x: F64) -> F64:
    """Apply a linear layer to the vector x (K,)."""
    return (layer.weight * x).sum(axis=1) + layer.bias


def _products(x: F64, y: F64, *, isa: str | None, threads: int | None) -> F64:
    """Return x·yᵀ, computed in float32.

    NumPy's matrix product is not used, because the threads of NumPy's BLAS keep spinning after a product.
    """
    rows = kernels.pack(_f32(y), isa=isa, lasting=False, threads=threads)
    return kernels.linear(_f32(x), rows, threads=threads).astype(np.float64)


def _one_sided(gram: F64, e: int) -> F64:
    """Double the products of each row with rows of earlier blocks, and set the products with rows of later blocks to 0.

    ``gram`` has three blocks of rows: the first ``e`` rows, the next row, and the remaining rows. The quadratic form
    s·gram·sᵀ keeps its value. The kernel then needs only a block and earlier blocks to compute the block's part.
    """
    block = np.minimum(np.arange(len(gram)) // e, 1) + (np.arange(len(gram)) > e)
    return gram * (1.0 + np.sign(block[:, None] - block))


def _padded(rows: F64) -> F32:
    """Append columns of zeros up to a multiple of `PANEL`."""
    return _f32(np.pad(rows, [(0, 0), (0, -rows.shape[1] % PANEL)]))


def _f32(x: F64) -> F32:
    return np.ascontiguousarray(x, np.float32)
