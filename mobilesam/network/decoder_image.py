"""The image side of the mask decoder: the input, the interface of the two forms, and layers that both forms share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np

from .. import kernels
from ..architecture import EMBED_DIM, EMBED_SIZE
from ..kernels import Array, Maps, PackedRows, Plan
from .parameters import F32, Parameters, Rows

TOKENS = EMBED_SIZE * EMBED_SIZE  # number of image tokens

# The NumPy arrays that the caller passes to `Plan.run`, one for each given Array of the plan.
Given: TypeAlias = dict[Array, F32]


@dataclass(frozen=True, eq=False)
class DecoderImage:
    """The image that a prompt is decoded with.

    Attributes:
        features: (64, 64, 256), the image embedding.
        dense: (64, 64, 256), the embedding of the prompt's mask. None if the prompt has no mask.
        kept: whether to keep the image's maps (channel-major projections) for further prompts.
        hq: (256, 256, 32), the HQ features of the image. None if the architecture has no HQ token.
    """

    features: F32
    dense: F32 | None = None
    kept: bool = True
    hq: F32 | None = None


class PlannedImage(Protocol):
    """The image's side of the two-way transformer, recorded in a plan.

    Attributes:
        shared: the given Arrays that masks are computed from and that are the same for all prompts of an image.
    """

    shared: list[Array]

    def attend(self, queries: Array) -> Array:
        """Record the attention from the tokens of P prompts to the image, after the image updates recorded so far.

        Args:
            queries: Array (P, T, 128), queries of the tokens, already scaled by `CROSS_SCALE`.

        Returns:
            Array (P, T, 128), the results of all heads side by side.
        """

    def update(self, keys: Array, values: Array) -> None:
        """Record an image update: the attention from image tokens to the tokens of P prompts, with its norm.

        Args:
            keys: Array (P, T, 128), keys of the prompts' tokens, already scaled by `CROSS_SCALE`.
            values: Array (P, T, 128), values of the prompts' tokens.
        """

    def results(self) -> list[Array]:
        """Return the Arrays, besides ``shared``, that masks are computed from. Axis 0 of each Array is the prompt.

        Requires that all image updates are recorded.
        """

    def given(self, image: DecoderImage) -> Given:
        """Return the NumPy arrays of an image that a run of the plan needs."""

    def draw(self, plan: Plan, hyper: Array, lines: int, *, preview: bool) -> tuple[list[Array], Array]:
        """Record the steps that compute the masks of one prompt, in a second plan.

        Args:
            plan: the second plan.
            hyper: Array (M, 32), the outputs of M hypernetworks.
            lines: number of rows of image tokens, from the top, that the masks are computed of.
            preview: whether to compute only one of the 4×4 pixels that an image token has in a mask.

        Returns:
            (given, masks): ``given`` lists the second plan's inputs. A run of the second plan gets ``shared``
            and one prompt's `results` of the first plan, in this order. ``masks`` is the Array
            (M, 4·lines, 256), or (M, lines, 64) for a preview.
        """


class OutputUpscaling:
    """``output_upscaling`` of the reference: transposed convolution, LayerNorm, GELU, transposed convolution, GELU.

    A preview computes the left upper pixel of the first transposed convolution, and of the 2×2 pixels that the second
    makes from this pixel the right lower one. Each image token then has the pixel (1, 1) of its 4×4 pixels.
    """

    def __init__(self, p: Parameters) -> None:
        self.conv1, self.norm, self.conv2 = p.transposed("0"), p.norm("1"), p.transposed("3")
        channels = len(self.conv2.bias)
        last = kernels.pack_rows(self.conv2.weight.rows[-channels:], precision=p.precision)
        self.last_of_conv2 = Rows(last, self.conv2.bias)
        self.shift = np.tile(self.conv1.bias, 4)

    def __call__(
        self,
        plan: Plan,
        x: Maps,
        hyper: Array,
        shift: F32,
        update: Sequence[Array] | None = None,
        *,
        lines: int,
        preview: bool,
    ) -> Array:
        """Record the upscaling and the masks. ``x`` has the products of image tokens with the weight of ``conv1``."""
        conv2, size = self.conv2, (lines, EMBED_SIZE)
        if preview:
            channels = len(self.conv1.bias)
            conv2, x, shift = self.last_of_conv2, x.rows(0, channels), shift[:channels]
        return plan.upscale_masks(x, size, *self.norm, *conv2, hyper, shift, update=update)


def project(plan: Plan, x: F32, rows: PackedRows, pe: F32 | None = None, channels: int = 0, **vectors: F32) -> F32:
    """Project image tokens to maps, with a plan that has only the step `project`.

    Args:
        plan: an empty plan.
        x: (1, 4096, 256), image tokens.
        rows: (M, 256), the packed weight.
        pe: (16, A, 256), A maps of which the first ``channels`` are added to the result. If None, nothing is added.
        channels: number of maps of ``pe`` that are added.
        vectors: the options ``shift`` and ``scale`` of the step.

    Returns:
        The maps (16, M, 256), or (16, M + 2, 256) if ``scale`` is given.
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
    """Reshape an image (64, 64, 256) to tokens (1, 4096, 256), without a copy if the array is contiguous."""
    return x.reshape(1, TOKENS, EMBED_DIM)
