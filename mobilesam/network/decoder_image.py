"""The image that a prompt is decoded with, the interface of the two forms of the image's side, and shared layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np

from ..architecture import EMBED_DIM, EMBED_SIZE
from ..kernels import Array, Maps, PackedRows, Plan
from .parameters import F32, Parameters

TOKENS = EMBED_SIZE * EMBED_SIZE  # tokens of an image

# The arrays that the caller passes to a run of a plan.
Given: TypeAlias = dict[Array, F32]


@dataclass(frozen=True, eq=False)
class DecoderImage:
    """The image that a prompt is decoded with.

    Attributes:
        features: (64, 64, 256), the image embedding.
        dense: (64, 64, 256), the embedding of the prompt's mask. None if the prompt has no mask.
        kept: whether to keep the image's maps for further prompts.
    """

    features: F32
    dense: F32 | None = None
    kept: bool = True


class PlannedImage(Protocol):
    """The image's side of the two-way transformer, recorded in a plan.

    Attributes:
        shared: the given Arrays that masks are drawn from and that are the same for all prompts of an image.
    """

    shared: list[Array]

    def attend(self, queries: Array) -> Array:
        """Record that the tokens of P prompts attend to the current image.

        Args:
            queries: Array (P, T, 128), already scaled.

        Returns:
            Array (P, T, 128), the results of all heads side by side.
        """

    def update(self, keys: Array, values: Array) -> None:
        """Record that the image attends to the tokens of P prompts.

        Args:
            keys: Array (P, T, 128), already scaled.
            values: Array (P, T, 128).
        """

    def results(self) -> list[Array]:
        """Return the other Arrays that masks are drawn from. Axis 0 is the prompt.

        Requires that all updates are recorded.
        """

    def given(self, image: DecoderImage) -> Given:
        """Return the image's arrays that a run needs."""

    def draw(self, plan: Plan, hyper: Array) -> tuple[list[Array], Array]:
        """Record in another plan how the masks of one prompt are drawn.

        Args:
            plan: the other plan.
            hyper: Array (M, 32), the outputs of the hypernetworks.

        Returns:
            The given Arrays of the other plan, which take ``shared`` and one prompt's part of `results`, and the Array
            of the masks (M, 256, 256).
        """


class OutputUpscaling:
    """``output_upscaling`` of the reference: transposed convolution, LayerNorm, GELU, transposed convolution, GELU."""

    def __init__(self, p: Parameters) -> None:
        self.conv1, self.norm, self.conv2 = p.transposed("0"), p.norm("1"), p.transposed("3")
        self.shift = np.tile(self.conv1.bias, 4)

    def __call__(self, plan: Plan, x: Maps, hyper: Array, shift: F32, update: Sequence[Array] | None = None) -> Array:
        """Record the upscaling and the masks. x has the products of the image tokens with the weight of ``conv1``."""
        return plan.upscale_masks(x, (EMBED_SIZE, EMBED_SIZE), *self.norm, *self.conv2, hyper, shift, update=update)


def project(plan: Plan, x: F32, rows: PackedRows, pe: F32 | None = None, channels: int = 0, **vectors: F32) -> F32:
    """Run the step `project` alone.

    Args:
        plan: an empty plan.
        x: (1, 4096, 256), image tokens.
        rows: (M, 256), the packed weight.
        pe: (16, A, 256), maps of which the first ``channels`` are added to the result. None adds nothing.
        channels: number of channels that are added.
        vectors: the options ``shift`` and ``scale`` of the step.

    Returns:
        The maps (16, M, 256), or (16, M + 2, 256) with a scale.
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
    """Reshape (64, 64, 256) to (1, 4096, 256), without a copy if the array is contiguous."""
    return x.reshape(1, TOKENS, EMBED_DIM)
