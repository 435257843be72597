"""The two-way transformer between prompt tokens and the image, which `updates.py` has the forms of.

Source: the reference's modeling/transformer.py; names are theirs. Prompt tokens are (P, T, 256) of P prompts; float32.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .. import kernels
from ..architecture import CROSS_ATTENTION_DIM, DECODER_DEPTH, DECODER_HEADS, EMBED_DIM, LAYER_NORM_EPS
from ..kernels import Queue, steps
from .once import Once
from .parameters import F32, Layer, Parameters, Vectors
from .updates import Updated, Updates

HEAD_SCALE = float(np.float32((CROSS_ATTENTION_DIM // DECODER_HEADS) ** -0.5))

Phases = list[list[steps.Step]]


class TokenToImage:
    """Tokens attending to the image: what they ask, and what heads mixed, projected back."""

    def __init__(self, p: Parameters, norm: Vectors) -> None:
        self.q_proj, self.out_proj, self.norm = p.linear("q_proj"), p.linear("out_proj"), norm

    def ask(self, tokens: str) -> Phases:
        """``asked``, the queries (P, T, 128), scaled, of tokens with their positional encoding."""
        return [[linear("asked", tokens, self.q_proj, scale=HEAD_SCALE)]]

    def answer(self, y: str, queries: str) -> Phases:
        """y: ``attended`` (P, T, 128), projected and added to the ``queries``, and the norm."""
        return [
            [linear("seen", "attended", self.out_proj, residual=queries)],
            [normed(y, "seen", self.norm)],
        ]


class TwoWayAttentionBlock:
    """Self-attention of the tokens, tokens to image, MLP, image to tokens; each with shortcut and LayerNorm."""

    def __init__(self, p: Parameters, *, skip_first_layer_pe: bool) -> None:
        self.skip_first_layer_pe = skip_first_layer_pe
        self.self_attn = {name: (p / "self_attn").linear(f"{name}_proj") for name in ("q", "k", "v", "out")}
        self.cross_attn_token_to_image = TokenToImage(p / "cross_attn_token_to_image", p.norm("norm2"))
        image_to_token = p / "cross_attn_image_to_token"
        self.k_proj, self.v_proj = image_to_token.linear("k_proj"), image_to_token.linear("v_proj")
        self.lin1, self.lin2 = p.linear("mlp.lin1"), p.linear("mlp.lin2")
        self.norm1, self.norm3 = p.norm("norm1"), p.norm("norm3")

    def attend_self(self, x: str, moved: str) -> Phases:
        """``asking_tokens``, and with their positional encoding, ``tokens``, ``asking``; of x, ``moved`` by it."""
        asks = x if self.skip_first_layer_pe else moved
        own = self.self_attn
        return [
            [linear("q", asks, own["q"]), linear("k", asks, own["k"]), linear("v", x, own["v"])],
            [steps.Attention("mixed", "q", "k", "v", DECODER_HEADS)],
            [linear("out", "mixed", own["out"], residual=None if self.skip_first_layer_pe else x)],
            [normed("asking_tokens", "out", self.norm1, moved="asking", by="tokens")],
        ]

    def digest(self) -> Phases:
        """What the tokens saw of the image, added, then their MLP: ``x``, and that ``moved`` by their own encoding."""
        return [
            *self.cross_attn_token_to_image.answer("informed", "queries"),
            [linear("hidden", "informed", self.lin1, activation="relu")],
            [linear("fed", "hidden", self.lin2, residual="informed")],
            [normed("x", "fed", self.norm3, moved="moved", by="tokens")],
        ]

    def keys_values(self) -> list[steps.Step]:
        """What the image attends to: the tokens' ``keys``, scaled, and ``values`` (P, T, 128)."""
        return [linear("keys", "moved", self.k_proj, scale=HEAD_SCALE), linear("values", "x", self.v_proj)]


class TwoWayTransformer:
    """Two blocks, then a last attention from the tokens to the image.

    An image's update by one block and the attention of the next one's tokens to the result are one pass over the image:
    those tokens' queries do not depend on it. Between two such passes the tokens go through one call.
    """

    def __init__(self, p: Parameters) -> None:
        first, second = (
            TwoWayAttentionBlock(p / "layers" / i, skip_first_layer_pe=i == 0) for i in range(DECODER_DEPTH)
        )
        self.final_attn_token_to_image = TokenToImage(p / "final_attn_token_to_image", p.norm("norm_final_attn"))
        self.once = Once.of(p)
        self._second = second
        self._begin = kernels.TokenSteps(
            {"tokens": EMBED_DIM},
            [*first.attend_self("tokens", "tokens"), *first.cross_attn_token_to_image.ask("asking")],
            ("asking_tokens", "asked"),
        )
        attend = second.attend_self("x", "moved")
        attend[0] += first.keys_values()
        self._between = kernels.TokenSteps(
            {"attended": CROSS_ATTENTION_DIM, "queries": EMBED_DIM, "tokens": EMBED_DIM},
            [*first.digest(), *attend, *second.cross_attn_token_to_image.ask("asking")],
            ("asking_tokens", "keys", "values", "asked"),
        )

    def answer(self, kept: Sequence[int], phases: Phases, outputs: Sequence[str]) -> Answer:
        """The transformer where the tokens of the numbers ``kept`` are read, by ``phases`` from ``answers`` on.

        The last attention leaves out the others.
        """
        last, rows = self.final_attn_token_to_image, tuple(kept)
        ask = kernels.TokenSteps(
            {"attended": CROSS_ATTENTION_DIM, "queries": EMBED_DIM, "tokens": EMBED_DIM},
            [
                *self._second.digest(),
                [
                    *self._second.keys_values(),
                    steps.Take("asking_tokens", "x", rows),
                    steps.Take("asking", "moved", rows),
                ],
                *last.ask("asking"),
            ],
            ("asking_tokens", "keys", "values", "asked"),
        )
        read = {"attended": CROSS_ATTENTION_DIM, "queries": EMBED_DIM}
        return Answer(self, ask, kernels.TokenSteps(read, [*last.answer("answers", "queries"), *phases], outputs))

    def between(self, updates: Updates, tokens: F32, queue: Queue) -> tuple[F32, F32]:
        """Up to what the second block's tokens saw: their queries (P, T, 256) and that (P, T, 128)."""
        queries, asked = self._begin(tokens, queue=queue)
        attended = updates.look(asked)
        queries, keys, values, asked = self._between(attended, queries, tokens, queue=queue)
        return queries, updates.attend(keys, values, asked)


class Answer:
    """The transformer, and what is read of its tokens."""

    def __init__(self, transformer: TwoWayTransformer, ask: kernels.TokenSteps, read: kernels.TokenSteps) -> None:
        self._transformer, self._ask, self._read = transformer, ask, read

    def __call__(self, updates: Updates, tokens: F32, queue: Queue) -> tuple[Sequence[F32], Sequence[Updated]]:
        """The outputs, (P, rows, channels) each, of prompts' tokens (P, T, 256), and the P images as they updated them.

        All are there when the queue has run. P is 1 for the updates of an image that serves one prompt, and for those
        by many tokens.
        """
        queries, attended = self._transformer.between(updates, tokens, queue)
        queries, keys, values, asked = self._ask(attended, queries, tokens, queue=queue)
        attended = updates.attend(keys, values, asked)
        return self._read(attended, queries, queue=queue), updates.images


def mlp(y: str, x: str, layers: Sequence[Layer]) -> Phases:
    """Linear layers with ReLU between them; what comes between x and y has y's name and a number."""
    names = [x, *(f"{y}.{i}" for i in range(len(layers) - 1)), y]
    return [
        [linear(there, here, layer, activation=None if there == y else "relu")]
        for here, there, layer in zip(names, names[1:], layers)
    ]


def linear(
    y: str, x: str, layer: Layer, *, activation: str | None = None, residual: str | None = None, scale: float = 1.0
) -> steps.Linear:
    """The step of a layer."""
    return steps.Linear(y, x, layer.weight, layer.bias, activation, residual, scale)


def normed(y: str, x: str, norm: Vectors, *, moved: str | None = None, by: str | None = None) -> steps.Norm:
    """The step of a norm."""
    return steps.Norm(y, x, norm.weight, norm.bias, LAYER_NORM_EPS, moved, by)
