"""The image as the decoder's prompts see and update it: N = 4096 tokens of 256 channels, float32.

The attentions between it and the tokens have forms with the same result. Where the image serves one prompt of few
tokens, its projections are folded onto the tokens (once.py). Else it is projected once for all prompts, whose updates
are kept in low rank (low_rank.py), by few tokens or by many (mixed.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

from .. import kernels
from ..architecture import EMBED_DIM, LAYER_NORM_EPS
from ..kernels import ImageMaps, MixedImage, Queue, UpdatedImage
from .once import Once
from .parameters import F32

if TYPE_CHECKING:
    from .low_rank import LowRank
    from .mixed import Mixed

# Up to so many tokens of a prompt their weights are the low-rank form's basis; for more, the channels that they mix.
FEW_TOKENS = 14
# Up to so many the image of one prompt is updated as it is; for more, projecting it first costs less.
ONCE_TOKENS = 36
# Prompts that share their passes over the image, while they have few tokens: four of a point each are 28 rows.
TOGETHER = 4

Updated = UpdatedImage | MixedImage | ImageMaps


class DecoderConstants(Protocol):
    """What the updates in low rank are made of; each is made when first wanted."""

    @property
    def constants(self) -> LowRank: ...
    @property
    def mixed(self) -> Mixed: ...


# What answers a prompt (T, 256): its scores (C,) and low_res (C, 256, 256).
Prepared: TypeAlias = Callable[[F32], tuple[F32, F32]]


class Kept(dict[tuple[int, bool], Prepared]):
    """Decodings by how many tokens they take and whether they make several masks. Copies have none."""

    def __reduce__(self) -> tuple[type[Kept], tuple[()]]:
        return type(self), ()


@dataclass(frozen=True, eq=False)
class ImageTokens:
    """The image as the decoder first sees it: features (N, 256) and dense, (N, 256) or (256,), to be added; whether it
    serves one prompt; its positional encoding. And what the low-rank form starts from, made when that is first wanted,
    and the decoding that was prepared for the last prompt.
    """

    features: F32
    dense: F32
    once: bool
    positions: Positions
    project: Callable[[F32, Positions], ProjectedImage]
    prepared: Kept = field(default_factory=Kept)

    @cached_property
    def projected(self) -> ProjectedImage:
        """What the low-rank form starts from."""
        return self.project(self.features + self.dense, self.positions)


@dataclass(frozen=True, eq=False)
class Positions:
    """The image's positional encoding (N, 256), always the same one, and what is made of it when first wanted."""

    encoding: F32
    project: Callable[[F32], ImageMaps]

    @cached_property
    def turned(self) -> ImageMaps:
        """Its channels as maps."""
        return kernels.turn_image(self.encoding)

    @cached_property
    def projected(self) -> ImageMaps:
        """Its maps for the low-rank form."""
        return self.project(self.encoding)


class ProjectedImage(NamedTuple):
    """What the updates in low rank start from: the image's maps and those of the positional encoding.

    27 MB of an image's own.
    """

    decoder: DecoderConstants
    maps: ImageMaps
    pe_maps: ImageMaps


class Updates(Protocol):
    """An image, and what P prompts make of it."""

    @property
    def images(self) -> Sequence[Updated]:
        """As the prompts have left it."""

    def look(self, asked: F32) -> F32:
        """What tokens see of it before any update, (P, T, 128): their heads' sums; ``asked``: their queries, scaled."""

    def attend(self, keys: F32, values: F32, asked: F32) -> F32:
        """Update it by tokens' keys, scaled, and values (P, T, 128); then, as `look`, what tokens see of the result."""


def begin_updates(image: ImageTokens, tokens: int, once: Once, isa: str, queue: Queue) -> Updates:
    """The updates by prompts of so many tokens, whose work is left to the queue."""
    if image.once and tokens <= ONCE_TOKENS:
        return OnceUpdates(image, once, isa, queue)
    if tokens > FEW_TOKENS:
        return MixedUpdates(image.projected, isa, queue)
    return LowRankUpdates(image.projected, isa, queue)


def most_together(image: ImageTokens, tokens: int) -> int:
    """How many prompts of so many tokens go through the transformer together."""
    return TOGETHER if tokens <= FEW_TOKENS and not image.once else 1


class ProjectedUpdates:
    """What the two kinds of low rank share: the attention to the image before it is updated."""

    def __init__(self, image: ProjectedImage, isa: str, queue: Queue) -> None:
        self._image, self._isa, self._queue = image, isa, queue

    def look(self, asked: F32) -> F32:
        constants = self._image.decoder.constants
        return kernels.attend_image(
            self._image.maps, constants.before_at, asked, constants.before_bias, isa=self._isa, queue=self._queue
        )


class LowRankUpdates(ProjectedUpdates):
    """The image as each prompt updates it, in low rank."""

    _images: list[UpdatedImage] | None = None

    def __init__(self, image: ProjectedImage, isa: str, queue: Queue) -> None:
        super().__init__(image, isa, queue)
        constants = image.decoder.constants
        self._updates = iter((constants.first, constants.second))

    @property
    def images(self) -> list[UpdatedImage]:
        assert self._images is not None, "no update yet"
        return self._images

    def attend(self, keys: F32, values: F32, asked: F32) -> F32:
        self._images, attended = kernels.update_image(
            self._image.maps, self._image.pe_maps, next(self._updates), keys, values, asked, self._images,
            channels=EMBED_DIM, eps=LAYER_NORM_EPS, isa=self._isa, queue=self._queue,
        )  # fmt: skip
        return attended


class MixedUpdates(ProjectedUpdates):
    """The image as one prompt of many tokens updates it, in low rank."""

    images: Sequence[MixedImage] = ()

    def __init__(self, image: ProjectedImage, isa: str, queue: Queue) -> None:
        super().__init__(image, isa, queue)
        mixed = image.decoder.mixed
        self._updates = iter((mixed.first, mixed.second))

    def attend(self, keys: F32, values: F32, asked: F32) -> F32:
        image, attended = kernels.update_image_mixed(
            self._image.maps, self._image.pe_maps, next(self._updates), keys[0], values[0], asked[0], *self.images,
            channels=EMBED_DIM, eps=LAYER_NORM_EPS, queue=self._queue,
        )  # fmt: skip
        self.images = [image]
        return attended[None]


class OnceUpdates:
    """The image, its channels as maps, as one prompt updates it; nothing is made of it for others."""

    def __init__(self, image: ImageTokens, once: Once, isa: str, queue: Queue) -> None:
        self.images = [kernels.turn_image(image.features, image.dense, isa=isa, queue=queue)]
        self._pe, self._isa, self._queue = image.positions.turned, isa, queue
        self._attentions, self._updates = iter(once.attentions), iter(once.updates)

    def look(self, asked: F32) -> F32:
        _, attended = kernels.update_image_once(
            self.images[0], self._pe, next(self._attentions), asked[0], isa=self._isa, queue=self._queue
        )
        return attended[None]

    def attend(self, keys: F32, values: F32, asked: F32) -> F32:
        image, attended = kernels.update_image_once(
            self.images[0], self._pe, next(self._attentions), asked[0], next(self._updates), keys[0], values[0],
            eps=LAYER_NORM_EPS, isa=self._isa, queue=self._queue,
        )  # fmt: skip
        self.images = [image]
        return attended[None]
