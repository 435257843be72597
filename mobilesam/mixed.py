"""What the low-rank form is made of where a prompt's tokens are many: products with M, the channels that heads mix.

See `low_rank.py`. Of the first update's M the deviations of both updates want a quadratic form; as squares of the same
sums they cost one product. Made when a prompt first wants it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from . import kernels
from .kernels import MapRows
from .low_rank import F64, LowRank, Update
from .parameters import F32


@dataclass(frozen=True, slots=True, eq=False)
class MixedUpdate:
    """An update and what it asks of its M, (E,) of each image token.

    rows: of the first update's the attention's keys and values and the second's queries, (3·E, E); of the second's what
        its deviation wants, the last E rows of gram, (E, 2·E + 1).
    forms, form_weights, between: of the first alone, what both deviations want: see `_as_squares`, (E, E) and a row
        more, by which M meets what lies between the updates; (E, 2); and that one's own square.
    """

    update: Update
    rows: MapRows
    forms: MapRows | None = None
    form_weights: F32 | None = None
    between: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Mixed:
    """Both updates, and last_rows (OC, 2·E + 1): what is asked of the second result besides."""

    first: MixedUpdate
    second: MixedUpdate
    last_rows: MapRows


def mixed(constants: LowRank, isa: str | None = None) -> Mixed:
    """For the ISA of a name, by default the one in force."""
    first, second = constants.first, constants.second
    assert second.query_rows is not None, "constants of low_rank.low_rank"
    e = len(first.gram)
    gram1, gram2 = first.gram[:, :e], second.gram[:, : 2 * e + 1]

    def packed(*rows: F32 | F64) -> MapRows:
        return kernels.pack_rows(np.ascontiguousarray(np.concatenate(rows), np.float32), isa=isa)

    forms, weights = _as_squares(gram1.astype(np.float64), gram2[:e, :e].astype(np.float64))
    return Mixed(
        MixedUpdate(
            first,
            packed(first.key_rows[:, :e], first.value_rows[:e, :e].T, second.query_rows[:, :e]),
            packed(forms, gram2[e : e + 1, :e]),
            np.ascontiguousarray(weights.T, np.float32),
            float(gram2[e, e]),
        ),
        MixedUpdate(second, packed(gram2[e + 1 :])),
        packed(constants.last_basis.T),
    )


def _as_squares(gram1: F64, gram2: F64) -> tuple[F64, F64]:
    """Rows R (E, E) and weights (2, E) with x·gramᵢ·xᵀ = Σ weights[i]·(R·xᵀ)², of positive semidefinite grams.

    Of the sum gram₁ + t·gram₂ = V·Λ·Vᵀ, R = Qᵀ·Λ^½·Vᵀ for any orthogonal Q; the one that makes gram₁ = Rᵀ·D·R makes
    t·gram₂ = Rᵀ·(1 − D)·R. What errs in a square errs in proportion to it.
    """
    traces = np.trace(gram1), np.trace(gram2)
    t = traces[0] / traces[1] if min(traces) > 0 else 1.0
    values, vectors = np.linalg.eigh(gram1 + t * gram2)
    roots = np.sqrt(np.maximum(values, 0))
    inverse = np.divide(1, roots, out=np.zeros_like(roots), where=values > 1e-12 * values[-1])
    whitened = vectors * inverse
    weights, turn = np.linalg.eigh(whitened.T @ gram1 @ whitened)
    return (vectors * roots @ turn).T, np.stack([weights, (1 - weights) / t])
