"""The image in the low-rank form: for prompts of few tokens, on an image that serves many.

`docs/decoder` derives the form; low_rank.py has its constants. It starts from maps that an image has for all its
prompts.
"""

from __future__ import annotations

from collections.abc import Iterator

from .. import kernels
from ..architecture import CROSS_ATTENTION_DIM, EMBED_DIM, LAYER_NORM_EPS
from ..kernels import Array, ImageMaps, Maps, Plan, Update, UpdatedImage
from ..util.deferred import Once
from .decoder_image import TOKENS, DecoderImage, Given, OutputUpscaling, tokens_of
from .image_cache import ImageCache
from .low_rank import LowRank, decoder_constants
from .parameters import F32, Parameters

# The most tokens of a prompt that takes the low-rank form. At 14 tokens it needs half of the plain form's arithmetic;
# at a little more than 20 the two need as much (docs/decoder.md).
FEW_TOKENS = 14


class LowRankForm:
    """A model's constants, and the maps of the last ``images`` images; each made when first wanted."""

    def __init__(
        self,
        p: Parameters,
        image_pe: F32,
        no_mask_embed: F32,
        upscaling: OutputUpscaling,
        *,
        isa: str,
        threads: int,
        images: int,
    ) -> None:
        self.constants: Once[LowRank] = Once(lambda: decoder_constants(p, p.precision, isa, threads))
        self.pe_maps = Once(self._project_pe)
        self.maps = ImageCache(images, self._project)
        self.upscaling = upscaling
        self._image_pe, self._no_mask_embed, self._threads = tokens_of(image_pe), no_mask_embed, threads

    def _project(self, features: F32) -> ImageMaps:
        constants = self.constants()
        x, pe_maps = tokens_of(features) + self._no_mask_embed, (self.pe_maps(), 2 * CROSS_ATTENTION_DIM)
        return kernels.project_image(
            x[0], constants.shift, constants.scale, constants.rows, pe_maps, threads=self._threads
        )

    def _project_pe(self) -> ImageMaps:
        constants = self.constants()
        maps = kernels.project_image(self._image_pe[0], None, None, constants.pe_rows, threads=self._threads)
        maps.data[:, : len(constants.pe_bias)] += constants.pe_bias[:, None]
        return maps


class LowRankImage:
    """The image of a plan as P prompts update it.

    An update waits for the attention that follows, whose sums come from the same pass over the image.
    """

    def __init__(self, plan: Plan, form: LowRankForm) -> None:
        self._plan, self._form, self._constants = plan, form, form.constants()
        self._maps = plan.given_maps(len(self._constants.rows.rows) + 2, TOKENS)  # and |x₁|² and |x₂|²
        self._pe_maps = plan.given_maps(len(self._constants.pe_rows.rows), TOKENS)
        self._updates: Iterator[Update] = iter((self._constants.first, self._constants.second))
        self._waiting: tuple[Array, Array] | None = None
        self._updated: UpdatedImage | None = None

    def attend(self, queries: Array) -> Array:
        if self._waiting is None:
            k, v = (self._maps.rows(at, CROSS_ATTENTION_DIM) for at in self._constants.before_at)
            return self._plan.attend_image(queries, k, v, self._constants.before_bias)
        self._updated, attended = self._plan.update_image(
            self._maps, self._pe_maps, next(self._updates), *self._waiting, queries, self._updated,
            channels=EMBED_DIM, eps=LAYER_NORM_EPS,
        )  # fmt: skip
        return attended

    def update(self, keys: Array, values: Array) -> None:
        self._waiting = keys, values

    def results(self) -> list[Array]:
        assert self._updated is not None and self._updated.last is not None, "both updates come before"
        return [self._updated.data, *self._updated.last]

    def given(self, image: DecoderImage) -> Given:
        maps, pe_maps = self._form.maps(image.features), self._form.pe_maps()
        return {self._maps.array: maps.data, self._pe_maps.array: pe_maps.data}

    def draw(self, hyper: Array) -> Array:
        return self._draw(self._plan, self._maps, [array.of_first() for array in self.results()], hyper)

    def draw_apart(self, plan: Plan, hyper: Array) -> tuple[list[Array], Array]:
        maps = plan.given_maps(self._maps.channels, TOKENS)
        update = [plan.given(*array.shape[1:]) for array in self.results()]
        return [maps.array, *update], self._draw(plan, maps, update, hyper)

    def _draw(self, plan: Plan, maps: Maps, update: list[Array], hyper: Array) -> Array:
        upscaling, constants = self._form.upscaling, self._constants
        x = maps.rows(constants.last_at, len(upscaling.conv1.weight.rows))
        return upscaling(plan, x, hyper, constants.last_shift, update=update)

    def drawn_from(self, given: Given, results: list[F32], prompt: int) -> list[F32]:
        return [given[self._maps.array], *(result[prompt] for result in results)]
