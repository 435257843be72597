"""Constants of the low-rank image updates. `mobilesam.network.low_rank` computes the constants from a model."""

from __future__ import annotations

from dataclasses import dataclass

from mobilesam.kernels.core.check import F32


@dataclass(frozen=True, slots=True, eq=False)
class Update:
    """The constants of one image update, and of the attention from prompt tokens to the image after this update.

    An image update is the attention from image tokens to prompt tokens, with its norm. E = 128 is the number of
    channels of an attention. The matrix O (J, C) has the centred rows of the output projections, which
    `mobilesam.network.low_rank` calls output rows: J = E rows for the first image update, and J = 2·E + 1 rows for the
    second. OC is the number of outputs of the first transposed convolution for one image token, a multiple of `PANEL`.

    Attributes:
        at: The first channel of this image update in the channel-major projections of the image tokens (maps). The
            image update has E channels for its queries and J channels with the products 2·x·Oᵀ of the image tokens x.
            Then follow E channels for the keys and E channels for the values of the attention after the image update.
        squares: The channel of the maps that holds the squared length |x|² of each image token.
        pe_at: The first channel of this image update in the maps of the positional encoding: E channels for the queries
            of the image update, then E channels for the keys of the attention after the image update.
        gram: (J, J) float32, the products O·Oᵀ between rows of O. The product of a row with an earlier block of rows is
            doubled, and the product of a row with a later block is 0. For every row vector s, s·gram·sᵀ is s·O·Oᵀ·sᵀ.
        query_rows: (E, J of the first image update) float32, the weight of the second image update's query projection
            times Oᵀ of the first image update. None for the first image update.
        key_rows: (E, J) float32, the weight of the key projection after the image update, times Oᵀ.
        value_rows: (J, E) float32, O times the transposed weight of the value projection after the image update.
        value_bias: (E,) float32, added to the result of the attention after the image update.
        last_basis: (J, OC) float32, O times the transposed weight of the first transposed convolution. None for the
            first image update.

    The last axis of gram, query_rows, key_rows and value_rows is padded with zeros to whole GEMM panels.
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
