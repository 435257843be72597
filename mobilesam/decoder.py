"""The mask decoder: a two-way transformer between prompt tokens and the image, then upscaling and scores.

Source: the reference's modeling/mask_decoder.py and modeling/transformer.py; names are theirs. Tokens are (T, 256), the
image 4096 tokens of 256 channels; float32.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from . import kernels
from .config import (
    DECODER_DEPTH,
    DECODER_HEADS,
    EMBED_DIM,
    EMBED_SIZE,
    LAYER_NORM_2D_EPS,
    LAYER_NORM_EPS,
    MASK_TOKENS,
)
from .parameters import F32, Layer, Parameters, Vectors


class Attention:
    """Projections to heads, softmax(q kᵀ / √d) v, projection back."""

    def __init__(self, p: Parameters) -> None:
        self.q_proj, self.k_proj, self.v_proj = p.linear("q_proj"), p.linear("k_proj"), p.linear("v_proj")
        self.out_proj = p.linear("out_proj")

    def __call__(self, q: F32, k: F32, v: F32, residual: F32 | None, threads: int) -> F32:
        """residual + attention, (M, 256) for q (M, 256), k and v (N, 256)."""
        mixed = kernels.cross_attention(
            _linear(q, self.q_proj, threads),
            _linear(k, self.k_proj, threads),
            _linear(v, self.v_proj, threads),
            heads=DECODER_HEADS,
            threads=threads,
        )
        return kernels.linear(mixed, self.out_proj.weight, self.out_proj.bias, residual=residual, threads=threads)


class TwoWayAttentionBlock:
    """Self-attention of the tokens, tokens to image, MLP, image to tokens; each with shortcut and LayerNorm."""

    def __init__(self, p: Parameters, *, skip_first_layer_pe: bool) -> None:
        self.skip_first_layer_pe = skip_first_layer_pe
        self.self_attn = Attention(p / "self_attn")
        self.cross_attn_token_to_image = Attention(p / "cross_attn_token_to_image")
        self.cross_attn_image_to_token = Attention(p / "cross_attn_image_to_token")
        self.lin1, self.lin2 = p.linear("mlp.lin1"), p.linear("mlp.lin2")
        self.norm1, self.norm2, self.norm3, self.norm4 = (p.norm(f"norm{i}") for i in (1, 2, 3, 4))

    def __call__(self, queries: F32, keys: F32, query_pe: F32, key_pe: F32, threads: int) -> tuple[F32, F32]:
        if self.skip_first_layer_pe:
            queries = self.self_attn(queries, queries, queries, None, threads)
        else:
            q = queries + query_pe
            queries = self.self_attn(q, q, queries, queries, threads)
        queries = _norm(queries, self.norm1, threads)

        keys_at = keys + key_pe
        queries = self.cross_attn_token_to_image(queries + query_pe, keys_at, keys, queries, threads)
        queries = _norm(queries, self.norm2, threads)

        hidden = kernels.linear(queries, self.lin1.weight, self.lin1.bias, activation="relu", threads=threads)
        queries = kernels.linear(hidden, self.lin2.weight, self.lin2.bias, residual=queries, threads=threads)
        queries = _norm(queries, self.norm3, threads)

        keys = self.cross_attn_image_to_token(keys_at, queries + query_pe, queries, keys, threads)
        return queries, _norm(keys, self.norm4, threads)


class TwoWayTransformer:
    """Two blocks, then a last attention from the tokens to the image."""

    def __init__(self, p: Parameters) -> None:
        self.layers = [
            TwoWayAttentionBlock(p / "layers" / i, skip_first_layer_pe=i == 0) for i in range(DECODER_DEPTH)
        ]
        self.final_attn_token_to_image = Attention(p / "final_attn_token_to_image")
        self.norm_final_attn = p.norm("norm_final_attn")

    def __call__(self, keys: F32, key_pe: F32, tokens: F32, threads: int) -> tuple[F32, F32]:
        queries = tokens
        for layer in self.layers:
            queries, keys = layer(queries, keys, tokens, key_pe, threads)
        queries = self.final_attn_token_to_image(queries + tokens, keys + key_pe, keys, queries, threads)
        return _norm(queries, self.norm_final_attn, threads), keys


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

    def __init__(self, weights: Mapping[str, NDArray[np.generic]], threads: int) -> None:
        p = Parameters(weights, threads) / "mask_decoder"
        self.threads = threads
        self.transformer = TwoWayTransformer(p / "transformer")
        self.output_tokens = np.concatenate([p.tensor("iou_token.weight"), p.tensor("mask_tokens.weight")])
        self.upscale1, self.upscale2 = (p.conv_transpose(f"output_upscaling.{i}") for i in (0, 3))
        self.upscale_norm = p.norm("output_upscaling.1")
        self.output_hypernetworks_mlps = [MLP(p / "output_hypernetworks_mlps" / i) for i in range(MASK_TOKENS)]
        self.iou_prediction_head = MLP(p / "iou_prediction_head")

    def __call__(
        self, features: F32, image_pe: F32, sparse: F32, dense: F32, *, multimask: bool
    ) -> tuple[F32, F32]:
        """low_res (C, 256, 256) and scores (C,) of the mask tokens 1 to 3 with ``multimask``, else of token 0.

        features, image_pe (64, 64, 256); sparse (T, 256) prompt tokens; dense (64, 64, 256) or (256,).
        """
        tokens = np.concatenate([self.output_tokens, sparse])
        keys = (features + dense).reshape(-1, EMBED_DIM)
        queries, keys = self.transformer(keys, image_pe.reshape(-1, EMBED_DIM), tokens, self.threads)

        wanted = range(1, MASK_TOKENS) if multimask else range(1)
        upscaled = self._upscale(keys.reshape(EMBED_SIZE, EMBED_SIZE, EMBED_DIM))
        hyper = np.concatenate([self.output_hypernetworks_mlps[i](queries[1 + i : 2 + i], self.threads) for i in wanted])
        low_res = kernels.linear(hyper, upscaled.reshape(-1, upscaled.shape[-1]), threads=self.threads)
        scores = self.iou_prediction_head(queries[:1], self.threads)[0, wanted.start : wanted.stop]
        return low_res.reshape(len(wanted), *upscaled.shape[:2]), scores.copy()

    def _upscale(self, x: F32) -> F32:
        """(64, 64, 256) to (256, 256, 32)."""
        first, second, norm = self.upscale1, self.upscale2, self.upscale_norm
        x = kernels.conv_transpose2d(x, first.weight, first.bias, threads=self.threads)
        x = kernels.layer_norm(
            x, norm.weight, norm.bias, eps=LAYER_NORM_2D_EPS, activation="gelu", out=x, threads=self.threads
        )
        return kernels.conv_transpose2d(x, second.weight, second.bias, activation="gelu", threads=self.threads)


def _linear(x: F32, layer: Layer, threads: int) -> F32:
    return kernels.linear(x, layer.weight, layer.bias, threads=threads)


def _norm(x: F32, norm: Vectors, threads: int) -> F32:
    return kernels.layer_norm(x, norm.weight, norm.bias, eps=LAYER_NORM_EPS, out=x, threads=threads)
