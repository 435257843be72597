"""The low-rank form of the transformer's image side, for prompts of few tokens on an image with many prompts.

`docs/decoder.md` derives the form, and `low_rank.py` computes its constants. The image
tokens are projected to channel-major maps once, and all prompts on the image read the same maps.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from ..architecture import CROSS_ATTENTION_DIM
from ..kernels import Array, Plan, Update, UpdatedImage
from ..util.deferred import Once
from .decoder_image import TOKENS, DecoderImage, Given, OutputUpscaling, project, tokens_of
from .image_cache import ImageCache
from .low_rank import Affine, LowRank, decoder_constants
from .parameters import F32, Parameters

# The maximum number of prompt tokens in the low-rank form (docs/decoder.md compares the two forms).
# At 14 tokens, the low-rank form needs half of the plain form's arithmetic.
# At slightly more than 20 tokens, the low-rank form and the plain form need the same arithmetic.
FEW_TOKENS = 14


class LowRankForm:
    """Constants of the low-rank form, and maps of up to ``images`` images, all computed on first use."""

    def __init__(
        self,
        p: Parameters,
        image_pe: F32,
        no_mask_embed: F32,
        upscaling: OutputUpscaling,
        isa: str,
        threads: int,
        images: int,
    ) -> None:
        last = Affine(np.float64(upscaling.conv1.weight.rows), np.float64(upscaling.shift))
        self.constants: Once[LowRank] = Once(lambda: decoder_constants(p, last, p.precision, isa, threads))
        self.pe_maps = Once(self._project_pe)
        self.maps = ImageCache(images, self._project)
        self.upscaling = upscaling
        self._image_pe, self._no_mask_embed = tokens_of(image_pe), no_mask_embed
        self._plan = partial(Plan, isa=isa, threads=threads)

    def _project(self, features: F32) -> F32:
        c, x, pe_channels = self.constants(), tokens_of(features) + self._no_mask_embed, 2 * CROSS_ATTENTION_DIM
        return project(self._plan(), x, c.rows, self.pe_maps(), pe_channels, shift=c.shift, scale=c.scale)

    def _project_pe(self) -> F32:
        constants = self.constants()
        return project(self._plan(), self._image_pe, constants.pe_rows) + constants.pe_bias[:, None]


class KeptMaps:
    """The maps of a kept image as inputs of a plan, and the attention to the image before the first image update.

    Attributes:
        maps: the Maps, whose array the caller passes to `Plan.run`.
    """

    def __init__(self, plan: Plan, form: LowRankForm) -> None:
        self._plan, self._form, self._constants = plan, form, form.constants()
        self.maps = plan.given_maps(len(self._constants.rows.rows) + 2, TOKENS)  # 2 maps more: |x₁|², |x₂|²

    def attend(self, queries: Array) -> Array:
        k, v = (self.maps.rows(at, CROSS_ATTENTION_DIM) for at in self._constants.before_at)
        return self._plan.attend_image(queries, k, v, self._constants.before_bias)

    def given(self, image: DecoderImage) -> Given:
        return {self.maps.array: self._form.maps(image.features)}


class LowRankImage:
    """The image side of the two-way transformer in a plan for P prompts, in the low-rank form.

    `update` only stores its arguments. The next call of `attend` records the image update and the attention as one
    step, which reads the image's maps in one pass.

    Attributes:
        shared: a list with the Array of the image's maps.
    """

    def __init__(self, plan: Plan, form: LowRankForm) -> None:
        self._plan, self._form, self._kept, self._constants = plan, form, KeptMaps(plan, form), form.constants()
        self._pe_maps = plan.given_maps(len(self._constants.pe_rows.rows), TOKENS)
        self.shared = [self._kept.maps.array]
        self._updates: Iterator[Update] = iter((self._constants.first, self._constants.second))
        self._pending: tuple[Array, Array] | None = None  # keys and values of the next image update to record
        self._updated: UpdatedImage | None = None

    def attend(self, queries: Array) -> Array:
        if self._pending is None:
            return self._kept.attend(queries)
        maps, update = (self._kept.maps, self._pe_maps), next(self._updates)
        self._updated, attended = self._plan.update_image(*maps, update, *self._pending, queries, self._updated)
        return attended

    def update(self, keys: Array, values: Array) -> None:
        self._pending = keys, values

    def results(self) -> list[Array]:
        assert self._updated is not None and self._updated.last is not None, "both updates must be recorded"
        return [self._updated.data, *self._updated.last]

    def given(self, image: DecoderImage) -> Given:
        return {**self._kept.given(image), self._pe_maps.array: self._form.pe_maps()}

    def draw(self, plan: Plan, hyper: Array, lines: int, *, preview: bool) -> tuple[list[Array], Array]:
        upscaling, maps = self._form.upscaling, plan.given_maps(self._kept.maps.channels, TOKENS)
        update = [plan.given(*array.shape[1:]) for array in self.results()]
        x = maps.rows(self._constants.last_at, len(upscaling.conv1.weight.rows))
        shift = self._constants.last_shift
        return [maps.array, *update], upscaling(plan, x, hyper, shift, update, lines=lines, preview=preview)
