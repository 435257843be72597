"""What attentions to an image that serves one prompt are made of; `kernels/two_way_once.pyx` computes with it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .config import DECODER_DEPTH
from .parameters import F32, PANEL, Parameters, Vectors


class OnceAttention(NamedTuple):
    """Tokens' attention to the image: key_rows (E, C), whose bias falls out of the softmax, value_rows (C + 1, E), of
    which the last are zeros, and value_bias (E,)."""

    key_rows: F32
    value_rows: F32
    value_bias: F32

    @classmethod
    def of(cls, p: Parameters) -> OnceAttention:
        values = np.pad(p.tensor("v_proj.weight").T, [(0, 1), (0, 0)])
        return cls(p.tensor("k_proj.weight"), np.ascontiguousarray(values), p.tensor("v_proj.bias"))


class OnceUpdate(NamedTuple):
    """The image's attention to the tokens: query_rows (E, C + 1 and zeros up to whole panels), the last the bias;
    out_rows (E, C) and its bias, shift (C,); the weight and bias (C,) of the norm that follows."""

    query_rows: F32
    out_rows: F32
    shift: F32
    norm_weight: F32
    norm_bias: F32

    @classmethod
    def of(cls, p: Parameters, norm: Vectors) -> OnceUpdate:
        queries = np.column_stack([p.tensor("q_proj.weight"), p.tensor("q_proj.bias")])
        queries = np.pad(queries, [(0, 0), (0, -queries.shape[1] % PANEL)])
        outs = np.ascontiguousarray(p.tensor("out_proj.weight").T)
        return cls(np.ascontiguousarray(queries), outs, p.tensor("out_proj.bias"), norm.weight, norm.bias)


class Once(NamedTuple):
    """Those of the two-way transformer, in the order in which they are used."""

    attentions: tuple[OnceAttention, ...]
    updates: tuple[OnceUpdate, ...]

    @classmethod
    def of(cls, p: Parameters) -> Once:
        layers = [p / "layers" / i for i in range(DECODER_DEPTH)]
        asking = [*(layer / "cross_attn_token_to_image" for layer in layers), p / "final_attn_token_to_image"]
        updates = (OnceUpdate.of(layer / "cross_attn_image_to_token", layer.norm("norm4")) for layer in layers)
        return cls(tuple(map(OnceAttention.of, asking)), tuple(updates))
