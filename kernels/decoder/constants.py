"""Constants of the low-rank updates of an image. `mobilesam.network.low_rank` computes them from a model's weights."""

from __future__ import annotations

from dataclasses import dataclass

from mobilesam.kernels.core.check import F32


@dataclass(frozen=True, slots=True, eq=False)
class Update:
    """The constants of one update of the image, and of the attention that reads the updated image.

    E = 128 is the number of inner channels. J is the number of output rows, which `mobilesam.network.low_rank` defines:
    J = E for the first update and J = 2·E + 1 for the second. OC is the number of output channels of the first
    transposed convolution, a multiple of `PANEL`.

    Attributes:
        at: The first channel of this update among the image's maps. From there on the maps hold E channels for the
            update's queries, J channels of 2·x·(output rows)ᵀ, E channels for the keys and E for the values of the
            attention. x is x₁ for the first update and x₂ for the second.
        squares: The channel of |x|² among the image's maps.
        pe_at: The first channel of this update among the maps of the positional encoding: E channels for the update's
            queries, then E for the attention's keys.
        gram: (J, J) float32, products between output rows. A product of a row with an earlier block of rows is doubled,
            and a product with a later block is 0, so the quadratic form keeps its value.
        query_rows: (E, J of the first update) float32, the weight of the second update's queries times the output rows.
            None for the first update.
        key_rows: (E, J) float32, the weight of the attention's keys times the output rows.
        value_rows: (J, E) float32, the output rows times the weight of the attention's values.
        value_bias: (E,) float32, added to the attention's result.
        last_basis: (J, OC) float32, the output rows times the weight of the first transposed convolution. None for the
            first update.

    The last axis of gram, query_rows, key_rows and value_rows is padded with zeros to whole panels.
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
