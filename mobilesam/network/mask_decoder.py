"""The mask decoder: a two-way transformer between prompt tokens and the image, then upscaling and scores.

Source: the reference's modeling/mask_decoder.py; names are theirs. Prompt tokens are (T, 256), the image N = 4096
tokens of 256 channels; float32.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby, islice

import numpy as np

from .. import kernels
from ..architecture import MASK_TOKENS
from ..kernels import Array, Plan
from ..kernels.core.check import Activation
from .answers import Answer, Candidates, Drawing, PlanCache
from .decoder_image import DecoderImage, OutputUpscaling
from .low_rank_image import FEW_TOKENS, LowRankForm, LowRankImage
from .parameters import F32, Layer, Parameters, Tensors
from .plain_image import PlainForm, PlainImage
from .two_way_transformer import TwoWayTransformer

# The mask tokens that answer a prompt, by whether it wants several.
CANDIDATES = {False: range(1), True: range(1, MASK_TOKENS)}
# Prompts that share their passes over the image, while they have few tokens: four of a point each are 28 rows.
TOGETHER = 4
# Linear layers of a hypernetwork, and of the head of scores.
HEAD_LAYERS = 3
# Plans of each kind that wait for their next use; a plan's arrays take 5 to 30 MB.
PLANS = 4


class MaskDecoder:
    """Image features and a prompt's embeddings to mask logits and scores. Any number of threads may use it at once.

    image_pe: (64, 64, 256), the positional encoding of the image's tokens. no_mask_embed: (256,), added to each image
    token where a prompt has no mask. images: how many images' maps are kept.
    """

    def __init__(
        self, weights: Tensors, image_pe: F32, no_mask_embed: F32, threads: int, precision: str, images: int
    ) -> None:
        p = Parameters(weights, precision) / "mask_decoder"
        self.threads, self.precision, self.isa = threads, p.precision, kernels.isa.current()
        self.transformer = TwoWayTransformer(p / "transformer")
        self.output_tokens = np.concatenate([p.tensor("iou_token.weight"), p.tensor("mask_tokens.weight")])
        self.output_hypernetworks_mlps = [_layers(p / "output_hypernetworks_mlps" / i) for i in range(MASK_TOKENS)]
        self.iou_prediction_head = _layers(p / "iou_prediction_head")
        upscaling = OutputUpscaling(p / "output_upscaling")
        # The low-rank form's constants are computed when a prompt first needs them. The checkpoint is closed then.
        kept = {name: weights[name] for name in weights if "_attn_" in name or "norm4" in name}
        low_rank = Parameters(kept, precision) / "mask_decoder"
        forms = image_pe, no_mask_embed, upscaling, self.isa, threads
        self.plain = PlainForm(p / "transformer", *forms)
        self.low_rank = LowRankForm(low_rank / "transformer", *forms, images)
        self._answers: PlanCache[Answer] = PlanCache(PLANS)
        self._drawings: PlanCache[Drawing] = PlanCache(PLANS)

    def candidates(self, image: DecoderImage, prompts: Iterable[F32], *, multimask: bool) -> Iterator[Candidates]:
        """The masks that would answer each prompt, in order, with their scores.

        prompts: their tokens, (T, 256) each, of which there may be none; a few are taken ahead. The candidates are the
        mask tokens 1 to 3 with ``multimask``, else token 0. Those of a prompt are to be drawn before the next is taken.
        """
        for length, alike in groupby(prompts, key=len):
            few = image.kept and image.dense is None and len(self.output_tokens) + length <= FEW_TOKENS
            while group := list(islice(alike, TOGETHER if few else 1)):
                tokens = np.stack([np.concatenate([self.output_tokens, prompt]) for prompt in group])
                key = few, image.dense is None, image.kept, tokens.shape, bool(multimask)
                answer = self._answers.take(key, partial(self._record, image, few, tokens.shape, multimask))
                yield from answer.candidates(image, tokens, self._drawings)
                self._answers.give(key, answer)

    def masks(self, image: DecoderImage, prompts: Iterable[F32], *, multimask: bool) -> Iterator[tuple[F32, F32]]:
        """The scores (C,) and low_res (C, 256, 256) of each prompt's candidates, in order; drawn when taken."""
        for candidates in self.candidates(image, prompts, multimask=multimask):
            yield candidates.scores, candidates.draw()

    def _record(self, image: DecoderImage, few: bool, shape: tuple[int, ...], multimask: bool) -> Answer:
        plan, wanted = Plan(isa=self.isa, threads=self.threads), CANDIDATES[multimask]
        tokens, low_rank = plan.given(*shape), self.low_rank
        planned = LowRankImage(plan, low_rank) if few else PlainImage(plan, self.plain, low_rank, image)
        hs = self.transformer(plan, tokens, planned, [0, *(1 + i for i in wanted)])
        scores, *hyper = self._heads(plan, hs, wanted)
        return Answer(plan, tokens, planned, scores, hyper, wanted)

    def _heads(self, plan: Plan, hs: Array, wanted: Sequence[int]) -> list[Array]:
        """Record the heads behind the transformer.

        hs: (P, 1 + W, 256), the IoU token and the W mask tokens ``wanted``. Returns the scores of all masks (P, 1, 4),
        and of each wanted mask the output of its hypernetwork (P, 1, 32).
        """
        mlps = [self.iou_prediction_head, *(self.output_hypernetworks_mlps[i] for i in wanted)]
        xs = [plan.take(hs, [i]) for i in range(len(mlps))]
        for i in range(HEAD_LAYERS):
            activation: Activation = "relu" if i < HEAD_LAYERS - 1 else None
            xs = [plan.linear(x, *layers[i], activation=activation) for x, layers in zip(xs, mlps, strict=True)]
        return xs


def _layers(p: Parameters) -> list[Layer]:
    return [p.linear(f"layers.{i}") for i in range(HEAD_LAYERS)]
