"""`mobilesam.rle` agrees with pycocotools, and raises errors for invalid RLEs."""

import numpy as np
import pytest
from grids import any_case
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco

from mobilesam.masks import rle


def random_mask(height: int, width: int, share: float, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((height, width, seed)).random((height, width)) < share


def blob(height: int, width: int) -> np.ndarray:
    """Return a mask of an ellipse with a hole. Like a real mask, it consists of few and long runs."""
    y, x = np.mgrid[:height, :width]
    distance = ((y - 0.4 * height) / height) ** 2 + ((x - 0.6 * width) / width) ** 2
    return (distance < 0.1) & (distance > 0.005)


MASKS = {
    "empty": np.zeros((7, 11), bool),
    "full": np.ones((7, 11), bool),
    "one pixel in": np.ones((1, 1), bool),
    "one pixel out": np.zeros((1, 1), bool),
    "row": random_mask(1, 301, 0.5),
    "column": random_mask(301, 1, 0.5),
    "noise": random_mask(37, 203, 0.5),
    "sparse": random_mask(129, 64, 0.01),
    "dense": random_mask(64, 129, 0.99),
    "two blocks": np.repeat([[False, True]], [rle.BLOCK, rle.BLOCK], axis=1).repeat(5, axis=0),
    "seam": np.repeat([[True, False]], [rle.BLOCK, 1], axis=1).repeat(3, axis=0),
    "blob": blob(300, 451),
    "large blob": blob(1999, 3001),
}
every_mask = pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)

small_masks = st.tuples(
    st.integers(1, 9), st.integers(1, 150), st.floats(0, 1), st.integers(0, 99)
).map(lambda given: random_mask(*given))  # fmt: skip


def cocos(mask: np.ndarray) -> dict:
    """Encode the mask with pycocotools. The counts of the RLE are bytes."""
    return coco.encode(np.asfortranarray(mask.view(np.uint8)))


def check(mask: np.ndarray) -> None:
    height, width = mask.shape
    plain = rle.encode(mask)
    assert plain["size"] == [height, width]
    assert all(type(count) is int for count in plain["counts"])
    expected = cocos(mask)
    packed = rle.compress(plain)
    assert packed == {"size": expected["size"], "counts": expected["counts"].decode()}
    assert coco.frPyObjects(dict(plain), height, width) == expected
    for form in (plain, packed, expected, {"size": (height, width), "counts": np.array(plain["counts"], np.uint32)}):
        assert rle.decompress(form) == plain
        assert rle.compress(form) == packed
        decoded = rle.decode(form)
        assert decoded.flags.c_contiguous
        np.testing.assert_array_equal(decoded, mask)
        assert rle.area(form) == coco.area(expected) == mask.sum()
        assert rle.bbox(form) == coco.toBbox(expected).tolist()


def check_runs(mask: np.ndarray) -> None:
    plain = rle.encode(mask)
    runs = rle.to_runs(plain)
    painted = np.zeros_like(mask)
    for column, first, end in runs:
        assert first < end
        painted[first:end, column] = True
    np.testing.assert_array_equal(painted, mask)
    assert (np.diff(runs[:, 0] * (mask.shape[0] + 1) + runs[:, 1]) > 0).all()  # runs are sorted
    spans = rle.spans(plain)
    inside = [np.arange(first, end) for first, end in spans]
    np.testing.assert_array_equal(np.concatenate([np.empty(0, int), *inside]), np.flatnonzero(mask.T))
    assert (spans[1:, 0] > spans[:-1, 1]).all()  # spans are sorted, with gaps between them
    counts = rle.from_runs(runs, mask.shape)
    assert counts.dtype == np.uint32
    assert counts.tolist() == plain["counts"]


@every_mask
def test_runs_within_columns(mask):
    check_runs(mask)


@any_case(200)
@given(small_masks)
def test_runs_of_any_mask(mask):
    check_runs(mask)


def test_a_run_may_begin_where_another_ends():
    pieces = np.array([[0, 1, 2], [0, 2, 4], [1, 0, 1], [1, 1, 2], [2, 3, 4]])
    assert rle.from_runs(pieces, (4, 3)).tolist() == [1, 5, 5, 1]


@every_mask
def test_every_function_agrees_with_pycocotools(mask):
    check(mask)


@any_case(200)
@given(small_masks)
def test_any_mask(mask):
    check(mask)


def test_masks_in_any_memory_order():
    mask = random_mask(37, 203, 0.5)
    wide = np.repeat(mask, 2, axis=1)
    assert rle.encode(np.asfortranarray(mask)) == rle.encode(wide[:, ::2]) == rle.encode(mask)


@any_case(200)
@given(st.lists(st.one_of(st.integers(0, 2**24 - 2), st.integers(0, 2**32 - 1)), min_size=1, max_size=9))
def test_strings_of_any_counts(counts):
    """pycocotools is only called for counts below 2²⁴, because its buffer of 6 characters per count is too small."""
    height = max(1, sum(counts))
    counts[-1] += height - sum(counts)
    plain = {"size": [height, 1], "counts": counts}
    packed = rle.compress(plain)
    if max(counts) < 2**24:
        assert packed["counts"] == coco.frPyObjects(dict(plain), height, 1)["counts"].decode()
    assert rle.decompress(packed) == plain


def test_iou_agrees_with_pycocotools():
    shape = (40, 300)
    masks = [random_mask(*shape, share, seed) for seed, share in enumerate((0, 0.01, 0.3, 0.5, 0.99, 1))]
    masks += [blob(*shape), np.roll(blob(*shape), 20, axis=1), ~blob(*shape)]
    plain, packed = [rle.encode(mask) for mask in masks], [cocos(mask) for mask in masks]
    expected = coco.iou(packed[:5], packed, [False] * len(packed))
    assert 0 < expected[1, 3] < 1
    for first, second in ((plain, plain), (packed, plain), (plain, packed)):
        np.testing.assert_array_equal(rle.iou(first[:5], second), expected)
    assert rle.iou(plain[6], plain[6]) == [[1.0]]
    assert rle.iou(plain[6], plain[8]) == [[0.0]]
    assert rle.iou([], plain).shape == (0, 9)
    assert rle.iou(plain, []).shape == (9, 0)


def test_runs_of_no_pixel_count_for_nothing():
    odd = {"size": [4, 5], "counts": [0, 0, 3, 0, 2, 4, 0, 6, 5, 0]}
    mask = rle.decode(odd)
    tidy = rle.encode(mask)
    assert tidy["counts"] == [5, 10, 5]
    assert rle.area(odd) == 10
    assert rle.bbox(odd) == rle.bbox(tidy)
    assert rle.iou(odd, tidy) == [[1.0]]
    assert rle.decompress(rle.compress(odd)) == odd


REFUSED = {
    "no dict": ("00", "must be a dict"),
    "nothing in it": ({}, "without size and counts"),
    "no counts": ({"size": [2, 3]}, "without counts"),
    "size": ({"size": [2], "counts": [6]}, r"size must be \[h, w\].* got \[2\]"),
    "a size of 0": ({"size": [0, 3], "counts": []}, r"size must be .* got \[0, 3\]"),
    "a fractional size": ({"size": [2.0, 3], "counts": [6]}, r"size must be .* got \[2\.0, 3\]"),
    "a size in words": ({"size": "23", "counts": [6]}, "size must be .* got '23'"),
    "too few": ({"size": [2, 3], "counts": [1, 2]}, "add up to 2·3, got a sum of 3"),
    "too many": ({"size": [2, 3], "counts": [1, 2, 4]}, "got a sum of 7"),
    "none": ({"size": [2, 3], "counts": []}, "got a sum of 0"),
    "negative": ({"size": [2, 3], "counts": [-1, 7]}, "at least 0"),
    "huge": ({"size": [2, 3], "counts": [2**63 - 1, 2**63 - 1, 8]}, "add up to"),
    "a sum that wraps to the size": ({"size": [2, 3], "counts": [2**58] * 64 + [6]}, "add up to"),
    "a sum that wraps to a large size": ({"size": [2**57, 2], "counts": [2**57] * 130}, "add up to"),
    "unsigned": (
        {"size": [2, 3], "counts": np.array([2**64 - 1, 7], np.uint64)},
        f"at most {2**59 - 1}, got {2**64 - 1}",
    ),
    "a size that wraps to 0": ({"size": [2**32, 2**32], "counts": []}, f"at most {2**59 - 1} pixels"),
    "a size that wraps to 6": ({"size": [2, 2**63 + 3], "counts": [6]}, f"at most {2**59 - 1} pixels"),
    "an endless size": ({"size": [10**5000, 1], "counts": [6]}, f"at most {2**59 - 1} pixels"),
    "a string whose sums wrap": ({"size": [2, 3], "counts": "oooooooooo?" * 99 + "6"}, "add up to"),
    "an empty string": ({"size": [2, 3], "counts": ""}, "got a sum of 0"),
    "a wrong string": ({"size": [2, 3], "counts": "6 "}, "characters from '0' to 'o', got b'6 '"),
    "not ASCII": ({"size": [2, 3], "counts": "6é"}, "characters from '0' to 'o', got '6é'"),
    "a string cut short": ({"size": [200, 300], "counts": "PP"}, "ends within a number"),
    "an endless number": ({"size": [2, 3], "counts": "P" * 20 + "0"}, "over 12 characters"),
}


@pytest.mark.parametrize(("value", "message"), REFUSED.values(), ids=REFUSED)
def test_wrong_rles_are_refused(value, message):
    for function in (
        rle.decode,
        rle.compress,
        rle.decompress,
        rle.area,
        rle.bbox,
        rle.to_runs,
        lambda one: rle.iou([one], [one]),
    ):
        with pytest.raises((TypeError, ValueError), match=message) as error:
            function(value)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("counts", [[1.5, 4.5], [[6]], [[6], []], ["6"], [None], [True], None, 6, {6}, [2**64, 6]])
def test_counts_are_whole_numbers(counts):
    with pytest.raises(TypeError, match="counts must be whole numbers"):
        rle.area({"size": [2, 3], "counts": counts})


def test_masks_of_two_sizes_have_no_iou():
    with pytest.raises(ValueError, match=r"one size .* \(2, 3\) and \(3, 2\)"):
        rle.iou({"size": [2, 3], "counts": [6]}, {"size": [3, 2], "counts": [6]})


@pytest.mark.parametrize(
    ("mask", "error"),
    [
        (np.ones((2, 3), np.uint8), TypeError),
        ([[True]], TypeError),
        (None, TypeError),
        (np.ones(3, bool), ValueError),
        (np.ones((1, 2, 3), bool), ValueError),
        (np.ones((0, 3), bool), ValueError),
    ],
)
def test_a_mask_is_a_bool_array(mask, error):
    with pytest.raises(error, match="a mask must be a bool array"):
        rle.encode(mask)


def test_counts_of_the_largest_mask():
    """Counts and their differences fill the 64 bits and the 12 characters that a number may take."""
    most = 2**59 - 1
    cases = {(most,): 0, (0, most): most, (0, 0, 0, most): most, (most - 2, 1, 1): 1, (1, most - 3, 1, 1): most - 1}
    for counts, height in cases.items():
        plain = {"size": [most, 1], "counts": list(counts)}
        assert rle.decompress(rle.compress(plain)) == plain
        assert rle.area(plain) == sum(counts[1::2])
        assert rle.bbox(plain)[3] == height
        assert rle.iou(plain, plain) == [[float(sum(counts[1::2]) > 0)]]


def test_no_memory_for_a_mask_names_its_size():
    wide = {"size": [1, 2**58], "counts": [0, 2**58]}
    for function in (rle.decode, rle.to_runs):
        with pytest.raises(MemoryError, match=rf"an RLE of size \[1, {2**58}\]: no memory"):
            function(wide)


def test_a_run_of_more_than_32_bits():
    size = (2**20, 2**13)
    counts = rle.from_runs(np.array([[2**12, 5, 9]]), size)
    assert counts.tolist() == [2**32 + 5, 4, 2**32 - 9]
    assert rle.to_runs({"size": size, "counts": counts}).tolist() == [[2**12, 5, 9]]
    assert rle.from_runs(np.array([[0, 0, 4]]), (2**16, 2**16 - 1)).dtype == np.uint32
