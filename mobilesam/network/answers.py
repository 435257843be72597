"""The mask decoder's plans: one that answers prompts, and one that draws masks from an answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from .. import kernels
from ..architecture import EMBED_DIM, LOW_RES
from ..kernels import Array, Plan
from ..util.deferred import ForkSafeLock
from .decoder_image import DecoderImage, Given, PlannedImage
from .parameters import F32

T = TypeVar("T")


class PlanCache(Generic[T]):
    """The ``limit`` plans that were used last, by key. A plan that is taken belongs to one thread until it is given
    back."""

    def __init__(self, limit: int) -> None:
        self._limit, self._plans, self._lock = limit, list[tuple[object, T]](), ForkSafeLock()

    def take(self, key: object, make: Callable[[], T]) -> T:
        """A plan that no other thread has; recorded where none waits."""
        with self._lock:
            for i in reversed(range(len(self._plans))):
                if self._plans[i][0] == key:
                    return self._plans.pop(i)[1]
        return make()

    def give(self, key: object, plan: T) -> None:
        """Give back a plan that was taken."""
        with self._lock:
            self._plans.append((key, plan))
            del self._plans[: -self._limit]


class Answer:
    """A plan that answers P prompts, tokens (P, T, 256).

    scores: (P, 1, 4), of all mask tokens. hyper: (P, W, 32), the hypernetworks' outputs of the W mask tokens
    ``wanted``.
    drawn: whether the plan also draws the masks; of one prompt only.
    """

    def __init__(
        self, plan: Plan, tokens: Array, image: PlannedImage, scores: Array, hyper: Array, wanted: range, *, drawn: bool
    ) -> None:
        self.runs, self._wanted = 0, slice(wanted.start, wanted.stop)
        self._plan, self._tokens, self._image = plan, tokens, image
        self._scores, self._hyper = plan.result(scores), plan.result(hyper)
        self._masks = image.draw(hyper.of_first()) if drawn else None
        self._results = [] if drawn else [plan.result(array) for array in image.results()]
        plan.compile()

    def masks(self, image: DecoderImage, tokens: F32) -> tuple[F32, F32]:
        """The scores (W,) and low_res (W, 256, 256) of one prompt, of a plan that draws."""
        assert self._masks is not None, "a plan that draws"
        low_res = kernels.empty(self._masks.shape)
        self._plan.run({self._tokens: tokens, self._masks: low_res, **self._image.given(image)})
        return self._plan.view(self._scores)[0, 0, self._wanted].copy(), low_res

    def candidates(self, image: DecoderImage, tokens: F32, drawings: PlanCache[Drawing]) -> Iterator[Candidates]:
        """The candidates of each prompt. Those of one run are to be drawn before the next."""
        given = self._image.given(image)
        self.runs += 1  # before the run, which overwrites what earlier candidates are drawn from
        self._plan.run({self._tokens: tokens, **given})
        scores, hyper = self._plan.view(self._scores).copy(), self._plan.view(self._hyper).copy()
        for i in range(len(tokens)):
            yield Candidates(scores[i, 0, self._wanted], hyper[i], self, self.runs, given, i, drawings)

    def draw(self, hyper: F32, given: Given, prompt: int, drawings: PlanCache[Drawing]) -> F32:
        """low_res (M, 256, 256) of a prompt's masks, by the hypernetworks' outputs (M, 32)."""
        results = [self._plan.view(array) for array in self._results]
        key = type(self._image), tuple(result.shape for result in results), len(hyper)
        drawing = drawings.take(key, lambda: Drawing(self._image, len(hyper), self._plan))
        masks = drawing(hyper, self._image.drawn_from(given, results, prompt))
        drawings.give(key, drawing)
        return masks


class Drawing:
    """A plan that draws ``count`` masks, from the image as a prompt has updated it in an Answer's plan."""

    def __init__(self, image: PlannedImage, count: int, like: Plan) -> None:
        self._plan = Plan(isa=like.isa, threads=like.threads)
        self._hyper = self._plan.given(count, EMBED_DIM // 8)
        self._drawn_from, self._masks = image.draw_apart(self._plan, self._hyper)
        self._plan.compile()

    def __call__(self, hyper: F32, drawn_from: list[F32]) -> F32:
        masks = kernels.empty((len(hyper), LOW_RES, LOW_RES))
        given = dict(zip(self._drawn_from, drawn_from, strict=True))
        self._plan.run({self._hyper: np.ascontiguousarray(hyper), self._masks: masks, **given})
        return masks


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """The masks that would answer a prompt, with their scores (C,); none is drawn yet."""

    scores: F32
    _hyper: F32  # (C, 32)
    _answer: Answer
    _run: int
    _given: Given
    _prompt: int
    _drawings: PlanCache[Drawing]

    def draw(self, wanted: Sequence[int] | None = None) -> F32:
        """low_res (W, 256, 256) of the ``wanted`` ones, by their place in ``scores``; of all by default.

        Raises RuntimeError where other prompts have been answered in between.
        """
        hyper = self._hyper if wanted is None else self._hyper[list(wanted)]
        masks = self._answer.draw(hyper, self._given, self._prompt, self._drawings)
        if self._answer.runs != self._run:
            raise RuntimeError("candidates: expected to be drawn before the next prompts are answered")
        return masks
