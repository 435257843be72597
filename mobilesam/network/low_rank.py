"""What the mask decoder's updates of the image's tokens come to in low rank: constants of a model, made once.

A prompt of T tokens updates the N image tokens by attention: z = x + P·U + b, with P (N, 8·T) the softmax over the
tokens of each head and U[h·T + t] = v[t, h]·O[h], head h's value of token t through its rows of the output
projection O (128, 256); then y = (z − mean)/σ∘γ + β. Two of these, where C takes a row's mean from it, make of x

    Z₁ = x₁ + P₁·U₁             y₁ = Z₁/σ₁∘γ₁ + β₁    x₁ = (x + b₁)C    U₁ of O₁C
    Z₂ = x₂ + S·[U₁'; β'; U₂]   y₂ = Z₂/σ₂∘γ₂ + β₂    x₂ = (x₁∘γ₁)C     U₁' of O₁Cγ₁C, β' = (β₁ + b₂)C, U₂ of O₂C

with S = [P₁, σ₁, σ₁P₂], and σ₂ the deviation of Z₂ with eps·σ₁² for eps: a common factor of a row passes through a
norm. So y₁ and y₂ are never made. What is asked of them is linear in Z: a map of x₁ or x₂, the same for every prompt,
and a small matrix times S; |Z|², which σ wants, is |x₁|² or |x₂|² and a quadratic form in S, exact but for rounding;
its terms err in proportion to themselves, and so σ by as much more than they do as they are larger than their sum.

A "basis" is the rows of O₁C, or those of O₁Cγ₁C, β' and O₂C: J = 128 or 257 of 256 channels.
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
    """weight and bias in float64: (N, K) and (N,) of a linear layer, (C,) both of a norm."""

    weight: F64
    bias: F64


@dataclass(frozen=True, slots=True, eq=False)
class LowRank:
    """The two updates, what the image's maps are made with, and the first product that follows.

    The maps are rows·(x + shift)ᵀ, |x₁|² and |x₂|² of `kernels.project_image`; `scale` is γ₁.
    pe_rows: (5·E, C), whose products with the positional encoding, and pe_bias (5·E,), are what it adds to the keys
        before the updates, to the first update's queries and the keys after it, and to the second's; the first 2·E are
        added to the image's first maps.
    before_at: which maps are the first of E keys and E values of the attention before the updates; before_bias: (E,),
        of those values.
    last_at: which rows of the image's maps are what is asked of y₂ at the end, as far as it is x's own part of Z₂;
    last_shift: (OC,), which is added after the division by σ₂.
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
    """The constants of two updates.

    outs: the updates' output projections (C, E), norms the norms that follow, queries (E, C) their image's queries.
    keys, values: (E, C) of the attention before them and of that to the result of each.
    last: (OC, C), what is asked of the second result besides.
    precision: of the product that makes the image's maps.
    isa, threads: what they are computed on; by default what is in force.
    """
    (out1, out2), (norm1, norm2) = outs, norms
    (key0, *keys), (value0, *values) = keys, values
    products = partial(_products, isa=isa, threads=threads)
    basis1 = centred(out1.weight.T)
    between = centred(norm1.bias + out2.bias)
    basis2 = np.concatenate([to_second(out1.weight.T, norm1.weight), between[None], centred(out2.weight.T)])
    e = len(basis1)
    asked1 = [part.weight * norm1.weight for part in (keys[0], values[0], queries[1])]
    asked2 = [part.weight * norm2.weight for part in (keys[1], values[1])]
    last2 = last.weight * norm2.weight
    rows = [
        key0.weight, queries[0].weight, 2 * centred(basis1), *map(centred, asked1),
        *(to_second(part, norm1.weight) for part in (2 * basis2, *asked2, last2)),
        value0.weight,
    ]  # fmt: skip
    count = sum(map(len, rows))

    grams = [_one_sided(products(basis, basis), e) for basis in (basis1, basis2)]
    of_basis = [(products(k, basis), products(basis, v)) for (k, v), basis in ((asked1[:2], basis1), (asked2, basis2))]
    query_rows, last_basis = products(asked1[2], basis1), products(basis2, last2)

    def update(i: int, at: int, query_rows: F32 | None = None, last_basis: F32 | None = None) -> Update:
        key_rows, value_rows = map(_padded, of_basis[i])
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
    """The constants of the transformer's updates of the image.

    p: the weights of the transformer. last: the layer that follows it, the first convolution of the upscaling.
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
    """x·C: rows without their mean."""
    return x - x.mean(axis=-1, keepdims=True)


def to_second(x: F64, gamma1: F64) -> F64:
    """x·Cγ₁C, by which a token comes to x₂; as that is symmetric, it also makes of rows that ask x₂ rows that ask x."""
    return centred(centred(x) * gamma1)


def _applied(layer: Affine, x: F64) -> F64:
    """The layer's answer to x (K,)."""
    return (layer.weight * x).sum(axis=1) + layer.bias


def _products(x: F64, y: F64, *, isa: str | None, threads: int | None) -> F64:
    """x·yᵀ, of rows, in float32, which errs as the products it saves do. NumPy's threads would spin on after one."""
    rows = kernels.pack(_f32(y), isa=isa, lasting=False, threads=threads)
    return kernels.linear(_f32(x), rows, threads=threads).astype(np.float64)


def _one_sided(gram: F64, e: int) -> F64:
    """S·gram·Sᵀ with each block of S seen from itself, and from those after it twice."""
    block = np.minimum(np.arange(len(gram)) // e, 1) + (np.arange(len(gram)) > e)
    return gram * (1.0 + np.sign(block[:, None] - block))


def _padded(rows: F64) -> F32:
    """With columns of zeros up to whole panels."""
    return _f32(np.pad(rows, [(0, 0), (0, -rows.shape[1] % PANEL)]))


def _f32(x: F64) -> F32:
    return np.ascontiguousarray(x, np.float32)
