"""Constants of attentions to an image that serves one prompt, for `kernels/decoder/once_update.pyx`."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..architecture import DECODER_DEPTH
from ..kernels import OnceAttention, OnceUpdate
from .parameters import PANEL, Parameters, Vectors


def once_attention(p: Parameters) -> OnceAttention:
    values = np.pad(p.tensor("v_proj.weight").T, [(0, 1), (0, 0)])
    return OnceAttention(p.tensor("k_proj.weight"), np.ascontiguousarray(values), p.tensor("v_proj.bias"))


def once_update(p: Parameters, norm: Vectors) -> OnceUpdate:
    queries = np.column_stack([p.tensor("q_proj.weight"), p.tensor("q_proj.bias")])
    queries = np.pad(queries, [(0, 0), (0, -queries.shape[1] % PANEL)])
    outs = np.ascontiguousarray(p.tensor("out_proj.weight").T)
    return OnceUpdate(np.ascontiguousarray(queries), outs, p.tensor("out_proj.bias"), norm.weight, norm.bias)


class Once(NamedTuple):
    """Those of the two-way transformer, in the order in which they are used."""

    attentions: tuple[OnceAttention, ...]
    updates: tuple[OnceUpdate, ...]

    @classmethod
    def of(cls, p: Parameters) -> Once:
        layers = [p / "layers" / i for i in range(DECODER_DEPTH)]
        asking = [*(layer / "cross_attn_token_to_image" for layer in layers), p / "final_attn_token_to_image"]
        updates = (once_update(layer / "cross_attn_image_to_token", layer.norm("norm4")) for layer in layers)
        return cls(tuple(map(once_attention, asking)), tuple(updates))
