"""A model's constants of the updates of an image, which `mobilesam.network` computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from mobilesam.kernels.core.check import F32
from mobilesam.kernels.decoder.image_maps import MapRows


@dataclass(frozen=True, slots=True, eq=False)
class Update:
    """The constants of one update and of the attention to its result, E = 128 inner channels; float32.

    at: which rows of the image's maps are its own, in order E of its queries, J with twice the products of x₁ or x₂
        with the basis, E of the keys and E of the values of the attention.
    squares: which row holds |x|².
    pe_at: which rows of the positional encoding's maps are its own: E of its queries, E of the attention's keys.
    gram: (J, J), products of the basis: those of a block with the blocks before it twice, with those after it none.
    query_rows: (E, J of the update before), what the queries are of the basis; None for the first update.
    key_rows: (E, J), value_rows: (J, E) and value_bias: (E,): what the attention's keys and values are of it.
    last_basis: (J, OC), what is asked of y₂ at the end, of S's part; None for the first update.
    The basis' axes of gram, query_rows and key_rows, and E of value_rows, have zeros up to whole panels; value_rows has
        a row more; OC are whole panels.
    """

    at: int
    squares: int
    pe_at: int
    gram: F32
    query_rows: F32 | None
    key_rows: F32
    value_rows: F32
    value_bias: F32
    last_basis: F32 | None


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


class OnceAttention(NamedTuple):
    """Tokens' attention to the image: key_rows (E, C), whose bias falls out of the softmax, value_rows (C + 1, E), of
    which the last are zeros, and value_bias (E,)."""

    key_rows: F32
    value_rows: F32
    value_bias: F32


class OnceUpdate(NamedTuple):
    """The image's attention to the tokens: query_rows (E, C + 1 and zeros up to whole panels), the last the bias;
    out_rows (E, C) and its bias, shift (C,); the weight and bias (C,) of the norm that follows."""

    query_rows: F32
    out_rows: F32
    shift: F32
    norm_weight: F32
    norm_bias: F32
