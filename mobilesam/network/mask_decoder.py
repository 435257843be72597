"""The mask decoder: a two-way transformer between prompt tokens and the image, then upscaling and scores.

Source: the reference's modeling/mask_decoder.py, with its class and tensor names. All arrays are float32. A prompt has
T tokens and the image has 4096 tokens. Every token has 256 channels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby, islice

import numpy as np

from .. import kernels
from ..architecture import MASK_TOKENS, MOBILE_SAM, Architecture
from ..kernels import Array, Plan
from ..kernels.core.check import F32, Activation
from .answers import Candidates, DecodePlan, DrawPlan, PlanCache
from .decoder_image import DecoderImage, OutputUpscaling
from .hq import HqCandidate, HqToken
from .low_rank_image import FEW_TOKENS, LowRankForm, LowRankImage
from .parameters import PackedLayer, Parameters, Tensors
from .plain_image import PlainForm, PlainImage
from .two_way_transformer import TwoWayTransformer

# The mask tokens that give the candidates of a prompt, for each value of ``multimask``.
CANDIDATES = {False: range(1), True: range(1, MASK_TOKENS)}
# The maximum number of prompts in a plan of the low-rank form. A plan reads the image once for all its prompts.
TOGETHER = 4
# The number of linear layers in a hypernetwork and in the IoU prediction head.
HEAD_LAYERS = 3
# The maximum number of unused plans that a PlanCache keeps. The arrays of a plan take 5 to 30 MB.
PLANS = 4


class MaskDecoder:
    """Computes mask logits and scores from image features and prompt tokens. Threads may share one MaskDecoder."""

    def __init__(
        self,
        weights: Tensors,
        image_pe: F32,
        no_mask_embed: F32,
        threads: int,
        precision: str,
        images: int,
        architecture: Architecture = MOBILE_SAM,
    ) -> None:
        """Pack the weights.

        Args:
            weights: a checkpoint's tensors by their reference names.
            image_pe: (64, 64, 256), the positional encoding of the image tokens.
            no_mask_embed: (256,), added to each image token if the prompt has no mask.
            threads: number of threads of each plan.
            precision: precision of the products, "fp32" or "bf16".
            images: maximum number of images whose maps (channel-major projections) are kept.
            architecture: the architecture of the network.
        """
        p = Parameters(weights, precision) / "mask_decoder"
        self.threads, self.precision, self.isa = threads, p.precision, kernels.isa.current()
        self.transformer = TwoWayTransformer(p / "transformer")
        self.output_tokens = np.concatenate([p.tensor("iou_token.weight"), p.tensor("mask_tokens.weight")])
        self.output_hypernetworks_mlps = [_layers(p / "output_hypernetworks_mlps" / i) for i in range(MASK_TOKENS)]
        self.iou_prediction_head = _layers(p / "iou_prediction_head")
        self.hq: HqToken | None = None
        if architecture.hq:
            self.hq = HqToken(p, threads)
            self.output_tokens = np.concatenate([self.output_tokens, p.tensor("hf_token.weight")])
            self.output_hypernetworks_mlps.append(_layers(p / "hf_mlp"))
        upscaling = OutputUpscaling(p / "output_upscaling")
        # The constants of the low-rank form are computed from the tensors in `kept` when a prompt first needs them.
        # The tensors are kept because the checkpoint may be closed when the constants are computed.
        kept = {name: weights[name] for name in weights if "_attn_" in name or "norm4" in name}
        low_rank = Parameters(kept, precision) / "mask_decoder"
        forms = image_pe, no_mask_embed, upscaling, self.isa, threads
        self.plain = PlainForm(p / "transformer", *forms)
        self.low_rank = LowRankForm(low_rank / "transformer", *forms, images)
        self._decode_plans: PlanCache[DecodePlan] = PlanCache(PLANS)
        self._draw_plans: PlanCache[DrawPlan] = PlanCache(PLANS)

    def candidates(
        self, image: DecoderImage, prompts: Iterable[F32], *, multimask: bool, hq_token_only: bool = False
    ) -> Iterator[Candidates | HqCandidate]:
        """Decode prompts, without computing their masks.

        Args:
            image: the image, with the embedding of the prompts' input mask if the prompts have an input mask.
            prompts: the tokens (T, 256) of each prompt, from points and boxes. T may be 0. Up to
                `TOGETHER` prompts are read ahead.
            multimask: whether a prompt has three candidates (mask tokens 1 to 3) or one (mask token 0). A prompt of
                Light HQ-SAM has one candidate, the best of these plus the HQ token's mask.
            hq_token_only: whether a prompt of Light HQ-SAM has the HQ token's mask alone as its candidate.

        Yields:
            The candidates of each prompt, in the order of the prompts. Call `Candidates.draw` for a prompt before you
            take the candidates of the next prompt.
        """
        for length, alike in groupby(prompts, key=len):
            few = image.kept and image.dense is None and len(self.output_tokens) + length <= FEW_TOKENS
            while group := list(islice(alike, TOGETHER if few else 1)):
                tokens = np.stack([np.concatenate([self.output_tokens, prompt]) for prompt in group])
                key = few, image.dense is None, image.kept, tokens.shape, bool(multimask)
                plan = self._decode_plans.take(key, partial(self._record, image, few, tokens.shape, multimask))
                for candidates in plan.candidates(image, tokens, self._draw_plans):
                    if self.hq is None:
                        yield candidates
                    else:
                        assert image.hq is not None, "an image of Light HQ-SAM has HQ features"
                        yield self.hq.sharpen(candidates, image.hq, token_only=hq_token_only)
                self._decode_plans.give(key, plan)

    def masks(
        self, image: DecoderImage, prompts: Iterable[F32], *, multimask: bool, hq_token_only: bool = False
    ) -> Iterator[tuple[F32, F32]]:
        """Decode prompts and compute the masks of all candidates. The arguments are the same as for `candidates`.

        Yields:
            The scores (K,) and mask logits (K, 256, 256) of the K candidates of each prompt, in the
            order of the prompts.
        """
        for candidates in self.candidates(image, prompts, multimask=multimask, hq_token_only=hq_token_only):
            yield candidates.scores, candidates.draw()

    def _record(self, image: DecoderImage, few: bool, shape: tuple[int, ...], multimask: bool) -> DecodePlan:
        plan, wanted = Plan(isa=self.isa, threads=self.threads), CANDIDATES[multimask]
        tokens, low_rank = plan.given(*shape), self.low_rank
        planned = LowRankImage(plan, low_rank) if few else PlainImage(plan, self.plain, low_rank, image)
        mask_tokens = [*wanted, MASK_TOKENS] if self.hq else [*wanted]  # the HQ token follows the four mask tokens
        hs = self.transformer(plan, tokens, planned, [0, *(1 + i for i in mask_tokens)])
        scores, *hyper = self._heads(plan, hs, mask_tokens)
        return DecodePlan(plan, tokens, planned, scores, hyper, wanted)

    def _heads(self, plan: Plan, hs: Array, wanted: Sequence[int]) -> list[Array]:
        """Record the IoU prediction head and the hypernetworks, which follow the transformer.

        Args:
            plan: the plan.
            hs: Array (P, 1 + K, 256), the IoU token and the K mask tokens ``wanted``.
            wanted: numbers of the mask tokens that are candidates.

        Returns:
            The scores of all masks (P, 1, 4), then the output (P, 1, 32) of the hypernetwork of each wanted mask.
        """
        mlps = [self.iou_prediction_head, *(self.output_hypernetworks_mlps[i] for i in wanted)]
        xs = [plan.take(hs, [i]) for i in range(len(mlps))]
        for i in range(HEAD_LAYERS):
            activation: Activation = "relu" if i < HEAD_LAYERS - 1 else None
            xs = [plan.linear(x, *layers[i], activation=activation) for x, layers in zip(xs, mlps, strict=True)]
        return xs


def _layers(p: Parameters) -> list[PackedLayer]:
    return [p.linear(f"layers.{i}") for i in range(HEAD_LAYERS)]
