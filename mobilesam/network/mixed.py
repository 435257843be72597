"""What the low-rank form is made of where a prompt's tokens are many: products with M, the channels that heads mix.

See `low_rank.py`. Of the first update's M the deviations of both updates want a quadratic form; as squares of the same
sums they cost one product. Made when a prompt first wants it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .. import kernels
from ..kernels import MapRows, MixedUpdate
from .low_rank import F64, LowRank, centred, to_second
from .parameters import F32


@dataclass(frozen=True, slots=True, eq=False)
class Mixed:
    """Both updates, and last_rows (OC, 2·E + 1): what is asked of the second result besides."""

    first: MixedUpdate
    second: MixedUpdate
    last_rows: MapRows


def mixed(constants: LowRank, isa: str | None = None) -> Mixed:
    """For the ISA of a name, by default the one in force."""
    first, second = constants.first, constants.second
    assert second.query_rows is not None and second.last_basis is not None, "constants of low_rank.low_rank"
    e = len(first.gram)
    gram = second.gram[:, : 2 * e + 1]
    out = constants.first_out.astype(np.float64).T
    forms, weights = _as_squares(centred(out), to_second(out, constants.scale.astype(np.float64)))

    def packed(*rows: F32 | F64) -> MapRows:
        return kernels.pack_rows(np.ascontiguousarray(np.concatenate(rows), np.float32), isa=isa)

    return Mixed(
        MixedUpdate(
            first,
            packed(first.key_rows[:, :e], first.value_rows[:e, :e].T, second.query_rows[:, :e]),
            packed(forms, gram[e : e + 1, :e]),
            np.ascontiguousarray(weights.T, np.float32),
            float(gram[e, e]),
        ),
        MixedUpdate(second, packed(gram[e + 1 :])),
        packed(second.last_basis.T),
    )


def _as_squares(basis1: F64, basis2: F64) -> tuple[F64, F64]:
    """Rows R (E, E) and weights (2, E) with |x·basisᵢ|² = Σ weights[i]·(R·xᵀ)², of two bases (E, C).

    [basis₁, √t·basis₂]ᵀ = Q·T by Householder, and the halves of Q make of T·xᵀ the two forms: Q₁ᵀQ₁ = V·D·Vᵀ and
    Q₂ᵀQ₂ = V·(1 − D)·Vᵀ, so that R = Vᵀ·T. D lies in [0, 1]: no sum cancels, and what errs in a square errs in
    proportion to it. (By way of the bases' grams D would be noise where those are nearly singular.) LAPACK's threads
    spin on for a while after this, once a model.
    """
    sizes = np.square(basis1).sum(), np.square(basis2).sum()
    t = sizes[0] / sizes[1] if min(sizes) > 0 else 1.0
    q, triangle = np.linalg.qr(np.concatenate([basis1, np.sqrt(t) * basis2], axis=1).T)
    upper = q[: basis1.shape[1]]
    weights, turn = np.linalg.eigh(upper.T @ upper)
    weights = weights.clip(0, 1)
    return turn.T @ triangle, np.stack([weights, (1 - weights) / t])
