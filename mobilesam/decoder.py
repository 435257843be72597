"""The mask decoder: a two-way transformer between prompt tokens and the image, then upscaling and scores.

Source: the reference's modeling/mask_decoder.py and modeling/transformer.py; names are theirs. Prompt tokens are
(T, 256), the image N = 4096 tokens of 256 channels; float32. The attentions between the two have forms with the same
result. Where the image serves one prompt of few tokens, its projections are folded onto the tokens (once.py). Else it
is projected once for all prompts, whose updates are kept in low rank (low_rank.py), by few tokens or by many.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import kernels
from .config import (
    CROSS_ATTENTION_DIM,
    DECODER_DEPTH,
    DECODER_HEADS,
    EMBED_DIM,
    EMBED_SIZE,
    LAYER_NORM_2D_EPS,
    LAYER_NORM_EPS,
    MASK_TOKENS,
)
from .kernels import ImageMaps, MixedImage, Panels, UpdatedImage
from .once import OnceAttention, OnceUpdate
from .parameters import F32, Layer, Parameters, Vectors

if TYPE_CHECKING:
    from .low_rank import LowRank
    from .mixed import Mixed

HEAD_DIM = CROSS_ATTENTION_DIM // DECODER_HEADS
HEAD_SCALE = np.float32(HEAD_DIM**-0.5)
# Up to so many tokens of a prompt their weights are the low-rank form's basis; for more, the channels that they mix.
FEW_TOKENS = 14
# Up to so many the image of one prompt is updated as it is; for more, projecting it first costs less.
ONCE_TOKENS = 36
# What the low-rank form is made of, when that is first wanted; the checkpoint is let go after loading.
LOW_RANK_TENSORS = (
    "cross_attn_image_to_token",
    "cross_attn_token_to_image",
    "final_attn",
    "norm4",
    "output_upscaling.0",
)
# Prompts whose tokens go through the transformer together, while they have few: four of a point each are 28 rows.
TOGETHER = 4


@dataclass(frozen=True, eq=False)
class ImageTokens:
    """The image as the decoder first sees it: features (N, 256) and dense, (N, 256) or (256,), to be added; whether it
    serves one prompt; its positional encoding. And what the low-rank form starts from, made when that is first wanted.
    """

    features: F32
    dense: F32
    once: bool
    positions: Positions
    project: Callable[[F32, Positions], ProjectedImage]

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


@dataclass(frozen=True, slots=True, eq=False)
class ProjectedImage:
    """What the updates in low rank start from: the image's maps and those of the positional encoding.

    27 MB of an image's own.
    """

    decoder: MaskDecoder  # which has the constants
    maps: ImageMaps
    pe_maps: ImageMaps


class SelfAttention:
    """Attention among each prompt's tokens (P, T, 256), projected, with the LayerNorm that follows."""

    def __init__(self, p: Parameters, norm: Vectors) -> None:
        projections = (p.linear(f"{name}_proj") for name in ("q", "k", "v", "out"))
        self.layers = [(layer.weight, layer.bias) for layer in projections]
        self.norm = norm

    def __call__(self, x: F32, values: F32, residual: F32 | None, threads: int) -> F32:
        """x: what queries and keys are made of."""
        return kernels.self_attention(
            x, values, self.layers, residual, (self.norm.weight, self.norm.bias),
            heads=DECODER_HEADS, eps=LAYER_NORM_EPS, threads=threads,
        )  # fmt: skip


class TokenToImage:
    """Tokens (P, T, 256) attending to the image; ``attended`` (P, T, 128): what heads mixed, not yet projected back."""

    def __init__(self, p: Parameters) -> None:
        self.q_proj, self.out_proj = p.linear("q_proj"), p.linear("out_proj")
        self.once, self.isa = OnceAttention.of(p), kernels.isa.current()

    def queries(self, tokens: F32, threads: int) -> F32:
        """The tokens' queries (P, T, 128), scaled."""
        return _linear(tokens, self.q_proj, threads) * HEAD_SCALE

    def project(self, attended: F32, residual: F32, norm: Vectors, threads: int) -> F32:
        return _linear(attended, self.out_proj, threads, residual, norm)


class ImageToToken:
    """The image attending to the tokens, with the shortcut and LayerNorm that follow."""

    def __init__(self, p: Parameters, norm: Vectors) -> None:
        self.k_proj, self.v_proj = p.linear("k_proj"), p.linear("v_proj")
        self.once, self.isa = OnceUpdate.of(p, norm.weight, norm.bias), kernels.isa.current()

    def keys_values(self, tokens: F32, token_pe: F32, threads: int) -> tuple[F32, F32]:
        """The tokens' keys, scaled, and values (P, T, 128)."""
        k = _linear(tokens + token_pe, self.k_proj, threads) * HEAD_SCALE
        return k, _linear(tokens, self.v_proj, threads)


class TwoWayAttentionBlock:
    """Self-attention of the tokens, tokens to image, MLP, image to tokens; each with shortcut and LayerNorm."""

    def __init__(self, p: Parameters, *, skip_first_layer_pe: bool) -> None:
        self.skip_first_layer_pe = skip_first_layer_pe
        self.self_attn = SelfAttention(p / "self_attn", p.norm("norm1"))
        self.cross_attn_token_to_image = TokenToImage(p / "cross_attn_token_to_image")
        self.cross_attn_image_to_token = ImageToToken(p / "cross_attn_image_to_token", p.norm("norm4"))
        self.lin1, self.lin2 = p.linear("mlp.lin1"), p.linear("mlp.lin2")
        self.norm2, self.norm3 = p.norm("norm2"), p.norm("norm3")

    def attend_self(self, queries: F32, query_pe: F32, threads: int) -> F32:
        if self.skip_first_layer_pe:
            return self.self_attn(queries, queries, None, threads)
        return self.self_attn(queries + query_pe, queries, queries, threads)

    def digest(self, queries: F32, attended: F32, threads: int) -> F32:
        """What the tokens saw of the image, added, then their MLP."""
        queries = self.cross_attn_token_to_image.project(attended, queries, self.norm2, threads)
        hidden = kernels.linear(queries, self.lin1.weight, self.lin1.bias, activation="relu", threads=threads)
        return _linear(hidden, self.lin2, threads, queries, self.norm3)


class TwoWayTransformer:
    """Two blocks, then a last attention from the tokens to the image.

    An image's update by one block and the attention of the next one's tokens to the result are one pass over the image:
    those tokens' queries do not depend on it.
    """

    def __init__(self, p: Parameters) -> None:
        self.layers = [TwoWayAttentionBlock(p / "layers" / i, skip_first_layer_pe=i == 0) for i in range(DECODER_DEPTH)]
        self.final_attn_token_to_image = TokenToImage(p / "final_attn_token_to_image")
        self.norm_final_attn = p.norm("norm_final_attn")

    def __call__(
        self, image: ImageTokens, tokens: F32, kept: NDArray[np.intp], threads: int
    ) -> tuple[F32, Sequence[UpdatedImage | MixedImage | ImageMaps]]:
        """Of prompts' tokens (P, T, 256) those that are ``kept`` (P, K, 256), and P images, in low rank or as maps.

        P is 1 for more than FEW_TOKENS, and for an image that serves one prompt. The last attention leaves out the
        tokens whose answer nobody reads.
        """
        first, second = self.layers
        last = self.final_attn_token_to_image
        updated: LowRankUpdates | MixedUpdates | OnceUpdates
        if image.once and tokens.shape[1] <= ONCE_TOKENS:
            updated = OnceUpdates(image, threads)
        elif tokens.shape[1] > FEW_TOKENS:
            updated = MixedUpdates(image.projected, threads)
        else:
            updated = LowRankUpdates(image.projected, threads)
        queries = first.attend_self(tokens, tokens, threads)
        attended = updated.look(first.cross_attn_token_to_image, queries + tokens)
        before = first.digest(queries, attended, threads)
        queries = second.attend_self(before, tokens, threads)
        attended = updated.attend(
            first.cross_attn_image_to_token, second.cross_attn_token_to_image, before, tokens, queries + tokens
        )
        before = second.digest(queries, attended, threads)
        queries, own = before.take(kept, axis=1), tokens.take(kept, axis=1)
        attended = updated.attend(second.cross_attn_image_to_token, last, before, tokens, queries + own)
        return last.project(attended, queries, self.norm_final_attn, threads), updated.images


class ProjectedUpdates:
    """What the two kinds of low rank share: the attention to the image before it is updated."""

    def __init__(self, image: ProjectedImage, threads: int) -> None:
        self._image, self._threads = image, threads

    def look(self, attention: TokenToImage, asking: F32) -> F32:
        """The tokens ``asking``, with their positional encoding, attend to the image."""
        constants, queries = self._image.decoder.constants, attention.queries(asking, self._threads)
        return kernels.attend_image(
            self._image.maps, constants.before_at, queries, constants.before_bias,
            isa=attention.isa, threads=self._threads,
        )  # fmt: skip


class LowRankUpdates(ProjectedUpdates):
    """The image as each prompt updates it, in low rank."""

    _images: list[UpdatedImage] | None = None

    def __init__(self, image: ProjectedImage, threads: int) -> None:
        super().__init__(image, threads)
        constants = image.decoder.constants
        self._updates = iter((constants.first, constants.second))

    @property
    def images(self) -> list[UpdatedImage]:
        assert self._images is not None, "no update yet"
        return self._images

    def attend(self, update: ImageToToken, attention: TokenToImage, tokens: F32, token_pe: F32, asking: F32) -> F32:
        """Update the image, and let the tokens ``asking``, with their positional encoding, attend to it."""
        keys, values = update.keys_values(tokens, token_pe, self._threads)
        self._images, attended = kernels.update_image(
            self._image.maps, self._image.pe_maps, next(self._updates), keys, values,
            attention.queries(asking, self._threads), self._images,
            channels=EMBED_DIM, eps=LAYER_NORM_EPS, isa=update.isa, threads=self._threads,
        )  # fmt: skip
        return attended


class MixedUpdates(ProjectedUpdates):
    """The image as one prompt of many tokens updates it, in low rank."""

    images: Sequence[MixedImage] = ()

    def __init__(self, image: ProjectedImage, threads: int) -> None:
        super().__init__(image, threads)
        mixed = image.decoder.mixed
        self._updates = iter((mixed.first, mixed.second))

    def attend(self, update: ImageToToken, attention: TokenToImage, tokens: F32, token_pe: F32, asking: F32) -> F32:
        """As that of `LowRankUpdates`."""
        (keys,), (values,) = update.keys_values(tokens, token_pe, self._threads)
        (queries,) = attention.queries(asking, self._threads)
        image, attended = kernels.update_image_mixed(
            self._image.maps, self._image.pe_maps, next(self._updates), keys, values, queries, *self.images,
            channels=EMBED_DIM, eps=LAYER_NORM_EPS, threads=self._threads,
        )  # fmt: skip
        self.images = [image]
        return attended[None]


class OnceUpdates:
    """The image, its channels as maps, as one prompt updates it; nothing is made of it for others."""

    def __init__(self, image: ImageTokens, threads: int) -> None:
        self.images, self._pe, self._threads = (
            [kernels.turn_image(image.features, image.dense, threads=threads)],
            image.positions.turned,
            threads,
        )

    def look(self, attention: TokenToImage, asking: F32) -> F32:
        """As that of `ProjectedUpdates`."""
        return self._pass(attention, asking)

    def attend(self, update: ImageToToken, attention: TokenToImage, tokens: F32, token_pe: F32, asking: F32) -> F32:
        """As that of `LowRankUpdates`."""
        (keys,), (values,) = update.keys_values(tokens, token_pe, self._threads)
        return self._pass(attention, asking, update.once, keys, values)

    def _pass(self, attention: TokenToImage, asking: F32, *update: Any) -> F32:
        (queries,) = attention.queries(asking, self._threads)
        image, attended = kernels.update_image_once(
            self.images[0], self._pe, attention.once, queries, *update,
            eps=LAYER_NORM_EPS, isa=attention.isa, threads=self._threads,
        )  # fmt: skip
        self.images = [image]
        return attended[None]


class MaskDecoder:
    """Image features and a prompt's embeddings to mask logits and scores; what is made once is made when first used."""

    def __init__(self, weights: Mapping[str, NDArray[np.generic]], threads: int, precision: str = "fp32") -> None:
        p = Parameters(weights, precision) / "mask_decoder"
        self.threads, self.precision, self.isa = threads, p.precision, kernels.isa.current()
        self.transformer = TwoWayTransformer(p / "transformer")
        self.output_tokens = np.concatenate([p.tensor("iou_token.weight"), p.tensor("mask_tokens.weight")])
        self.upscale1, self.upscale2 = (p.transposed(f"output_upscaling.{i}") for i in (0, 3))
        self.upscale_norm = p.norm("output_upscaling.1")
        self.output_hypernetworks_mlps = [_mlp(p / "output_hypernetworks_mlps" / i) for i in range(MASK_TOKENS)]
        self.iou_prediction_head = _mlp(p / "iou_prediction_head")
        kept = {name: weights[name] for name in weights if any(part in name for part in LOW_RANK_TENSORS)}
        self._low_rank = Parameters(kept, precision) / "mask_decoder"
        self._positions: tuple[F32, Positions] | None = None

    @cached_property
    def constants(self) -> LowRank:
        """Of the updates in low rank; made with the first image."""
        from .low_rank import decoder_constants

        return decoder_constants(self._low_rank, self.precision, self.isa, self.threads)

    @cached_property
    def mixed(self) -> Mixed:
        """Of the same updates by prompts of many tokens; made with the first of those."""
        from .mixed import mixed

        return mixed(self.constants, self.isa)

    def image_tokens(self, features: F32, image_pe: F32, dense: F32, *, reuse: bool) -> ImageTokens:
        """What a prompt's decoding starts from; with ``reuse``, prepared for many prompts.

        features, image_pe (64, 64, 256); dense (64, 64, 256), or (256,) the same everywhere. image_pe is one array
        for all images, of which some is kept.
        """
        if self._positions is None or self._positions[0] is not image_pe:
            self._positions = image_pe, Positions(image_pe.reshape(-1, EMBED_DIM), self._project_pe)
        _, positions = self._positions
        dense = dense if dense.ndim == 1 else dense.reshape(-1, EMBED_DIM)
        return ImageTokens(features.reshape(-1, EMBED_DIM), dense, not reuse, positions, self._project)

    def _project(self, x: F32, positions: Positions) -> ProjectedImage:
        constants, pe_maps = self.constants, positions.projected
        maps = kernels.project_image(
            x,
            constants.shift,
            constants.scale,
            constants.rows,
            (pe_maps, 2 * CROSS_ATTENTION_DIM),
            threads=self.threads,
        )
        return ProjectedImage(self, maps, pe_maps)

    def _project_pe(self, pe: F32) -> ImageMaps:
        constants = self.constants
        maps = kernels.project_image(pe, None, None, constants.pe_rows, threads=self.threads)
        maps.data[:, : len(constants.pe_bias)] += constants.pe_bias[:, None]
        return maps

    def candidates(self, image: ImageTokens, sparse: Iterable[F32], *, multimask: bool) -> Iterator[Candidates]:
        """What each prompt's masks will be, in order: their scores, and the means to draw them.

        sparse: the prompts' tokens, (T, 256) each, of which there may be none; a few are taken ahead. The candidates
        are the mask tokens 1 to 3 with ``multimask``, else token 0.
        """
        wanted = range(1, MASK_TOKENS) if multimask else range(1)
        kept = np.array([0, *(1 + i for i in wanted)], np.intp)
        prompts = (np.concatenate([self.output_tokens, prompt]) for prompt in sparse)
        for tokens in _together(prompts, image):
            queries, images = self.transformer(image, tokens, kept, self.threads)
            (scores,) = kernels.token_mlps(queries[None, :, 0], [self.iou_prediction_head], threads=self.threads)
            scores = scores[:, wanted.start : wanted.stop]
            for one, kept_tokens, x in zip(scores, queries, images):
                yield Candidates(one.copy(), wanted, kept_tokens[1:], image, x, self)

    def _draw(
        self, image: ImageTokens, x: UpdatedImage | MixedImage | ImageMaps, tokens: F32, indices: Sequence[int]
    ) -> F32:
        """The logits (C, 256, 256) of mask tokens (C, 256), the indices-th of the model, on the updated image x."""
        threads, mlps = self.threads, [self.output_hypernetworks_mlps[i] for i in indices]
        hyper = kernels.token_mlps(tokens[:, None], mlps, threads=threads)[:, 0]
        update: UpdatedImage | MixedImage | None = None
        if isinstance(x, ImageMaps):
            maps, at, rows, shift = x, 0, self.upscale1.weight, np.tile(self.upscale1.bias, 4)
        else:
            constants = self.constants
            maps, at, update, shift = image.projected.maps, constants.last_at, x, constants.last_shift
            if isinstance(x, MixedImage):
                rows = self.mixed.last_rows
            else:
                rows = kernels.update_rows(x, constants.last_basis, isa=self.isa)
        return kernels.upscale_masks(
            (maps, at, (EMBED_SIZE, EMBED_SIZE)), self.upscale_norm.weight, self.upscale_norm.bias,
            self.upscale2.weight, self.upscale2.bias, hyper, update=update, rows=rows, shift=shift,
            eps=LAYER_NORM_2D_EPS, threads=threads,
        )  # fmt: skip


def _together(prompts: Iterable[F32], image: ImageTokens) -> Iterator[F32]:
    """Tokens (P, T, 256) of prompts (T, 256) in a row that have as many, which share their passes over the image."""
    for tokens, alike in groupby(prompts, key=len):
        most = TOGETHER if tokens <= FEW_TOKENS and not image.once else 1
        while group := list(islice(alike, most)):
            yield group[0][None] if len(group) == 1 else np.stack(group)


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """The masks that would answer a prompt, with their scores (C,); none is drawn yet."""

    scores: F32
    _indices: Sequence[int]
    _tokens: F32
    _image: ImageTokens
    _updated: UpdatedImage | MixedImage | ImageMaps
    _decoder: MaskDecoder

    def draw(self, wanted: Sequence[int] | None = None) -> F32:
        """low_res (W, 256, 256) of the ``wanted`` ones, by their place in ``scores``; of all by default."""
        tokens, indices = self._tokens, self._indices
        if wanted is not None:
            tokens, indices = tokens[list(wanted)], [indices[i] for i in wanted]
        return self._decoder._draw(self._image, self._updated, tokens, indices)


def _mlp(p: Parameters) -> list[tuple[Panels, F32 | None]]:
    layers = (p.linear(f"layers.{i}") for i in range(3))
    return [(layer.weight, layer.bias) for layer in layers]


def _linear(x: F32, layer: Layer, threads: int, residual: F32 | None = None, norm: Vectors | None = None) -> F32:
    return kernels.linear(
        x, layer.weight, layer.bias, residual=residual, norm=None if norm is None else (norm.weight, norm.bias),
        eps=LAYER_NORM_EPS, threads=threads,
    )  # fmt: skip
