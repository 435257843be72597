"""The runs and pixel counts from `mask_runs` agree with those computed from the result of `resize_logits`."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from grids import any_case
from hypothesis import given
from hypothesis import strategies as st
from isas import every_isa  # noqa: F401
from kernel_cases import PHOTO_SIZES
from tolerances import normal, resize_bound

from mobilesam import kernels
from mobilesam.kernels import reference

pytestmark = pytest.mark.usefixtures("every_isa")
SHAPES = {"padded": (100, 90), "crop": (90, 70), "size": (211, 147)}


def blobs(*shape: int) -> np.ndarray:
    """Return logits (planes, H, W) like the decoder's: one blob with a soft edge in each plane, below 0 elsewhere."""
    planes, height, width = shape
    y, x = np.mgrid[:height, :width]
    centres = np.random.default_rng(shape).random((planes, 2, 1, 1)) * [[[height]], [[width]]]
    distance = np.hypot(y - centres[:, 0], x - centres[:, 1])
    return (0.2 * min(height, width) - distance + 0.3 * normal(*shape)).astype(np.float32)


def painted(runs: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Return the mask that consists of `runs` (column, first row, end row). Runs must be sorted and not touch."""
    mask = np.zeros(shape, bool)
    before = (-1, 0, 0)
    for column, first, end in runs.tolist():
        assert first < end
        assert column > before[0] or (column == before[0] and first > before[2])
        mask[first:end, column] = True
        before = column, first, end
    return mask


def transposed_resize(x: np.ndarray, **shapes: tuple[int, int]) -> np.ndarray:
    """Transpose the logits, apply `resize_logits`, and transpose back.

    This order of the interpolations along the two axes is the one of `mask_runs`.
    """
    transposed = kernels.resize_logits(x.swapaxes(1, 2), **{name: pair[::-1] for name, pair in shapes.items()})
    return transposed.swapaxes(1, 2)


def check(x: np.ndarray, *, threshold: float = 0.0, offset: float = 1.0, threads: int | None = None, **shapes) -> None:
    """Assert that `mask_runs` agrees with `transposed_resize` exactly, and with the reference except for rounding."""
    levels = np.float32(
        [threshold, np.float32(threshold) + np.float32(offset), np.float32(threshold) - np.float32(offset)]
    )
    runs, counts = kernels.mask_runs(x, threshold=threshold, offset=offset, threads=threads, **shapes)
    masks = np.stack([painted(one, shapes["size"]) for one in runs])
    assert all(one.dtype == np.int32 for one in runs)
    resized = transposed_resize(x, **shapes)
    np.testing.assert_array_equal(masks, resized > levels[0])
    np.testing.assert_array_equal(counts.T, [(resized > level).sum(axis=(1, 2)) for level in levels[1:]])

    exact = reference.resize_logits(x, **shapes)
    bound = resize_bound(x, shapes.get("padded", (1024, 1024)), shapes["crop"])
    near = abs(exact - levels.reshape(3, 1, 1, 1).astype(np.float64)) <= bound
    wanted, wanted_counts = reference.mask_runs(x, threshold=threshold, offset=offset, **shapes)
    for mask, one, undecided in zip(masks, wanted, near[0]):
        np.testing.assert_array_equal(mask & ~undecided, painted(one, shapes["size"]) & ~undecided)
    np.testing.assert_array_less(abs(counts - wanted_counts).T, near[1:].sum(axis=(2, 3)) + 1)


@pytest.mark.parametrize(("crop", "size"), PHOTO_SIZES.values(), ids=PHOTO_SIZES)
def test_photos(crop, size):
    check(blobs(1, 256, 256), crop=crop, size=size)


@any_case(150)
@given(
    source=st.tuples(st.integers(1, 3), st.integers(1, 20), st.integers(1, 20)),
    padded=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    cut=st.tuples(st.integers(0, 49), st.integers(0, 49)),
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    soft=st.booleans(),
    threads=st.integers(1, 4),
)
def test_any_size(source, padded, cut, size, soft, threads):
    crop = tuple(max(1, length - c) for length, c in zip(padded, cut))
    x = blobs(*source) if soft else normal(*source)
    check(x, padded=padded, crop=crop, size=size, threads=threads)


@pytest.mark.parametrize(("threshold", "offset"), [(0.0, 1.0), (-0.5, 0.25), (0.25, 0.0), (2.5, 1.0), (0.5, -0.5)])
def test_thresholds_and_offsets(threshold, offset):
    check(normal(3, 37, 41), threshold=threshold, offset=offset, **SHAPES)
    check(blobs(3, 37, 41), threshold=threshold, offset=offset, **SHAPES)


def test_skipping_regions_changes_no_bit():
    """An infinite offset forces the kernel to compute every pixel, which must not change the runs."""
    x = blobs(5, 37, 41)
    part, _ = kernels.mask_runs(x, **SHAPES)
    whole, counts = kernels.mask_runs(x, offset=np.inf, **SHAPES)
    assert counts.tolist() == [[0, 211 * 147]] * 5
    for one, other in zip(part, whole):
        np.testing.assert_array_equal(one, other)


def test_masks_at_the_edges():
    """The masks are empty, full, or consist of one row, column or pixel of the source logits."""
    x = np.full((7, 16, 16), -5, np.float32)
    x[1], x[2, 0], x[3, -1], x[4, :, 0], x[5, :, -1], x[6, 8, 8] = 5, 5, 5, 5, 5, 5
    shapes = {"padded": (64, 64), "crop": (64, 64), "size": (100, 75)}
    check(x, **shapes)
    runs, counts = kernels.mask_runs(x, **shapes)
    assert [len(one) for one in runs[:2]] == [0, 75]
    assert counts[:2].tolist() == [[0, 0], [7500, 7500]]


def test_the_threshold_itself_is_outside():
    shapes = {"padded": (64, 64), "crop": (64, 48), "size": (100, 75)}
    runs, counts = kernels.mask_runs(np.zeros((1, 16, 16), np.float32), offset=0.0, **shapes)
    assert len(runs[0]) == 0
    assert counts.tolist() == [[0, 0]]


def test_nan_and_infinity():
    x = blobs(4, 37, 41)
    clean, clean_counts = kernels.mask_runs(x, **SHAPES)
    x[0, 5, 5], x[1], x[2, 20, 20] = np.nan, np.nan, np.inf
    runs, counts = kernels.mask_runs(x, **SHAPES)
    resized = transposed_resize(x, **SHAPES)
    for plane in (0, 1, 2):
        np.testing.assert_array_equal(painted(runs[plane], SHAPES["size"]), resized[plane] > 0)
        assert counts[plane].tolist() == [(resized[plane] > 1).sum(), (resized[plane] > -1).sum()]
    np.testing.assert_array_equal(runs[3], clean[3])
    np.testing.assert_array_equal(counts[3], clean_counts[3])


def test_threads_change_no_number():
    x = normal(3, 37, 41)
    alone, counts = kernels.mask_runs(x, threads=1, **SHAPES)
    for threads in (2, 3, 4, None):
        others, other_counts = kernels.mask_runs(x, threads=threads, **SHAPES)
        np.testing.assert_array_equal(other_counts, counts)
        for one, other in zip(alone, others, strict=True):
            np.testing.assert_array_equal(other, one)


def test_python_threads_may_call_at_once():
    inputs = [blobs(2, 37, 40 + i) for i in range(4)]
    alone = [kernels.mask_runs(x, **SHAPES) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            answers = pool.map(lambda x: kernels.mask_runs(x, threads=2, **SHAPES), inputs)
            for (runs, counts), (expected, expected_counts) in zip(answers, alone):
                np.testing.assert_array_equal(counts, expected_counts)
                for one, other in zip(runs, expected, strict=True):
                    np.testing.assert_array_equal(one, other)


def test_a_mask_with_very_many_runs():
    """The mask has 500 runs in each of 1000 columns, so the kernel must enlarge its buffer of runs."""
    x = np.where(np.arange(1000)[None, :, None] % 2, 1, -1).astype(np.float32).repeat(1000, axis=2)
    shapes = {"padded": (1000, 1000), "crop": (1000, 1000), "size": (1000, 1000)}
    (runs,), counts = kernels.mask_runs(x, offset=0.5, **shapes)
    expected = np.stack(np.broadcast_arrays(*np.ogrid[:1000, 1:1000:2]), axis=-1).reshape(-1, 2)
    np.testing.assert_array_equal(runs, np.column_stack([expected, expected[:, 1] + 1]))
    assert counts.tolist() == [[500_000, 500_000]]


def test_strided_arrays_and_arrays_that_may_not_be_written():
    x = blobs(3, 37, 41)
    x.flags.writeable = False
    expected, counts = kernels.mask_runs(x, **SHAPES)
    for view in (np.asfortranarray(x), np.repeat(x, 2, axis=-1)[..., ::2]):
        runs, other_counts = kernels.mask_runs(view, **SHAPES)
        np.testing.assert_array_equal(other_counts, counts)
        for one, other in zip(runs, expected, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("x", [normal(2, 5, 6).astype(np.float64), normal(5, 6), np.empty((0, 5, 6), np.float32), None])
def test_bad_logits_are_refused(x):
    with pytest.raises((TypeError, ValueError), match=r"^x: "):
        kernels.mask_runs(x, **SHAPES)


@pytest.mark.parametrize("argument", ["padded", "crop", "size"])
@pytest.mark.parametrize("value", [(0, 5), (5,), (5.5, 5), None])
def test_bad_shapes_are_refused(argument, value):
    with pytest.raises((TypeError, ValueError), match=f"^{argument}: "):
        kernels.mask_runs(normal(1, 16, 16), **SHAPES | {argument: value})


def test_a_crop_beyond_the_canvas_is_refused():
    with pytest.raises(ValueError, match=r"^crop: expected at most \(100, 90\), got \(5, 91\)"):
        kernels.mask_runs(normal(1, 16, 16), **SHAPES | {"crop": (5, 91)})


@pytest.mark.parametrize("argument", ["threshold", "offset"])
@pytest.mark.parametrize("value", ["high", [0.0], None, True])
def test_a_threshold_is_a_number(argument, value):
    with pytest.raises(TypeError, match=f"^{argument}: "):
        kernels.mask_runs(normal(1, 16, 16), **SHAPES, **{argument: value})


@pytest.mark.parametrize("threads", [0, -1, 1.5, "two"])
def test_bad_threads(threads):
    with pytest.raises((TypeError, ValueError), match="threads"):
        kernels.mask_runs(normal(1, 16, 16), **SHAPES, threads=threads)
