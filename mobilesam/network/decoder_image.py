"""The image of a prompt, the interface of its two forms, and the layers that both forms use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from ..architecture import EMBED_DIM, EMBED_SIZE, LAYER_NORM_2D_EPS, LAYER_NORM_EPS
from ..kernels import Array, MapRows, Maps, Plan
from ..kernels.core.check import Activation
from .parameters import F32, Layer, Parameters, Vectors

TOKENS = EMBED_SIZE * EMBED_SIZE  # of an image

# What a run of a plan is given.
Given: TypeAlias = dict[Array, F32]


@dataclass(frozen=True, eq=False)
class DecoderImage:
    """The image of a prompt.

    features: (64, 64, 256). dense: (64, 64, 256), the embedding of the prompt's mask; None for a prompt without one.
    kept: whether more prompts will want the image, so that what depends on it alone is kept for them.
    """

    features: F32
    dense: F32 | None = None
    kept: bool = True


class PlannedImage(Protocol):
    """The image's side of a plan's two-way transformer."""

    def attend(self, queries: Array) -> Array:
        """The heads, concatenated, (P, T, 128) of tokens' queries, scaled, to the image as it is now."""

    def update(self, keys: Array, values: Array) -> None:
        """The image attends to tokens' keys, scaled, and values (P, T, 128)."""

    def results(self) -> list[Array]:
        """What the masks are drawn from, once all is recorded; axis 0 is the prompt."""

    def given(self, image: DecoderImage) -> Given:
        """What a run on this image is given."""

    def draw(self, hyper: Array) -> Array:
        """Record, in the same plan, the drawing of one prompt's masks (M, 256, 256) by ``hyper`` (M, 32)."""

    def draw_apart(self, plan: Plan, hyper: Array) -> tuple[list[Array], Array]:
        """Record the drawing in another plan. Returns the Arrays that this plan is given, in the order of
        `drawn_from`, and the masks' Array."""

    def drawn_from(self, given: Given, results: list[F32], prompt: int) -> list[F32]:
        """The arrays to give a drawing in another plan, for one prompt; ``given`` and ``results`` are this plan's."""


class OutputUpscaling:
    """``output_upscaling`` of the reference: two transposed convolutions with a norm between, each with GELU."""

    def __init__(self, p: Parameters) -> None:
        self.conv1, self.norm, self.conv2 = p.transposed("0"), p.norm("1"), p.transposed("3")

    def __call__(
        self,
        plan: Plan,
        x: Array | Maps,
        hyper: Array,
        shift: F32,
        *,
        rows: MapRows | None = None,
        update: Sequence[Array] | None = None,
    ) -> Array:
        return plan.upscale_masks(
            x, (EMBED_SIZE, EMBED_SIZE), self.norm.weight, self.norm.bias, self.conv2.weight, self.conv2.bias, hyper,
            shift, rows=rows, update=update, eps=LAYER_NORM_2D_EPS,
        )  # fmt: skip


def tokens_of(x: F32) -> F32:
    """(64, 64, 256) as (1, 4096, 256)."""
    return x.reshape(1, TOKENS, EMBED_DIM)


def linear(
    plan: Plan,
    x: Array,
    layer: Layer,
    *,
    activation: Activation = None,
    residual: Array | None = None,
    scale: float = 1.0,
) -> Array:
    """The step of a linear layer."""
    return plan.linear(x, layer.weight, layer.bias, activation=activation, residual=residual, scale=scale)


def layer_norm(plan: Plan, x: Array, norm: Vectors) -> Array:
    """The step of a LayerNorm."""
    return plan.layer_norm(x, norm.weight, norm.bias, eps=LAYER_NORM_EPS)
