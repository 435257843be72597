"""The mask decoder: a two-way transformer between prompt tokens and the image, then upscaling and scores.

Source: the reference's modeling/mask_decoder.py, with its class and tensor names. All arrays are float32. A prompt has
T tokens of 256 channels, and the image has 4096.
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
from .answers import Candidates, DecodePlan, DrawPlan, PlanCache
from .decoder_image import DecoderImage, OutputUpscaling
from .low_rank_image import FEW_TOKENS, LowRankForm, LowRankImage
from .parameters import F32, Layer, Parameters, Tensors
from .plain_image import PlainForm, PlainImage
from .two_way_transformer import TwoWayTransformer

# The mask tokens that give the candidates of a prompt, for each value of ``multimask``.
CANDIDATES = {False: range(1), True: range(1, MASK_TOKENS)}
# The most prompts in one plan of the low-rank form. Each chunk of the image is read once for all of them.
TOGETHER = 4
# The number of linear layers in a hypernetwork and in the IoU prediction head.
HEAD_LAYERS = 3
# The most unused plans of each kind that are kept. The arrays of a plan take 5 to 30 MB.
PLANS = 4


class MaskDecoder:
    """Computes mask logits and scores from image features and prompt tokens. Threads may share one MaskDecoder."""

    def __init__(
        self, weights: Tensors, image_pe: F32, no_mask_embed: F32, threads: int, precision: str, images: int
    ) -> None:
        """Pack the weights.

        Args:
            weights: a checkpoint's tensors by their reference names.
            image_pe: (64, 64, 256), the positional encoding of the image tokens.
            no_mask_embed: (256,), added to each image token if the prompt has no mask.
            threads: number of threads of each plan.
            precision: precision of the products, "fp32" or "bf16".
            images: number of images whose maps are kept.
        """
        p = Parameters(weights, precision) / "mask_decoder"
        self.threads, self.precision, self.isa = threads, p.precision, kernels.isa.current()
        self.transformer = TwoWayTransformer(p / "transformer")
        self.output_tokens = np.concatenate([p.tensor("iou_token.weight"), p.tensor("mask_tokens.weight")])
        self.output_hypernetworks_mlps = [_layers(p / "output_hypernetworks_mlps" / i) for i in range(MASK_TOKENS)]
        self.iou_prediction_head = _layers(p / "iou_prediction_head")
        upscaling = OutputUpscaling(p / "output_upscaling")
        # The constants of the low-rank form are computed at the first prompt that needs them. The checkpoint may be
        # closed by then, so `kept` holds the tensors.
        kept = {name: weights[name] for name in weights if "_attn_" in name or "norm4" in name}
        low_rank = Parameters(kept, precision) / "mask_decoder"
        forms = image_pe, no_mask_embed, upscaling, self.isa, threads
        self.plain = PlainForm(p / "transformer", *forms)
        self.low_rank = LowRankForm(low_rank / "transformer", *forms, images)
        self._decode_plans: PlanCache[DecodePlan] = PlanCache(PLANS)
        self._draw_plans: PlanCache[DrawPlan] = PlanCache(PLANS)

    def candidates(self, image: DecoderImage, prompts: Iterable[F32], *, multimask: bool) -> Iterator[Candidates]:
        """Decode prompts, without drawing their masks.

        Args:
            image: the image, with the mask of the prompts if they have one.
            prompts: the tokens (T, 256) of each prompt, from points and boxes; T may be 0. Prompts are read ahead in
                groups of up to `TOGETHER`.
            multimask: whether a prompt has three candidates (mask tokens 1 to 3) or one (mask token 0).

        Yields:
            The candidates of each prompt, in order. Draw the candidates of a prompt before you take those of the next.
        """
        for length, alike in groupby(prompts, key=len):
            few = image.kept and image.dense is None and len(self.output_tokens) + length <= FEW_TOKENS
            while group := list(islice(alike, TOGETHER if few else 1)):
                tokens = np.stack([np.concatenate([self.output_tokens, prompt]) for prompt in group])
                key = few, image.dense is None, image.kept, tokens.shape, bool(multimask)
                plan = self._decode_plans.take(key, partial(self._record, image, few, tokens.shape, multimask))
                yield from plan.candidates(image, tokens, self._draw_plans)
                self._decode_plans.give(key, plan)

    def masks(self, image: DecoderImage, prompts: Iterable[F32], *, multimask: bool) -> Iterator[tuple[F32, F32]]:
        """Decode prompts and draw the masks of all candidates. The arguments are those of `candidates`.

        Yields:
            The scores (K,) and mask logits (K, 256, 256) of the K candidates of each prompt, in order.
        """
        for candidates in self.candidates(image, prompts, multimask=multimask):
            yield candidates.scores, candidates.draw()

    def _record(self, image: DecoderImage, few: bool, shape: tuple[int, ...], multimask: bool) -> DecodePlan:
        plan, wanted = Plan(isa=self.isa, threads=self.threads), CANDIDATES[multimask]
        tokens, low_rank = plan.given(*shape), self.low_rank
        planned = LowRankImage(plan, low_rank) if few else PlainImage(plan, self.plain, low_rank, image)
        hs = self.transformer(plan, tokens, planned, [0, *(1 + i for i in wanted)])
        scores, *hyper = self._heads(plan, hs, wanted)
        return DecodePlan(plan, tokens, planned, scores, hyper, wanted)

    def _heads(self, plan: Plan, hs: Array, wanted: Sequence[int]) -> list[Array]:
        """Record the heads that follow the transformer.

        Args:
            plan: the plan.
            hs: Array (P, 1 + K, 256), the IoU token and the K mask tokens ``wanted``.
            wanted: numbers of the mask tokens.

        Returns:
            The scores of all masks (P, 1, 4), then for each wanted mask the output of its hypernetwork (P, 1, 32).
        """
        mlps = [self.iou_prediction_head, *(self.output_hypernetworks_mlps[i] for i in wanted)]
        xs = [plan.take(hs, [i]) for i in range(len(mlps))]
        for i in range(HEAD_LAYERS):
            activation: Activation = "relu" if i < HEAD_LAYERS - 1 else None
            xs = [plan.linear(x, *layers[i], activation=activation) for x, layers in zip(xs, mlps, strict=True)]
        return xs


def _layers(p: Parameters) -> list[Layer]:
    return [p.linear(f"layers.{i}") for i in range(HEAD_LAYERS)]
