"""Removal of small regions agrees with SciPy's labels, and NMS agrees with a simple implementation."""

import numpy as np
import pytest
from grids import any_case
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from mobilesam.masks import regions, rle

EIGHT = np.ones((3, 3), int)


def expected(mask: np.ndarray, area_thresh: float, mode: str) -> tuple[np.ndarray, bool]:
    """A simple implementation of `remove_small_regions`. If all islands are small, the largest island is kept.

    Returns:
        The cleaned mask, and whether the given mask has small regions.
    """
    holes = mode == "holes"
    labels, count = ndimage.label(mask ^ holes, EIGHT)
    areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    small = np.flatnonzero(areas < area_thresh) + 1
    if not len(small):
        return mask, False
    if not holes and len(small) == count:
        small = np.delete(small, areas.argmax())
    return np.where(np.isin(labels, small), holes, mask), True


def check(mask: np.ndarray, area_thresh: float) -> None:
    for mode in ("holes", "islands"):
        wanted, changes = expected(mask, area_thresh, mode)
        cleaned, changed = regions.remove_small_regions(mask, area_thresh, mode)
        assert changed is changes
        np.testing.assert_array_equal(cleaned, wanted)
        packed = rle.encode(mask)
        cleaned, changed = regions.remove_small_regions(packed, area_thresh, mode)
        assert changed is changes
        assert cleaned == rle.encode(wanted)
        if not changes:
            assert cleaned is packed


def spiral(side: int) -> np.ndarray:
    """Return a mask with a spiral. The scan gives parts of the spiral different labels and joins the parts late."""
    mask = np.zeros((side, side), bool)
    for i in range(0, side // 2, 4):
        mask[i : side - i, i : side - i] = True
        mask[i + 2 : side - i - 2, i + 2 : side - i - 2] = False
        mask[i + 1 : i + 3, i : i + 1] = False
        mask[i + 2 : i + 5, i + 2 : i + 3] = True
    return mask


def noise(height: int, width: int, share: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((height, width, seed)).random((height, width)) < share


MASKS = {
    "empty": np.zeros((6, 7), bool),
    "full": np.ones((6, 7), bool),
    "pixel": np.ones((1, 1), bool),
    "diagonal": np.eye(9, dtype=bool),
    "antidiagonal": np.eye(9, dtype=bool)[::-1],
    "comb": np.tile([[True, False]], (9, 9)) | (np.arange(9) == 8)[:, None],
    "checkers": np.indices((8, 9)).sum(axis=0) % 2 == 0,
    "pairs": np.tile([[True, False, True]], (4, 1)) & (np.arange(4) % 2 == 0)[:, None],
    "spiral": spiral(64),
    "percolating": noise(200, 300, 0.41),
}


@pytest.mark.parametrize("area_thresh", [0, 1, 2, 5, 40, 1e6])
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_masks(mask, area_thresh):
    check(mask, area_thresh)


@any_case(300)
@given(st.integers(1, 30), st.integers(1, 30), st.floats(0, 1), st.integers(0, 99), st.integers(0, 60))
def test_any_mask(height, width, share, seed, area_thresh):
    check(noise(height, width, share, seed), area_thresh)


def test_labels_are_the_components():
    mask = MASKS["percolating"]
    runs = rle.to_runs(rle.encode(mask))
    painted = np.zeros(mask.shape, int)
    for (column, first, end), label in zip(runs, regions.label_runs(runs, len(mask))):
        painted[first:end, column] = 1 + label
    labels, count = ndimage.label(mask, EIGHT)
    pairs = np.unique(np.stack([painted[mask], labels[mask]]), axis=1)
    assert count > 100
    assert pairs.shape == (2, count)  # each label corresponds to exactly one of SciPy's labels


def test_wrong_arguments_are_refused():
    mask = np.ones((3, 3), bool)
    with pytest.raises(ValueError, match="mode must be 'holes' or 'islands', got 'both'"):
        regions.remove_small_regions(mask, 5, "both")
    with pytest.raises(TypeError, match="bool array"):
        regions.remove_small_regions(mask.astype(int), 5, "holes")
    with pytest.raises(ValueError, match="add up to"):
        regions.remove_small_regions({"size": [3, 3], "counts": [1]}, 5, "holes")


def greedy(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> list[int]:
    """A simple non-maximum suppression, with exact areas of integer boxes."""
    kept: list[int] = []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        if all(overlap(boxes[i], boxes[j]) <= threshold for j in kept):
            kept.append(i)
    return kept


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    both = int(np.prod(np.maximum(sides, 0)))
    either = int(np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2])) - both
    return both / either if either else 0.0


corner = st.tuples(st.integers(0, 12), st.integers(0, 12), st.integers(0, 12), st.integers(0, 12))


@any_case(300)
@given(st.lists(st.tuples(corner, st.integers(0, 4)), max_size=25), st.sampled_from([0.0, 0.35, 0.45, 0.7, 0.999, 1.0]))
def test_nms(given_boxes, threshold):
    """Boxes are so small that float32 rounding cannot change the comparison of an IoU with these thresholds."""
    boxes = np.array([(x, y, x + w, y + h) for (x, y, w, h), _ in given_boxes], int).reshape(-1, 4)
    scores = np.array([score for _, score in given_boxes], np.float32)
    assert regions.nms(boxes, scores, threshold).tolist() == greedy(boxes, scores, threshold)


def test_an_overlap_of_the_threshold_itself_stays():
    boxes = [(0, 0, 4, 4), (0, 0, 4, 2), (0, 0, 4, 4)]
    assert regions.nms(boxes, [0.5, 0.9, 0.9], 0.5).tolist() == [1, 2]
    assert regions.nms(boxes, [0.5, 0.9, 0.9], 0.49).tolist() == [1]


def test_no_boxes():
    assert regions.nms([], [], 0.5).tolist() == regions.nms(np.empty((0, 4)), [], 0.5).tolist() == []


@pytest.mark.parametrize(("boxes", "scores"), [([(0, 0, 1)], [1]), ([(0, 0, 1, 1)], [1, 2]), ([0, 0, 1, 1], [1])])
def test_boxes_and_scores_of_other_shapes_are_refused(boxes, scores):
    with pytest.raises(ValueError, match=r"boxes must be \(N, 4\) and scores \(N,\), got shapes"):
        regions.nms(boxes, scores, 0.5)
