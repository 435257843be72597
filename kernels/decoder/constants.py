"""A model's constants of the updates of an image, which `mobilesam.network` computes."""

from __future__ import annotations

from dataclasses import dataclass

from mobilesam.kernels.core.check import F32


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
