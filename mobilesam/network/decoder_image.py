"""The image of a prompt, the interface of its two forms, and the layers that both forms use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np

from ..architecture import EMBED_DIM, EMBED_SIZE
from ..kernels import Array, Maps, PackedRows, Plan
from .parameters import F32, Parameters

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
    """The image's side of a plan's two-way transformer.

    Attributes:
        shared: given Arrays of the image that the masks are drawn from, the same for all prompts.
    """

    shared: list[Array]

    def attend(self, queries: Array) -> Array:
        """The heads, concatenated, (P, T, 128) of tokens' queries, scaled, that attend to the image as it is now."""

    def update(self, keys: Array, values: Array) -> None:
        """The image attends to tokens' keys, scaled, and values (P, T, 128)."""

    def results(self) -> list[Array]:
        """Arrays that the masks are drawn from besides ``shared``, when all is recorded; axis 0 is the prompt."""

    def given(self, image: DecoderImage) -> Given:
        """The arrays of an image that a run needs."""

    def draw(self, plan: Plan, hyper: Array) -> tuple[list[Array], Array]:
        """Record, in another plan, the drawing of one prompt's masks (M, 256, 256) by ``hyper`` (M, 32).

        Returns the Arrays that the other plan is given, ``shared`` and one prompt's `results`, and the masks' Array.
        """


class OutputUpscaling:
    """``output_upscaling`` of the reference: two transposed convolutions with a norm between, each with GELU."""

    def __init__(self, p: Parameters) -> None:
        self.conv1, self.norm, self.conv2 = p.transposed("0"), p.norm("1"), p.transposed("3")
        self.shift = np.tile(self.conv1.bias, 4)

    def __call__(self, plan: Plan, x: Maps, hyper: Array, shift: F32, update: Sequence[Array] | None = None) -> Array:
        """Record the upscaling of x, the products of the image's tokens with ``conv1``."""
        return plan.upscale_masks(x, (EMBED_SIZE, EMBED_SIZE), *self.norm, *self.conv2, hyper, shift, update=update)


def project(plan: Plan, x: F32, rows: PackedRows, pe: F32 | None = None, channels: int = 0, **vectors: F32) -> F32:
    """Run `Plan.project`, with its ``vectors``, in an empty plan.

    x: (1, 4096, 256). pe: (16, A, 256), of which the first ``channels`` are added. Returns the maps, (16, M, 256).
    """
    array, added = plan.given(*x.shape), None
    given = {array: x}
    if pe is not None:
        maps = plan.given_maps(pe.shape[1], TOKENS)
        given[maps.array], added = pe, maps.rows(0, channels)
    y = plan.result(plan.project(array, rows, added, **vectors).array)
    plan.compile().run(given)
    return plan.view(y)


def tokens_of(x: F32) -> F32:
    """(64, 64, 256) as (1, 4096, 256)."""
    return x.reshape(1, TOKENS, EMBED_DIM)
