"""The two kinds of plans of the mask decoder: a DecodePlan decodes prompts, and a DrawPlan computes their masks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from .. import kernels
from ..architecture import EMBED_DIM, EMBED_SIZE, LOW_RES
from ..kernels import Array, Plan
from ..util.deferred import ForkSafeLock
from .decoder_image import DecoderImage, PlannedImage
from .parameters import F32

T = TypeVar("T")


class PlanCache(Generic[T]):
    """At most ``limit`` unused plans by key. A thread takes a plan out of the cache, runs it, and gives it back."""

    def __init__(self, limit: int) -> None:
        self._limit, self._plans, self._lock = limit, list[tuple[object, T]](), ForkSafeLock()

    def take(self, key: object, make: Callable[[], T]) -> T:
        """Return an unused plan with this key. If there is none, return a new plan from ``make``."""
        with self._lock:
            for i in reversed(range(len(self._plans))):
                if self._plans[i][0] == key:
                    return self._plans.pop(i)[1]
        return make()

    def give(self, key: object, plan: T) -> None:
        """Put a plan back into the cache. If the cache is full, drop the plan that was given back first."""
        with self._lock:
            self._plans.append((key, plan))
            del self._plans[: -self._limit]


class DecodePlan:
    """A plan that decodes P prompts of T tokens. It computes the scores, and the arrays that masks are computed from.

    Attributes:
        plan: the compiled plan.
        image: the part of the plan that computes with image tokens, `LowRankImage` or `PlainImage`.
        runs: how often the plan has run.
    """

    def __init__(
        self, plan: Plan, tokens: Array, image: PlannedImage, scores: Array, hyper: Sequence[Array], wanted: range
    ) -> None:
        """Compile the plan.

        Args:
            plan: the plan, in which all steps are recorded.
            tokens: given Array (P, T, 256), the prompts' tokens.
            image: the part of the plan that computes with image tokens, `LowRankImage` or `PlainImage`.
            scores: Array (P, 1, 4), the scores of all mask tokens.
            hyper: the output (P, 1, 32) of the hypernetwork of each wanted mask token.
            wanted: the indices, among the four mask tokens, of those that may answer the prompt.
        """
        self.runs, self.plan, self.image, self._wanted = 0, plan, image, slice(wanted.start, wanted.stop)
        self._tokens, self._scores, self._hyper = tokens, plan.result(scores), [plan.result(row) for row in hyper]
        self._results = [plan.result(array) for array in image.results()]
        plan.compile()

    def candidates(self, image: DecoderImage, tokens: F32, draw_plans: PlanCache[DrawPlan]) -> Iterator[Candidates]:
        """Run the plan, and yield each prompt's candidates. Their masks can be computed until the plan runs again."""
        given = self.image.given(image)
        self.runs += 1  # counted before the run, because the run overwrites the arrays of earlier candidates
        self.plan.run({self._tokens: tokens, **given})
        scores = self.plan.view(self._scores).copy()
        hyper = np.concatenate([self.plan.view(row) for row in self._hyper], axis=1)
        shared = [given[array] for array in self.image.shared]
        results = [self.plan.view(array) for array in self._results]
        for i in range(len(tokens)):
            sources = [*shared, *(result[i] for result in results)]
            yield Candidates(scores[i, 0, self._wanted], hyper[i], sources, self, self.runs, draw_plans)


class DrawPlan:
    """A plan that computes ``count`` masks from a DecodePlan's results: upscaling, then products with ``hyper``."""

    def __init__(self, image: PlannedImage, count: int, like: Plan, lines: int, *, preview: bool) -> None:
        self._plan, block = Plan(isa=like.isa, threads=like.threads), 1 if preview else LOW_RES // EMBED_SIZE
        self._shape = block * lines, block * EMBED_SIZE
        hyper = self._plan.given(count, EMBED_DIM // 8)
        sources, masks = image.draw(self._plan, hyper, lines, preview=preview)
        self._plan.compile()
        self._given = masks, hyper, *sources

    def __call__(self, hyper: F32, sources: list[F32]) -> F32:
        masks = kernels.empty((len(hyper), *self._shape))
        self._plan.run(dict(zip(self._given, (masks, hyper, *sources), strict=True)))
        return masks


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """The K candidate masks of a prompt, which are computed on demand.

    Attributes:
        scores: (K,), the predicted IoU of each candidate.
        hyper: (K, 32), the output of each candidate's hypernetwork. With Light HQ-SAM one row more, that of the HQ
            token.
    """

    scores: F32
    hyper: F32
    _sources: list[F32]  # the arrays that masks are computed from
    _decode_plan: DecodePlan
    _run: int  # the number of the run of _decode_plan that has computed this prompt
    _draw_plans: PlanCache[DrawPlan]

    def draw(self, wanted: Sequence[int] | None = None, lines: int = EMBED_SIZE) -> F32:
        """Compute the masks of candidates.

        Args:
            wanted: indices of candidates in ``scores``. None means all candidates.
            lines: number of rows of image tokens, from the top, that the masks are computed of. A photo in landscape
                format does not reach the lowest rows.

        Returns:
            The mask logits (W, 4·lines, 256) of the W wanted candidates.

        Raises:
            RuntimeError: the plan has decoded later prompts since, and has overwritten the arrays of these candidates.
        """
        return self.products(self.hyper if wanted is None else self.hyper[list(wanted)], lines)

    def preview(self, lines: int = EMBED_SIZE) -> F32:
        """Compute a preview of all candidates: every fourth row and column, from the second on, of the mask logits.

        A preview takes a fraction of the time of `draw`.

        Args:
            lines: see `draw`.

        Returns:
            (K, lines, 64), which differs from ``draw()[:, 1::4, 1::4]`` only by rounding.

        Raises:
            RuntimeError: see `draw`.
        """
        return self.products(self.hyper, lines, preview=True)

    def products(self, hyper: F32, lines: int = EMBED_SIZE, *, preview: bool = False) -> F32:
        """Multiply the upscaled image of the prompt by rows of 32 numbers.

        Args:
            hyper: (W, 32) float32. The identity (32, 32) gives the upscaled image's channels.
            lines: see `draw`.
            preview: whether to compute every fourth row and column only, see `preview`.

        Returns:
            (W, 4·lines, 256), or (W, lines, 64) for a preview.

        Raises:
            RuntimeError: see `draw`.
        """
        image, plan = self._decode_plan.image, self._decode_plan.plan
        key = type(image), tuple(array.shape for array in self._sources), len(hyper), lines, preview
        draw_plan = self._draw_plans.take(key, lambda: DrawPlan(image, len(hyper), plan, lines, preview=preview))
        masks = draw_plan(hyper, self._sources)
        self._draw_plans.give(key, draw_plan)
        if self._decode_plan.runs != self._run:
            raise RuntimeError("candidates: expected to be drawn before the plan decodes the next prompts")
        return masks
