"""Image updates in the plain form, recorded as steps of a plan, and their agreement with the low-rank form."""

from typing import Any

import numpy as np
import pytest
from grids import any_case
from hypothesis import given
from hypothesis import strategies as st
from isas import every_isa  # noqa: F401
from plans import Recording
from scenes import CHANNELS, INNER, SCALE, Scene, scene
from tolerances import assert_relative_l2, assert_same, pass_bound

from mobilesam.kernels import Array, pack_rows, reference

pytestmark = pytest.mark.usefixtures("every_isa")


class Block:
    """Two image updates of a scene in the plain form, and the three attentions to the image."""

    def __init__(self, case: Scene, **options: Any) -> None:
        self.case, self.made = case, Recording(**options)
        self.plan = self.made.plan
        x, self.pe = self.made.give(case.x[None], case.pe[None])
        self.keys = self.plan.add(x, self.made.give(np.zeros(CHANNELS, np.float32)))

    def attend(self, i: int, queries: np.ndarray) -> Array:
        """Record the attention of queries to the image after ``i`` image updates (0, 1 or 2)."""
        key, value = self.case.keys[i], self.case.values[i]
        k_pe = self.plan.project(self.pe, pack_rows(np.float32(key.weight)))
        rows = pack_rows(np.float32(np.concatenate([key.weight, value.weight])))
        maps = self.plan.project(self.keys, rows, k_pe)
        k, v = maps.rows(0, INNER), maps.rows(INNER, INNER)
        return self.plan.attend_image(self.made.give(queries[None] * SCALE), k, v, np.float32(value.bias))

    def update(self, i: int) -> Array:
        """Record image update ``i`` (0 or 1). Returns a copy of the updated image tokens."""
        keys, values, _ = self.case.tokens[i]
        (query, out, norm) = (
            [np.float32(part) for part in layer[i]] for layer in (self.case.queries, self.case.outs, self.case.norms)
        )
        q = self.plan.linear(self.plan.add(self.keys, self.pe), *query, scale=SCALE)
        attended = self.plan.attention(q, *self.made.give(keys[None], values[None]), heads=reference.HEADS)
        x = self.plan.linear(attended, *out, residual=self.keys, in_place=True)
        self.keys = self.plan.layer_norm(x, *norm, in_place=True)
        return self.plan.add(self.keys, self.made.give(np.zeros(CHANNELS, np.float32)))

    def both(self) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Run both image updates. Returns the image after each update, and the results of the three attentions."""
        answers = [self.attend(0, self.case.tokens[0][2])]
        images = []
        for i, (_, _, queries) in enumerate(self.case.tokens):
            images.append(self.update(i))
            answers.append(self.attend(i + 1, queries))
        results = [result[0] for result in self.made.run(*images, *answers)]
        return results[:2], results[2:]


def image_depths(tokens: int) -> tuple[int, ...]:
    """Return the number of terms of each sum in an image update.

    The sums are: queries, scores, softmax, weighted sum of values, output projection with the residual, LayerNorm.
    """
    return CHANNELS, INNER // 8, tokens, tokens, INNER + 2, CHANNELS


def plain_bound(case: Scene, n: int, tokens: int, updates: int, sharper: float = 1) -> float:
    """Error bound of the attention to the image after ``updates`` image updates.

    The sums are: keys and values, scores, softmax over the image, weighted sum of values. The relative error of an
    exponential is the absolute error of its score. Scores are of order √C · ``sharper``.
    """
    return sharper * CHANNELS**0.5 * pass_bound(*image_depths(tokens) * updates, CHANNELS, INNER // 8, n, n)


def check_block(n: int, tokens: int, query_count: int, *, sharper: float = 1, **options) -> None:
    case = scene(n, tokens, query_count, sharper)
    images, answers = Block(case, **options).both()
    for i, (got, expected) in enumerate(zip(images, case.updated, strict=True)):
        assert_relative_l2(got, expected, CHANNELS**0.5 * pass_bound(*image_depths(tokens) * (i + 1)))
    for i, (got, expected) in enumerate(zip(answers, (case.attended_before, *case.attended), strict=True)):
        assert_relative_l2(got, expected, plain_bound(case, n, tokens, i, sharper))


@pytest.mark.parametrize(
    "sizes", [(4096, 7, 4), (1, 1, 1), (255, 14, 2), (256, 2, 16), (257, 30, 16), (600, 70, 3)], ids=str
)
def test_the_image_of_a_block(sizes):
    check_block(*sizes)


@any_case(15)
@given(n=st.integers(1, 600), tokens=st.integers(1, 70), query_count=st.integers(1, 16), threads=st.integers(1, 4))
def test_any_image_of_a_block(n, tokens, query_count, threads):
    check_block(n, tokens, query_count, threads=threads)


def test_the_image_of_a_block_of_sharp_scores():
    """Attention scores are near ±1000."""
    check_block(1000, 3, 5, sharper=300)


def test_the_same_bits_on_any_threads():
    case = scene(1500, 6, 4)
    expected = [y for results in Block(case, threads=1).both() for y in results]
    for threads in (1, 2, 3, 4):
        again = [y for results in Block(case, threads=threads).both() for y in results]
        for got, wanted in zip(again, expected, strict=True):
            assert_same(got, wanted)


@pytest.mark.parametrize("sizes", [(4096, 7, 4), (300, 5, 4), (257, 14, 7), (1, 1, 1)], ids=str)
def test_the_plain_form_and_the_low_rank_form_agree(sizes):
    """The results of the two forms differ by at most the sum of both error bounds."""
    n, tokens, query_count = sizes
    case = scene(n, tokens, query_count)
    _, (_, *plain) = Block(case).both()
    low_rank = case.update(case.maps()).attended
    depths = (CHANNELS, INNER // 8, 16 * tokens + 1, CHANNELS)
    for i, (one, other) in enumerate(zip(plain, low_rank, strict=True)):
        bound = (i + 1) * case.condition * pass_bound(*depths, *depths, n, n)  # see check_updates in test_updates.py
        assert_relative_l2(one, np.asarray(other, np.float64), bound + plain_bound(case, n, tokens, i + 1))
