"""The image in the plain form, as the reference's modeling/transformer.py has it: for any number of tokens."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..architecture import DECODER_DEPTH, DECODER_HEADS, EMBED_DIM
from ..kernels import Array, Plan
from .decoder_image import TOKENS, DecoderImage, Given, OutputUpscaling, layer_norm, linear, tokens_of
from .parameters import F32, Layer, Parameters, Vectors


class TokenToImage(NamedTuple):
    """The image's projections of ``cross_attn_token_to_image``."""

    k_proj: Layer
    v_proj: Layer

    @classmethod
    def of(cls, p: Parameters) -> TokenToImage:
        return cls(p.linear("k_proj"), p.linear("v_proj"))


class ImageToToken(NamedTuple):
    """The image's projections of ``cross_attn_image_to_token``, and the norm behind."""

    q_proj: Layer
    out_proj: Layer
    norm4: Vectors

    @classmethod
    def of(cls, layer: Parameters) -> ImageToToken:
        p = layer / "cross_attn_image_to_token"
        return cls(p.linear("q_proj"), p.linear("out_proj"), layer.norm("norm4"))


class PlainForm:
    """A model's weights of the image's side."""

    def __init__(self, p: Parameters, image_pe: F32, no_mask_embed: F32, upscaling: OutputUpscaling) -> None:
        layers = [p / "layers" / i for i in range(DECODER_DEPTH)]
        asked = [*(layer / "cross_attn_token_to_image" for layer in layers), p / "final_attn_token_to_image"]
        self.token_to_image = [TokenToImage.of(attention) for attention in asked]
        self.image_to_token = [ImageToToken.of(layer) for layer in layers]
        self.key_pe, self.no_mask_embed, self.upscaling = tokens_of(image_pe), no_mask_embed, upscaling


class PlainImage:
    """The image's tokens ``keys`` of a plan and their positional encoding, Arrays (1, 4096, 256)."""

    def __init__(self, plan: Plan, form: PlainForm, image: DecoderImage) -> None:
        self._plan, self._form = plan, form
        self._features, self._key_pe = (plan.given(1, TOKENS, EMBED_DIM) for _ in range(2))
        self._dense = plan.given(EMBED_DIM) if image.dense is None else plan.given(1, TOKENS, EMBED_DIM)
        self.keys = plan.add(self._features, self._dense)
        self._token_to_image, self._image_to_token = iter(form.token_to_image), iter(form.image_to_token)

    def attend(self, queries: Array) -> Array:
        attention = next(self._token_to_image)
        k = linear(self._plan, self._plan.add(self.keys, self._key_pe), attention.k_proj)
        v = linear(self._plan, self.keys, attention.v_proj)
        return self._plan.attention(queries, k, v, heads=DECODER_HEADS)

    def update(self, keys: Array, values: Array) -> None:
        attention = next(self._image_to_token)
        q = linear(self._plan, self._plan.add(self.keys, self._key_pe), attention.q_proj)
        attended = self._plan.attention(q, keys, values, heads=DECODER_HEADS)
        keys = linear(self._plan, attended, attention.out_proj, residual=self.keys)
        self.keys = layer_norm(self._plan, keys, attention.norm4)

    def results(self) -> list[Array]:
        return [self.keys]

    def given(self, image: DecoderImage) -> Given:
        dense = self._form.no_mask_embed if image.dense is None else tokens_of(image.dense)
        return {self._features: tokens_of(image.features), self._dense: dense, self._key_pe: self._form.key_pe}

    def draw(self, hyper: Array) -> Array:
        return self._draw(self._plan, self.keys.of_first(), hyper)

    def draw_apart(self, plan: Plan, hyper: Array) -> tuple[list[Array], Array]:
        keys = plan.given(TOKENS, EMBED_DIM)
        return [keys], self._draw(plan, keys, hyper)

    def _draw(self, plan: Plan, keys: Array, hyper: Array) -> Array:
        upscaling = self._form.upscaling
        return upscaling(plan, keys, hyper, np.tile(upscaling.conv1.bias, 4), rows=upscaling.conv1.weight)

    def drawn_from(self, given: Given, results: list[F32], prompt: int) -> list[F32]:
        return [result[prompt] for result in results]
