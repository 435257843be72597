"""Windows and percentiles: parsing, and intensities against values that were computed by hand."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mobilesam.volumes.case import CaseError
from mobilesam.volumes.window import FileWindow, Percentiles, Window, parse_percentiles, parse_window, to_uint8

FILE = Path("ct.npz")


def levels(values: object, window: Window | Percentiles | None) -> list[int]:
    return to_uint8(np.asarray(values), window, FILE).tolist()


def test_texts():
    assert parse_window("40,400") == Window(40, 400)
    assert parse_window("-600, 1.5e3") == Window(-600, 1500)
    assert parse_window("file") == FileWindow()
    assert parse_percentiles("0.5,99.5") == Percentiles() == Percentiles(0.5, 99.5)


@pytest.mark.parametrize("text", ["", "40", "40,400,3", "40;400", "a,b", "File", "40,400,"])
def test_a_text_that_is_no_window(text):
    expected = f"window must be LEVEL,WIDTH, such as 40,400, or 'file', got {text!r}"
    with pytest.raises(ValueError, match=re.escape(expected)):
        parse_window(text)


@pytest.mark.parametrize("text", ["40,0", "40,-1", "nan,400", "40,inf"])
def test_an_invalid_window(text):
    with pytest.raises(ValueError, match=re.escape(f"a window must be finite with a width above 0, got {text}")):
        parse_window(text)


@pytest.mark.parametrize("text", ["", "5", "1,2,3", "low,high"])
def test_a_text_that_is_no_percentiles(text):
    expected = f"percentiles must be LOW,HIGH, such as 0.5,99.5, got {text!r}"
    with pytest.raises(ValueError, match=re.escape(expected)):
        parse_percentiles(text)


@pytest.mark.parametrize("text", ["5,5", "95,5", "-1,99", "1,101", "nan,99"])
def test_invalid_percentiles(text):
    expected = f"percentiles must be within 0 to 100 with low < high, got {text}"
    with pytest.raises(ValueError, match=re.escape(expected)):
        parse_percentiles(text)


def test_a_window_by_hand():
    # -160 to 240 become 0 to 255: (value + 160) * 255 / 400
    values = [-1000, -161, -160, -159, 0, 40, 239, 240, 241, 3000]
    expected = [0, 0, 0, 1, 102, 128, 254, 255, 255, 255]  # 127.5 is rounded to even
    assert levels(np.array(values, np.int16), Window(40, 400)) == expected
    assert levels(np.array(values, np.float32), Window(40, 400)) == expected
    assert levels(np.array(values, ">i4"), Window(40, 400)) == expected


def test_uint8_stays_without_a_window_and_is_mapped_with_one():
    values = np.array([0, 50, 100, 200], np.uint8)
    assert levels(values, None) == values.tolist()
    assert levels(values, Window(100, 100)) == [0, 0, 128, 255]


def test_nan_is_0_and_infinities_are_clipped():
    values = np.array([np.nan, -np.inf, np.inf, -10, 0, 10])
    assert levels(values, Window(0, 20)) == [0, 0, 255, 0, 128, 255]
    assert levels(values, Percentiles(0, 100)) == [0, 0, 255, 0, 128, 255]


def test_no_finite_value():
    with pytest.raises(CaseError, match=r"ct\.npz: holds no finite values; at least one is needed for percentiles"):
        to_uint8(np.full((2, 3), np.nan), Percentiles(), FILE)
    assert levels([np.nan, np.nan], Window(0, 1)) == [0, 0]


def test_percentiles_are_those_of_the_values_above_0_if_the_minimum_is_0():
    background = np.zeros(900)
    values = np.concatenate([background, np.arange(101.0, 202)])  # the percentile p of 101 to 201 is 101 + p
    result = to_uint8(values, Percentiles(10, 90), FILE)
    assert result[:900].max() == 0
    assert result[900:][[0, 10, 50, 90, 100]].tolist() == [0, 0, 128, 255, 255]  # 111 to 191


def test_percentiles_are_those_of_all_values_if_the_minimum_is_not_0():
    values = np.arange(-50, 51)
    assert to_uint8(values, Percentiles(10, 90), FILE)[[0, 10, 50, 90, 100]].tolist() == [0, 0, 128, 255, 255]


def test_the_default_for_other_dtypes_is_the_percentiles_of_the_challenge():
    values = np.random.default_rng(1).normal(100, 40, (3, 50, 50)).astype(np.float32)
    np.testing.assert_array_equal(to_uint8(values, None, FILE), to_uint8(values, Percentiles(0.5, 99.5), FILE))
    low, high = np.percentile(values, [0.5, 99.5])
    expected = np.rint(np.clip((values.astype(np.float64) - low) / (high - low) * 255, 0, 255))
    np.testing.assert_array_equal(to_uint8(values, None, FILE), expected)


def test_equal_percentiles_give_way_to_the_smallest_and_largest_value():
    values = np.zeros(1000)
    values[7] = 1  # both percentiles of the values above 0 are 1
    result = to_uint8(values, None, FILE)
    assert result[7] == 255
    assert result.sum() == 255


def test_equal_values_become_0():
    assert levels(np.full(4, 7, np.int16), None) == [0, 0, 0, 0]


def test_the_values_are_not_changed():
    values = np.arange(-8, 8, dtype=np.float32).reshape(2, 2, 4)
    before = values.copy()
    to_uint8(values, Percentiles(), FILE)
    np.testing.assert_array_equal(values, before)


FINITE = st.floats(-1e6, 1e6)


@given(
    arrays.arrays(st.sampled_from([np.int16, np.uint16, np.float32]), arrays.array_shapes(min_dims=1, max_dims=4)),
    st.builds(Window, FINITE, st.floats(1e-3, 1e6)) | st.just(Percentiles()),
)
def test_levels_keep_the_order_of_the_values(values, window):
    if not np.isfinite(values).any():
        values = np.zeros_like(values)
    result = to_uint8(values, window, FILE)
    assert result.shape == values.shape
    assert result.dtype == np.uint8
    order = np.argsort(values, axis=None)
    known = ~np.isnan(values.ravel()[order])
    assert (np.diff(result.ravel()[order][known].astype(int)) >= 0).all()
    assert (result[np.isnan(values)] == 0).all()
