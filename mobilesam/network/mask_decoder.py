"""The mask decoder: a two-way transformer between prompt tokens and the image, then upscaling and scores.

Source: the reference's modeling/mask_decoder.py; names are theirs. Prompt tokens are (T, 256), the image N = 4096
tokens of 256 channels; float32.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, groupby, islice
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .. import kernels
from ..architecture import CROSS_ATTENTION_DIM, EMBED_DIM, EMBED_SIZE, LAYER_NORM_2D_EPS, LOW_RES, MASK_TOKENS
from ..kernels import ImageMaps, MapRows, MixedImage, Queue, Slot, UpdatedImage, steps
from .parameters import F32, Layer, Parameters
from .two_way_transformer import Answer, Phases, TwoWayTransformer, mlp
from .updates import ImageTokens, Positions, ProjectedImage, Updated, begin_updates, most_together

if TYPE_CHECKING:
    from .low_rank import LowRank
    from .mixed import Mixed

# What the low-rank form is made of, when that is first wanted; the checkpoint is let go after loading.
LOW_RANK_TENSORS = (
    "cross_attn_image_to_token",
    "cross_attn_token_to_image",
    "final_attn",
    "norm4",
    "output_upscaling.0",
)
# The mask tokens that answer a prompt, by whether it wants several.
CANDIDATES = {False: range(1), True: range(1, MASK_TOKENS)}


class MaskDecoder:
    """Image features and a prompt's embeddings to mask logits and scores; what is made once is made when first used."""

    def __init__(self, weights: Mapping[str, NDArray[np.generic]], threads: int, precision: str = "fp32") -> None:
        p = Parameters(weights, precision) / "mask_decoder"
        self.threads, self.precision, self.isa = threads, p.precision, kernels.isa.current()
        self.transformer = TwoWayTransformer(p / "transformer")
        self.output_tokens = np.concatenate([p.tensor("iou_token.weight"), p.tensor("mask_tokens.weight")])
        self.upscale1, self.upscale2 = (p.transposed(f"output_upscaling.{i}") for i in (0, 3))
        self._upscale1_shift = np.tile(self.upscale1.bias, 4)
        self.upscale_norm = p.norm("output_upscaling.1")
        self.output_hypernetworks_mlps = [_layers(p / "output_hypernetworks_mlps" / i) for i in range(MASK_TOKENS)]
        self.iou_prediction_head = _layers(p / "iou_prediction_head")
        self._answers = {multimask: self._with_heads(wanted) for multimask, wanted in CANDIDATES.items()}
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
        for tokens, alike in groupby(sparse, key=len):
            most = most_together(image, len(self.output_tokens) + tokens)
            while prompts := list(islice(alike, most)):
                queue = kernels.Queue()
                answers = self._answer(image, self.tokens(prompts), queue, multimask=multimask)
                queue.run(threads=self.threads)
                yield from answers

    def masks(self, image: ImageTokens, prompt: F32, *, multimask: bool) -> tuple[F32, F32]:
        """The scores (C,) and low_res (C, 256, 256) of a prompt's candidates, (T, 256)."""
        alike = len(prompt), bool(multimask)
        prepared = image.prepared.pop(alike, None) or Prepared(self, image, *alike)  # no other thread has it now
        answer = prepared(prompt)
        image.prepared.clear()
        image.prepared[alike] = prepared
        return answer

    def all_masks(self, image: ImageTokens, sparse: Iterable[F32], *, multimask: bool) -> Iterator[tuple[F32, F32]]:
        """As `masks`, of each prompt in order; drawn when taken."""
        prompts = iter(sparse)
        if len(two := list(islice(prompts, 2))) == 1:
            yield self.masks(image, two[0], multimask=multimask)
            return
        for candidates in self.candidates(image, chain(two, prompts), multimask=multimask):
            yield candidates.scores, candidates.draw()

    def tokens(self, prompts: Sequence[F32]) -> F32:
        """The transformer's (P, 5 + T, 256) of prompts (T, 256)."""
        return np.stack([np.concatenate([self.output_tokens, prompt]) for prompt in prompts])

    def _answer(self, image: ImageTokens, tokens: F32, queue: Queue, *, multimask: bool) -> list[Candidates]:
        """The candidates of prompts with these tokens, when the queue has run."""
        answer, wanted = self._answers[bool(multimask)], CANDIDATES[bool(multimask)]
        updates = begin_updates(image, tokens.shape[1], self.transformer.once, self.isa, queue)
        (scores, hyper), images = answer(updates, tokens, queue)
        return [
            Candidates(scores[i, 0, wanted.start : wanted.stop], hyper[i], image, x, self) for i, x in enumerate(images)
        ]

    def _with_heads(self, wanted: Sequence[int]) -> Answer:
        """The transformer, and of its tokens all scores (P, 1, 4) and what draws each mask ``wanted``, (P, C, 32)."""
        heads = [("scores", 0, self.iou_prediction_head)]
        heads += [(f"mask{i}", 1 + i, self.output_hypernetworks_mlps[i]) for i in wanted]
        rows = [0, *(1 + i for i in wanted)]
        take: list[steps.Step] = [steps.Take(f"token{i}", "answers", (rows.index(i),)) for _, i, _ in heads]
        layers = (mlp(name, f"token{i}", own) for name, i, own in heads)
        phases: Phases = [take, *([step for (step,) in side_by_side] for side_by_side in zip(*layers))]
        phases.append([steps.Stack("hyper", tuple(name for name, _, _ in heads[1:]))])
        return self.transformer.answer(rows, phases, ["scores", "hyper"])

    def _draw(
        self, image: ImageTokens, x: Updated, hyper: F32, queue: Queue | None = None, out: Slot | None = None
    ) -> F32:
        """The logits (C, 256, 256) of masks by what draws each, (C, 32), on the updated image x."""
        update: UpdatedImage | MixedImage | None = None
        rows: MapRows | None
        if isinstance(x, ImageMaps):
            maps, at, rows, shift = x, 0, self.upscale1.weight, self._upscale1_shift
        else:
            constants = self.constants
            maps, at, update, shift = image.projected.maps, constants.last_at, x, constants.last_shift
            rows = self.mixed.last_rows if isinstance(x, MixedImage) else x.rows
        return kernels.upscale_masks(
            (maps, at, (EMBED_SIZE, EMBED_SIZE)), self.upscale_norm.weight, self.upscale_norm.bias,
            self.upscale2.weight, self.upscale2.bias, hyper, update=update, rows=rows, shift=shift,
            eps=LAYER_NORM_2D_EPS, out=out, queue=queue, threads=self.threads,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """The masks that would answer a prompt, with their scores (C,); none is drawn yet."""

    scores: F32
    _hyper: F32  # (C, 32)
    _image: ImageTokens
    _updated: Updated
    _decoder: MaskDecoder

    def draw(self, wanted: Sequence[int] | None = None) -> F32:
        """low_res (W, 256, 256) of the ``wanted`` ones, by their place in ``scores``; of all by default."""
        hyper = self._hyper if wanted is None else self._hyper[list(wanted)]
        return self._decoder._draw(self._image, self._updated, hyper)

    def draw_to(self, out: Slot, queue: Queue) -> None:
        """As `draw`, of all, in each run of the queue, which may be the one that makes the candidates."""
        self._decoder._draw(self._image, self._updated, self._hyper, queue, out)


class Prepared:
    """The decoding of a prompt, laid out for any that has as many tokens: its kernels' calls are made by one run.

    So a further prompt runs little of Python, whose code and data each click finds driven out of the caches.
    """

    def __init__(self, decoder: MaskDecoder, image: ImageTokens, tokens: int, multimask: bool) -> None:
        self._queue, self._threads, self._first = kernels.Queue(), decoder.threads, len(decoder.output_tokens)
        self._tokens = decoder.tokens([np.empty((tokens, EMBED_DIM), np.float32)])
        (candidates,) = decoder._answer(image, self._tokens, self._queue, multimask=multimask)
        self._scores = candidates.scores
        self._low_res = kernels.Slot((len(self._scores), LOW_RES, LOW_RES))
        candidates.draw_to(self._low_res, self._queue)

    def __call__(self, prompt: F32) -> tuple[F32, F32]:
        """The scores (C,) and low_res (C, 256, 256) of a prompt (T, 256). By one thread at a time."""
        self._tokens[0, self._first :] = prompt
        self._queue.run(threads=self._threads)
        return self._scores.copy(), self._low_res.take()


def _layers(p: Parameters) -> list[Layer]:
    return [p.linear(f"layers.{i}") for i in range(3)]
