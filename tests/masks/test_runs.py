"""Runs of masks against pixels."""

import numpy as np
import pytest
from grids import any_case
from hypothesis import given
from hypothesis import strategies as st

from mobilesam.masks import rle, runs

SIZES = st.tuples(st.integers(1, 12), st.integers(1, 12))


def pixels(seed: int, size: tuple[int, int]) -> np.ndarray:
    rng = np.random.default_rng((seed, *size))
    return rng.random(size) < rng.random()


def of(mask: np.ndarray) -> np.ndarray:
    return rle.to_runs(rle.encode(mask)).astype(np.int32)


@any_case(100)
@given(SIZES, st.integers(0, 1000))
def test_runs_are_as_the_pixels(size: tuple[int, int], seed: int) -> None:
    a, b = pixels(seed, size), pixels(seed + 1, size)
    assert runs.area(of(a)) == a.sum()
    assert runs.common_area(of(a), of(b)) == (a & b).sum()
    if a.any():
        rows, columns = np.nonzero(a)
        assert runs.box(of(a)) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        assert np.array_equal(runs.union([of(a), of(b)]), of(a | b))
    x0, y0, x1, y1 = seed % 5, seed % 3, seed % 5 + 4, seed % 3 + 6
    box = np.zeros(size, bool)
    box[y0:y1, x0:x1] = True
    assert np.array_equal(runs.clipped(of(a), (x0, y0, x1, y1)), of(a & box))


def test_shifted_runs() -> None:
    assert runs.shifted(np.array([[1, 2, 5]], np.int32), 10, 20).tolist() == [[11, 22, 25]]


def test_numbers_above_two_to_the_31() -> None:
    far = np.array([[60_000, 59_000, 60_000], [60_001, 0, 5]], np.int32)
    assert runs.common_area(far, far) == runs.area(far) == 1005
    assert runs.union([far, far]).tolist() == far.tolist()


@pytest.mark.parametrize("empty", [np.empty((0, 3), np.int32)])
def test_empty_runs(empty: np.ndarray) -> None:
    some = np.array([[1, 2, 5]], np.int32)
    assert runs.area(empty) == runs.common_area(empty, some) == runs.common_area(some, empty) == 0
    assert len(runs.clipped(empty, (0, 0, 9, 9))) == 0
