"""The mask decoder: a two-way transformer between prompt tokens and the image, then upscaling and scores.

Source: the reference's modeling/mask_decoder.py and modeling/transformer.py; names are theirs. Prompt tokens are
(T, 256), the image N = 4096 tokens of 256 channels; float32. The attentions between the two have two forms with the
same result. The direct one projects the image. The folded one (see kernels/two_way.pyx) projects the tokens instead:
cheaper while they are few.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from . import kernels
from .config import (
    CROSS_ATTENTION_DIM,
    DECODER_DEPTH,
    DECODER_HEADS,
    EMBED_DIM,
    EMBED_SIZE,
    LAYER_NORM_2D_EPS,
    LAYER_NORM_EPS,
    MASK_TOKENS,
)
from .kernels import KeysValues
from .parameters import F32, Layer, Parameters, Vectors

HEAD_DIM = CROSS_ATTENTION_DIM // DECODER_HEADS
HEAD_SCALE = np.float32(HEAD_DIM**-0.5)
# An update and an attention cost an image token 4·256·8·T multiply-adds folded, 4·256·128 direct: equal at T = 16.
FOLDED_TOKENS = CROSS_ATTENTION_DIM // DECODER_HEADS


@dataclass(frozen=True, slots=True)
class ImageTokens:
    """The image as the decoder first sees it, x (N, 256) with its positional encoding pe (N, 256).

    What every prompt would compute of them again is kept: the first layer's keys and values for the tokens' attention,
    and its queries (N, 128) for the image's. Both are None for an image that serves one prompt only.
    """

    x: F32
    pe: F32
    keys_values: KeysValues | None = None
    queries: F32 | None = None


class SelfAttention:
    """Attention among the tokens: residual + out_proj(attention)."""

    def __init__(self, p: Parameters) -> None:
        self.q_proj, self.k_proj, self.v_proj = p.linear("q_proj"), p.linear("k_proj"), p.linear("v_proj")
        self.out_proj = p.linear("out_proj")

    def __call__(self, q: F32, k: F32, v: F32, residual: F32 | None, threads: int) -> F32:
        q, k, v = (
            _linear(q, self.q_proj, threads),
            _linear(k, self.k_proj, threads),
            _linear(v, self.v_proj, threads),
        )
        mixed = kernels.cross_attention(q, k, v, heads=DECODER_HEADS, threads=threads)
        return _linear(mixed, self.out_proj, threads, residual)


class TokenToImage:
    """Tokens attending to the image. ``attended`` is (T, 128), what the heads mixed, before the projection back."""

    def __init__(self, p: Parameters) -> None:
        self.q_proj, self.k_proj, self.v_proj = p.linear("q_proj"), p.linear("k_proj"), p.linear("v_proj")
        self.precision, self.isa = p.precision, kernels.isa.current()
        self.k_rows = p.tensor("k_proj.weight")
        self.out_proj = p.linear("out_proj")

    def keys_values(self, image: F32, pe: F32, threads: int) -> KeysValues:
        k, v = _linear(image + pe, self.k_proj, threads), _linear(image, self.v_proj, threads)
        return kernels.pack_keys_values(k, v, heads=DECODER_HEADS, threads=threads)

    def direct(self, tokens: F32, image: KeysValues, threads: int) -> F32:
        """attended, of tokens that carry their positional encoding."""
        return kernels.cross_attention(_linear(tokens, self.q_proj, threads), image, threads=threads)

    def fold(self, tokens: F32, threads: int) -> F32:
        """The tokens' queries (8·T, 256) to compare with the image itself."""
        return kernels.fold_heads(_linear(tokens, self.q_proj, threads) * HEAD_SCALE, self.k_rows)

    def unfold(self, mixed: F32, threads: int) -> F32:
        """attended, from the image's tokens as each query mixed them, (8·T, 256)."""
        values = _linear(mixed, self.v_proj, threads).reshape(-1, DECODER_HEADS, DECODER_HEADS, HEAD_DIM)
        return np.ascontiguousarray(np.einsum("thhe->the", values)).reshape(-1, CROSS_ATTENTION_DIM)

    def project(self, attended: F32, residual: F32, threads: int) -> F32:
        return _linear(attended, self.out_proj, threads, residual)


class ImageToToken:
    """The image attending to the tokens, with the shortcut and LayerNorm that follow."""

    def __init__(self, p: Parameters, norm: Vectors) -> None:
        self.q_proj, self.k_proj, self.v_proj = p.linear("q_proj"), p.linear("k_proj"), p.linear("v_proj")
        self.out_proj, self.norm = p.linear("out_proj"), norm
        self.precision, self.isa = p.precision, kernels.isa.current()
        self.q_rows = p.tensor("q_proj.weight")
        self.q_bias, self.out_bias = p.tensor("q_proj.bias"), p.tensor("out_proj.bias")
        self.out_rows = np.ascontiguousarray(p.tensor("out_proj.weight").T)

    def direct(self, image: F32, queries: F32, tokens: F32, token_pe: F32, threads: int) -> F32:
        """The updated image (N, 256), from its projected queries (N, 128)."""
        k, v = _linear(tokens + token_pe, self.k_proj, threads), _linear(tokens, self.v_proj, threads)
        mixed = kernels.cross_attention(queries, k, v, heads=DECODER_HEADS, threads=threads)
        return _norm(_linear(mixed, self.out_proj, threads, image), self.norm, threads)

    def folded(
        self, image: ImageTokens, tokens: F32, token_pe: F32, next_queries: F32, threads: int
    ) -> tuple[F32, F32]:
        """The updated image (N, 256), and its tokens as ``next_queries`` mix them."""
        k = _linear(tokens + token_pe, self.k_proj, threads) * HEAD_SCALE
        v = _linear(tokens, self.v_proj, threads)
        by_head = (-1, DECODER_HEADS, HEAD_DIM)
        if image.queries is None:
            keys = kernels.fold_heads(k, self.q_rows)
            key_bias = (k.reshape(by_head) * self.q_bias.reshape(by_head)).sum(axis=-1).reshape(-1)
        else:
            keys = kernels.fold_heads(k, np.eye(CROSS_ATTENTION_DIM, dtype=np.float32))
            key_bias = np.zeros(len(keys), np.float32)
        y, mixed = kernels.update_image(
            image.x, image.pe, keys, key_bias, kernels.fold_heads(v, self.out_rows), self.out_bias,
            self.norm.weight, self.norm.bias, source=image.queries, queries=next_queries,
            eps=LAYER_NORM_EPS, precision=self.precision, isa=self.isa, threads=threads,
        )  # fmt: skip
        return y, mixed


class TwoWayAttentionBlock:
    """Self-attention of the tokens, tokens to image, MLP, image to tokens; each with shortcut and LayerNorm."""

    def __init__(self, p: Parameters, *, skip_first_layer_pe: bool) -> None:
        self.skip_first_layer_pe = skip_first_layer_pe
        self.self_attn = SelfAttention(p / "self_attn")
        self.cross_attn_token_to_image = TokenToImage(p / "cross_attn_token_to_image")
        self.cross_attn_image_to_token = ImageToToken(p / "cross_attn_image_to_token", p.norm("norm4"))
        self.lin1, self.lin2 = p.linear("mlp.lin1"), p.linear("mlp.lin2")
        self.norm1, self.norm2, self.norm3 = (p.norm(f"norm{i}") for i in (1, 2, 3))

    def attend_self(self, queries: F32, query_pe: F32, threads: int) -> F32:
        if self.skip_first_layer_pe:
            queries = self.self_attn(queries, queries, queries, None, threads)
        else:
            q = queries + query_pe
            queries = self.self_attn(q, q, queries, queries, threads)
        return _norm(queries, self.norm1, threads)

    def digest(self, queries: F32, attended: F32, threads: int) -> F32:
        """What the tokens saw of the image, added, then their MLP."""
        queries = self.cross_attn_token_to_image.project(attended, queries, threads)
        queries = _norm(queries, self.norm2, threads)
        hidden = kernels.linear(queries, self.lin1.weight, self.lin1.bias, activation="relu", threads=threads)
        return _norm(_linear(hidden, self.lin2, threads, queries), self.norm3, threads)


class TwoWayTransformer:
    """Two blocks, then a last attention from the tokens to the image.

    An image's update by one block and the attention of the next one's tokens to the result are one pass over the image:
    those tokens' queries do not depend on it.
    """

    def __init__(self, p: Parameters) -> None:
        self.layers = [TwoWayAttentionBlock(p / "layers" / i, skip_first_layer_pe=i == 0) for i in range(DECODER_DEPTH)]
        self.final_attn_token_to_image = TokenToImage(p / "final_attn_token_to_image")
        self.norm_final_attn = p.norm("norm_final_attn")

    def __call__(self, image: ImageTokens, tokens: F32, kept: list[int], threads: int) -> tuple[F32, F32]:
        """The tokens that are ``kept`` (K, 256) and the image (N, 256) after the transformer.

        The last attention leaves out the tokens whose answer nobody reads.
        """
        first = self.layers[0]
        queries = first.attend_self(tokens, tokens, threads)
        attended = self._first_look(first.cross_attn_token_to_image, image, queries + tokens, threads)
        attentions = [
            *(layer.cross_attn_token_to_image for layer in self.layers[1:]),
            self.final_attn_token_to_image,
        ]
        for i, (layer, attention) in enumerate(zip(self.layers, attentions)):
            before = layer.digest(queries, attended, threads)
            if i == DECODER_DEPTH - 1:
                queries, query_pe = before[kept], tokens[kept]
            else:
                queries, query_pe = self.layers[i + 1].attend_self(before, tokens, threads), tokens
            update = layer.cross_attn_image_to_token
            if len(tokens) <= FOLDED_TOKENS:
                folded = attention.fold(queries + query_pe, threads)
                x, mixed = update.folded(image, before, tokens, folded, threads)
                attended = attention.unfold(mixed, threads)
            else:
                image_queries = image.queries
                if image_queries is None:
                    image_queries = _linear(image.x + image.pe, update.q_proj, threads)
                x = update.direct(image.x, image_queries, before, tokens, threads)
                attended = attention.direct(queries + query_pe, attention.keys_values(x, image.pe, threads), threads)
            image = ImageTokens(x, image.pe)
        queries = self.final_attn_token_to_image.project(attended, queries, threads)
        return _norm(queries, self.norm_final_attn, threads), image.x

    @staticmethod
    def _first_look(attention: TokenToImage, image: ImageTokens, tokens: F32, threads: int) -> F32:
        if image.keys_values is not None:
            return attention.direct(tokens, image.keys_values, threads)
        if len(tokens) > FOLDED_TOKENS:
            return attention.direct(tokens, attention.keys_values(image.x, image.pe, threads), threads)
        folded = attention.fold(tokens, threads)
        mixed = kernels.attend_image(
            image.x, image.pe, folded, precision=attention.precision, isa=attention.isa, threads=threads
        )
        return attention.unfold(mixed, threads)


class MLP:
    """Linear layers with ReLU between them."""

    def __init__(self, p: Parameters) -> None:
        self.layers = [p.linear(f"layers.{i}") for i in range(3)]

    def __call__(self, x: F32, threads: int) -> F32:
        for layer in self.layers[:-1]:
            x = kernels.linear(x, layer.weight, layer.bias, activation="relu", threads=threads)
        return _linear(x, self.layers[-1], threads)


class MaskDecoder:
    """Image features and a prompt's embeddings to mask logits and scores. Immutable once made."""

    def __init__(self, weights: Mapping[str, NDArray[np.generic]], threads: int, precision: str = "fp32") -> None:
        p = Parameters(weights, threads, precision) / "mask_decoder"
        self.threads = threads
        self.transformer = TwoWayTransformer(p / "transformer")
        self.output_tokens = np.concatenate([p.tensor("iou_token.weight"), p.tensor("mask_tokens.weight")])
        self.upscale1, self.upscale2 = (p.conv_transpose(f"output_upscaling.{i}") for i in (0, 3))
        self.upscale_norm = p.norm("output_upscaling.1")
        self.output_hypernetworks_mlps = [MLP(p / "output_hypernetworks_mlps" / i) for i in range(MASK_TOKENS)]
        self.iou_prediction_head = MLP(p / "iou_prediction_head")

    def image_tokens(self, features: F32, image_pe: F32, dense: F32, *, reuse: bool) -> ImageTokens:
        """What a prompt's decoding starts from; with ``reuse``, prepared for many prompts.

        features, image_pe (64, 64, 256); dense (64, 64, 256), or (256,) the same everywhere.
        """
        x = (features + dense).reshape(-1, EMBED_DIM)
        pe = image_pe.reshape(-1, EMBED_DIM)
        if not reuse:
            return ImageTokens(x, pe)
        first = self.transformer.layers[0]
        keys_values = first.cross_attn_token_to_image.keys_values(x, pe, self.threads)
        return ImageTokens(x, pe, keys_values, _linear(x + pe, first.cross_attn_image_to_token.q_proj, self.threads))

    def candidates(self, image: ImageTokens, sparse: Sequence[F32], *, multimask: bool) -> Iterator[Candidates]:
        """What each prompt's masks will be, in order: their scores, and the means to draw them.

        sparse: the prompts' tokens, (T, 256) each, of which there may be none. The candidates are the mask tokens 1 to
        3 with ``multimask``, else token 0.
        """
        wanted = range(1, MASK_TOKENS) if multimask else range(1)
        kept = [0, *(1 + i for i in wanted)]
        for prompt in sparse:
            tokens = np.concatenate([self.output_tokens, prompt])
            queries, x = self.transformer(image, tokens, kept, self.threads)
            scores = self.iou_prediction_head(queries[:1], self.threads)[0, wanted.start : wanted.stop]
            yield Candidates(scores.copy(), wanted, queries[1:], x, self)

    def _draw(self, x: F32, tokens: F32, indices: Sequence[int]) -> F32:
        """The logits (C, 256, 256) of mask tokens (C, 256), the indices-th of the model, on the image x (N, 256)."""
        mlps = [self.output_hypernetworks_mlps[i] for i in indices]
        hyper = np.concatenate([mlp(token[None], self.threads) for mlp, token in zip(mlps, tokens)])
        return kernels.upscale_masks(
            x.reshape(EMBED_SIZE, EMBED_SIZE, EMBED_DIM), self.upscale1.weight, self.upscale1.bias,
            self.upscale_norm.weight, self.upscale_norm.bias, self.upscale2.weight, self.upscale2.bias, hyper,
            eps=LAYER_NORM_2D_EPS, threads=self.threads,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """The masks that would answer a prompt, with their scores (C,); none is drawn yet."""

    scores: F32
    _indices: Sequence[int]
    _tokens: F32
    _image: F32
    _decoder: MaskDecoder

    def draw(self, wanted: Sequence[int] | None = None) -> F32:
        """low_res (W, 256, 256) of the ``wanted`` ones, by their place in ``scores``; of all by default."""
        places = range(len(self.scores)) if wanted is None else wanted
        return self._decoder._draw(self._image, self._tokens[list(places)], [self._indices[i] for i in places])


def _linear(x: F32, layer: Layer, threads: int, residual: F32 | None = None) -> F32:
    return kernels.linear(x, layer.weight, layer.bias, residual=residual, threads=threads)


def _norm(x: F32, norm: Vectors, threads: int) -> F32:
    return kernels.layer_norm(x, norm.weight, norm.bias, eps=LAYER_NORM_EPS, out=x, threads=threads)
