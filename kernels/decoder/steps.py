"""What :class:`TokenSteps` does, as data: each step makes one array, or two, of others, all known by their names."""

from __future__ import annotations

from typing import NamedTuple

from mobilesam.kernels.core.check import F32
from mobilesam.kernels.core.panels import Panels


class Linear(NamedTuple):
    """y = act(x · weightᵀ + bias + residual) · scale; weight (N, K), float32 or packed, bias (N,).

    activation: None, "gelu" or "relu".
    """

    y: str
    x: str
    weight: Panels | F32
    bias: F32 | None = None
    activation: str | None = None
    residual: str | None = None
    scale: float = 1.0


class Attention(NamedTuple):
    """y_h = softmax(q_h k_hᵀ · d^−½) v_h, heads concatenated, of each prompt's tokens among themselves."""

    y: str
    q: str
    k: str
    v: str
    heads: int


class Norm(NamedTuple):
    """y = LayerNorm(x), weight and bias (C,); and, where asked for, ``moved`` = y + ``by``."""

    y: str
    x: str
    weight: F32
    bias: F32
    eps: float = 1e-5
    moved: str | None = None
    by: str | None = None


class Take(NamedTuple):
    """y: of each prompt's tokens those of the numbers ``rows``."""

    y: str
    x: str
    rows: tuple[int, ...]


class Stack(NamedTuple):
    """y: each prompt's rows of the arrays ``xs``, which were taken, or made of such, one array after the other."""

    y: str
    xs: tuple[str, ...]


Step = Linear | Attention | Norm | Take | Stack
