"""The tokens' side of the two-way transformer, with the same modules as the reference.

Source: the reference's modeling/transformer.py, with its class and tensor names. The tokens of P prompts are an Array
(P, T, 256). The image's side has two forms, `PlainImage` and `LowRankImage`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..architecture import CROSS_ATTENTION_DIM, DECODER_DEPTH, DECODER_HEADS, EMBED_DIM
from ..kernels import Array, Plan
from .decoder_image import PlannedImage
from .parameters import Parameters, Vectors

# The scale 1/√d of queries, for d channels of a head, in the cross-attentions and in the self-attention.
CROSS_SCALE, SELF_SCALE = (float(np.float32((e // DECODER_HEADS) ** -0.5)) for e in (CROSS_ATTENTION_DIM, EMBED_DIM))


class TokenToImage:
    """``cross_attn_token_to_image`` or ``final_attn_token_to_image``, with the LayerNorm that follows."""

    def __init__(self, p: Parameters, norm: Vectors) -> None:
        self.q_proj, self.out_proj, self.norm = p.linear("q_proj"), p.linear("out_proj"), norm

    def __call__(self, plan: Plan, queries: Array, query_pe: Array, image: PlannedImage) -> Array:
        q = plan.linear(plan.add(queries, query_pe), *self.q_proj, scale=CROSS_SCALE)
        queries = plan.linear(image.attend(q), *self.out_proj, residual=queries)
        return plan.layer_norm(queries, *self.norm)


class TwoWayAttentionBlock:
    """Self-attention, attention to the image, an MLP, and the image update (attention from the image to the tokens).

    Each of the four parts has a shortcut and a LayerNorm.
    """

    def __init__(self, p: Parameters, *, skip_first_layer_pe: bool) -> None:
        self.skip_first_layer_pe = skip_first_layer_pe
        self.self_attn = {name: (p / "self_attn").linear(f"{name}_proj") for name in ("q", "k", "v", "out")}
        self.norm1 = p.norm("norm1")
        self.cross_attn_token_to_image = TokenToImage(p / "cross_attn_token_to_image", p.norm("norm2"))
        self.lin1, self.lin2 = p.linear("mlp.lin1"), p.linear("mlp.lin2")
        self.norm3 = p.norm("norm3")
        image_to_token = p / "cross_attn_image_to_token"
        self.k_proj, self.v_proj = image_to_token.linear("k_proj"), image_to_token.linear("v_proj")

    def __call__(self, plan: Plan, queries: Array, query_pe: Array, image: PlannedImage) -> Array:
        queries = self.attend_self(plan, queries, query_pe)
        queries = self.cross_attn_token_to_image(plan, queries, query_pe, image)
        hidden = plan.linear(queries, *self.lin1, activation="relu")
        queries = plan.layer_norm(plan.linear(hidden, *self.lin2, residual=queries), *self.norm3)
        keys = plan.linear(plan.add(queries, query_pe), *self.k_proj, scale=CROSS_SCALE)
        image.update(keys, plan.linear(queries, *self.v_proj))
        return queries

    def attend_self(self, plan: Plan, queries: Array, query_pe: Array) -> Array:
        """Record the self-attention of the tokens. In layer 0, it has no positional encoding and no shortcut."""
        with_pe = queries if self.skip_first_layer_pe else plan.add(queries, query_pe)
        q = plan.linear(with_pe, *self.self_attn["q"], scale=SELF_SCALE)
        k, v = plan.linear(with_pe, *self.self_attn["k"]), plan.linear(queries, *self.self_attn["v"])
        attended = plan.attention(q, k, v, heads=DECODER_HEADS)
        residual = None if self.skip_first_layer_pe else queries
        return plan.layer_norm(plan.linear(attended, *self.self_attn["out"], residual=residual), *self.norm1)


class TwoWayTransformer:
    """Two blocks, then a final attention from the tokens to the image."""

    def __init__(self, p: Parameters) -> None:
        self.layers = [TwoWayAttentionBlock(p / "layers" / i, skip_first_layer_pe=i == 0) for i in range(DECODER_DEPTH)]
        self.final_attn_token_to_image = TokenToImage(p / "final_attn_token_to_image", p.norm("norm_final_attn"))

    def __call__(self, plan: Plan, tokens: Array, image: PlannedImage, wanted: Sequence[int]) -> Array:
        """Record the transformer.

        Args:
            plan: the plan.
            tokens: Array (P, T, 256), T tokens of each of P prompts.
            image: the image's side of the plan.
            wanted: numbers of the tokens that later steps read. The final attention skips all unwanted tokens.

        Returns:
            Array (P, len(wanted), 256), the wanted tokens.
        """
        queries = tokens
        for layer in self.layers:
            queries = layer(plan, queries, tokens, image)
        queries, query_pe = plan.take(queries, wanted), plan.take(tokens, wanted)
        return self.final_attn_token_to_image(plan, queries, query_pe, image)
