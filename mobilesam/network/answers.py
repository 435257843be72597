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
from .decoder_image import DecoderImage, PlannedImage
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

    scores: (P, 1, 4), of all mask tokens. hyper: the outputs (P, 1, 32) of the hypernetworks of the W mask tokens
    ``wanted``.
    """

    def __init__(
        self, plan: Plan, tokens: Array, image: PlannedImage, scores: Array, hyper: Sequence[Array], wanted: range
    ) -> None:
        self.runs, self.plan, self.image, self._wanted = 0, plan, image, slice(wanted.start, wanted.stop)
        self._tokens, self._scores, self._hyper = tokens, plan.result(scores), [plan.result(row) for row in hyper]
        self._results = [plan.result(array) for array in image.results()]
        plan.compile()

    def candidates(self, image: DecoderImage, tokens: F32, drawings: PlanCache[Drawing]) -> Iterator[Candidates]:
        """The candidates of each prompt. The candidates of one run are to be drawn before the next run."""
        given = self.image.given(image)
        self.runs += 1  # before the run, which overwrites the arrays that earlier candidates are drawn from
        self.plan.run({self._tokens: tokens, **given})
        scores = self.plan.view(self._scores).copy()
        hyper = np.concatenate([self.plan.view(row) for row in self._hyper], axis=1)
        shared = [given[array] for array in self.image.shared]
        results = [self.plan.view(array) for array in self._results]
        for i in range(len(tokens)):
            drawn_from = [*shared, *(result[i] for result in results)]
            yield Candidates(scores[i, 0, self._wanted], hyper[i], drawn_from, self, self.runs, drawings)


class Drawing:
    """A plan that draws ``count`` masks, from the image that a prompt has updated in another plan."""

    def __init__(self, image: PlannedImage, count: int, like: Plan) -> None:
        self._plan = Plan(isa=like.isa, threads=like.threads)
        hyper = self._plan.given(count, EMBED_DIM // 8)
        drawn_from, masks = image.draw(self._plan, hyper)
        self._plan.compile()
        self._given = masks, hyper, *drawn_from

    def __call__(self, hyper: F32, drawn_from: list[F32]) -> F32:
        masks = kernels.empty((len(hyper), LOW_RES, LOW_RES))
        self._plan.run(dict(zip(self._given, (masks, hyper, *drawn_from), strict=True)))
        return masks


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """The masks that would answer a prompt, with their scores (C,). They are not drawn yet."""

    scores: F32
    _hyper: F32  # (C, 32)
    _drawn_from: list[F32]
    _answer: Answer
    _run: int
    _drawings: PlanCache[Drawing]

    def draw(self, wanted: Sequence[int] | None = None) -> F32:
        """low_res (W, 256, 256) of the ``wanted`` candidates, by their place in ``scores``; of all by default.

        Raises RuntimeError if other prompts have been answered in between.
        """
        hyper = self._hyper if wanted is None else self._hyper[list(wanted)]
        image, plan = self._answer.image, self._answer.plan
        key = type(image), tuple(array.shape for array in self._drawn_from), len(hyper)
        drawing = self._drawings.take(key, lambda: Drawing(image, len(hyper), plan))
        masks = drawing(hyper, self._drawn_from)
        self._drawings.give(key, drawing)
        if self._answer.runs != self._run:
            raise RuntimeError("candidates: expected to be drawn before the next prompts are answered")
        return masks
