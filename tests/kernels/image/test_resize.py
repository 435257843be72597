"""Tests of `resize_logits`: sizes of photos, thresholds, edges, and errors."""

import numpy as np
import pytest
from grids import any_case
from hypothesis import given
from hypothesis import strategies as st
from isas import every_isa  # noqa: F401
from kernel_cases import PHOTO_SIZES
from tolerances import assert_same, assert_within, normal, resize_bound

from mobilesam import kernels
from mobilesam.kernels import reference

pytestmark = pytest.mark.usefixtures("every_isa")


@pytest.mark.parametrize(("crop", "size"), PHOTO_SIZES.values(), ids=PHOTO_SIZES)
def test_photos(crop, size):
    x = 10 * normal(1, 256, 256)
    y = kernels.resize_logits(x, crop=crop, size=size)
    assert_within(y, reference.resize_logits(x, crop=crop, size=size), resize_bound(x, (1024, 1024), crop))


@any_case(100)
@given(
    source=st.tuples(st.integers(1, 3), st.integers(1, 20), st.integers(1, 20)),
    padded=st.tuples(st.integers(1, 50), st.integers(1, 50)),
    cut=st.tuples(st.integers(0, 49), st.integers(0, 49)),
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    threads=st.integers(1, 4),
)
def test_any_size(source, padded, cut, size, threads):
    x = normal(*source)
    crop = tuple(max(1, length - c) for length, c in zip(padded, cut))
    shapes = {"padded": padded, "crop": crop, "size": size}
    y = kernels.resize_logits(x, **shapes, threads=threads)
    assert_within(y, reference.resize_logits(x, **shapes), resize_bound(x, padded, crop))


@pytest.mark.parametrize("threshold", [0.0, -0.5, 0.25, 1e30, -np.inf])
def test_a_threshold_gives_what_exceeds_it(threshold):
    x = normal(3, 37, 41)
    shapes = {"padded": (100, 100), "crop": (90, 70), "size": (211, 147)}
    logits = kernels.resize_logits(x, **shapes)
    mask = kernels.resize_logits(x, **shapes, threshold=threshold)
    assert mask.dtype == bool
    assert np.array_equal(mask, logits > threshold)
    out = np.ones_like(mask)
    assert kernels.resize_logits(x, **shapes, threshold=threshold, out=out) is out
    assert np.array_equal(out, mask)


def test_the_threshold_itself_is_outside():
    shapes = {"padded": (64, 64), "crop": (64, 48), "size": (100, 75)}
    for value in (0.0, -0.0):
        flat = np.full((1, 16, 16), value, np.float32)
        assert not kernels.resize_logits(flat, **shapes, threshold=0.0).any()
        assert kernels.resize_logits(flat, **shapes, threshold=-1e-30).all()


def test_the_same_size_changes_no_bit():
    x = normal(2, 37, 41)
    assert_same(kernels.resize_logits(x, padded=(37, 41), crop=(37, 41), size=(37, 41)), x)


def test_masks_are_independent():
    x = normal(3, 37, 41)
    shapes = {"padded": (64, 64), "crop": (64, 48), "size": (100, 75)}
    together = kernels.resize_logits(x, **shapes)
    for plane, expected in zip(x, together):
        assert_same(kernels.resize_logits(plane[None], **shapes)[0], expected)
    clean = together.copy()
    x[1, 5, 5] = np.nan
    assert_same(kernels.resize_logits(x, **shapes)[::2], clean[::2])


def test_values_beyond_the_crop_do_not_reach_the_photo():
    """Source rows from 9 on must not affect the result.

    The crop ends at row 29 of the 64 rows of the canvas, which is interpolated from rows 6 and 7 of the 16 source rows.
    """
    x = normal(1, 16, 16)
    shapes = {"padded": (64, 64), "crop": (30, 30), "size": (47, 53)}
    y = kernels.resize_logits(x, **shapes)
    x[:, 9:], x[:, :, 9:] = np.nan, np.nan
    assert_same(kernels.resize_logits(x, **shapes), y)


@pytest.mark.parametrize("argument", ["padded", "crop", "size"])
@pytest.mark.parametrize("value", [(0, 5), (5, -1), (5,), (5, 5, 5), (5.5, 5), "55", None])
def test_bad_shapes_are_refused(argument, value):
    shapes = {"padded": (64, 64), "crop": (64, 48), "size": (100, 75)} | {argument: value}
    with pytest.raises((TypeError, ValueError), match=f"^{argument}: ") as error:
        kernels.resize_logits(normal(1, 16, 16), **shapes)
    assert repr(value) in str(error.value)


@pytest.mark.parametrize("crop", [(65, 5), (5, 65)])
def test_a_crop_beyond_the_canvas_is_refused(crop):
    with pytest.raises(ValueError, match=r"^crop: ") as error:
        kernels.resize_logits(normal(1, 16, 16), padded=(64, 64), crop=crop, size=(100, 75))
    assert str(crop) in str(error.value)


@pytest.mark.parametrize("threshold", ["high", [0.0]])
def test_a_threshold_is_a_number(threshold):
    with pytest.raises((TypeError, ValueError), match=r"^threshold: "):
        kernels.resize_logits(normal(1, 16, 16), crop=(64, 48), size=(9, 9), threshold=threshold)


@pytest.mark.parametrize(("threshold", "dtype"), [(None, bool), (0.0, np.float32), (0.0, np.uint8)])
def test_out_is_of_the_results_type(threshold, dtype):
    out = np.empty((1, 9, 9), dtype)
    with pytest.raises(TypeError, match=r"^out: "):
        kernels.resize_logits(normal(1, 16, 16), crop=(64, 48), size=(9, 9), threshold=threshold, out=out)
