"""The value range and the bands of an image, in every function that accepts an image."""

import re
import warnings
from functools import partial

import numpy as np
import pytest
from golden import PHOTOS
from noise import noise
from PIL import Image

import mobilesam
from mobilesam import SamAutomaticMaskGenerator, SamPredictor, results
from mobilesam.images.photo import open_rgb
from mobilesam.images.value_range import parse_bands, parse_range

TWELVE = noise(40, 50).astype(np.uint16) * 16  # 12 bits, 0 to 4080
CHELSEA = np.asarray(Image.open(PHOTOS["chelsea"]).convert("RGB"))


def read(image: object, **options: object) -> np.ndarray:
    return np.asarray(open_rgb(image, **options))


def scaled(values: np.ndarray, low: object, high: object) -> np.ndarray:
    """The definition: low becomes 0, high becomes 255, values outside are clipped, halves are rounded to even."""
    return np.rint(np.clip((values.astype(np.float64) - low) * (255 / (np.asarray(high, np.float64) - low)), 0, 255))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.uint32, np.int64, np.float32, np.float64])
def test_the_ranges_of_every_dtype(dtype):
    values = (noise(300, 20).astype(np.int64) // 2).astype(dtype)
    if dtype not in (np.uint8, np.uint32):
        values = values - dtype(40)
    by_channel = values.min(axis=(0, 1)), values.max(axis=(0, 1))
    np.testing.assert_array_equal(read(values, value_range=(10, 90)), scaled(values, 10, 90))
    np.testing.assert_array_equal(read(values, value_range="minmax"), scaled(values, values.min(), values.max()))
    np.testing.assert_array_equal(read(values, value_range="minmax-channel"), scaled(values, *by_channel))


def test_alpha_and_unused_bands_do_not_count_for_the_range():
    values = np.dstack([TWELVE, np.full(TWELVE.shape[:2], 65535, np.uint16)])
    expected = scaled(TWELVE, TWELVE.min(), TWELVE.max())
    np.testing.assert_array_equal(read(values, value_range="minmax"), expected)
    np.testing.assert_array_equal(read(values, value_range="minmax", bands=(2, 0, 1)), expected[..., [2, 0, 1]])


def test_an_image_of_one_value_is_black():
    for value_range in ("minmax", "minmax-channel"):
        assert not read(np.full((3, 4), 7, np.int32), value_range=value_range).any()


@pytest.mark.parametrize("suffix", [".tif", ".png"])
def test_gray_files_of_16_bits(tmp_path, suffix):
    path = tmp_path / f"twelve{suffix}"
    Image.fromarray(TWELVE[..., 0]).save(path)
    with pytest.warns(UserWarning, match="less than 1/8 of their range"):
        dark = read(path)
    assert dark.max() == 16
    bright = scaled(TWELVE[..., :1], TWELVE[..., 0].min(), TWELVE[..., 0].max())
    np.testing.assert_array_equal(read(path, value_range="minmax"), np.repeat(bright, 3, axis=2))


@pytest.mark.parametrize(
    ("values", "warned"),
    [
        (TWELVE, True),
        (TWELVE + 30000, True),
        (TWELVE[..., 0], True),
        (np.array([[0, 8191]], np.uint16), True),
        (np.array([[0, 8192]], np.uint16), False),  # 1/8 of the range
        (np.full((3, 4), 5, np.uint16), False),
        (TWELVE.astype(np.uint8), False),
    ],
)
def test_a_warning_for_16_bit_values_that_use_little_of_their_range(values, warned):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        read(values)
    assert [str(warning.message)[:27] for warning in caught] == (["an array: 16-bit values use"] if warned else [])


WRONG = {
    "value_range must be 'dtype', 'minmax', 'minmax-channel' or (low, high), got 'max'": {"value_range": "max"},
    "got (1, 2, 3)": {"value_range": (1, 2, 3)},
    "got 7": {"value_range": 7},
    "must be finite with low < high, got (5, 5)": {"value_range": (5, 5)},
    "must be finite with low < high, got (nan, 5)": {"value_range": (np.nan, 5)},
    "bands must be three band numbers from 0, such as (2, 1, 0), got (1, 2)": {"bands": (1, 2)},
    "got (0, 1, -1)": {"bands": (0, 1, -1)},
    "got '210'": {"bands": "210"},
    "got (0, 1, 2.5)": {"bands": (0, 1, 2.5)},
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_options_are_refused_before_the_file_is_opened(message):
    with pytest.raises(ValueError, match=re.escape(message)):
        open_rgb("no such file", **WRONG[message])


def test_bands_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match=r"bands must be below the number of bands, 3, got \(0, 1, 3\)"):
        open_rgb(TWELVE, bands=(0, 1, 3))
    with pytest.raises(ValueError, match="not both: bands set the order"):
        open_rgb(TWELVE, "BGR", bands=(0, 1, 2))
    with pytest.raises(ValueError, match=r"with 1 to 4 channels, and not empty, got shape .*; choose three with bands"):
        open_rgb(np.zeros((9, 5, 8), np.uint8))
    with pytest.raises(ValueError, match=r"for channels first, pass array\.transpose\(1, 2, 0\)"):
        open_rgb(np.zeros((3, 48, 64), np.uint8))


def test_values_that_are_not_finite_are_refused():
    for value in (np.nan, np.inf):
        values = np.zeros((300, 4))
        values[290, 2] = value
        for value_range in ("minmax", "minmax-channel", (0, 1)):
            with pytest.raises(ValueError, match="finite values, got NaN or infinity"):
                open_rgb(values, value_range=value_range)


@pytest.mark.parametrize(
    ("text", "parsed"),
    [("minmax", "minmax"), ("minmax-channel", "minmax-channel"), ("-1000,400", (-1000, 400)), ("0.5,1e3", (0.5, 1000))],
)
def test_a_range_as_text(text, parsed):
    assert parse_range(text) == parsed


@pytest.mark.parametrize("text", ["", "max", "5", "5,4", "1,2,3", "a,b", "0,inf"])
def test_a_wrong_range_as_text(text):
    with pytest.raises(ValueError, match="value_range must be"):
        parse_range(text)


def test_bands_as_text():
    assert parse_bands("2,1,0") == (2, 1, 0)
    for text in ("", "2,1", "2,1,x", "2,1,-1"):
        with pytest.raises(ValueError, match="bands must be three band numbers"):
            parse_bands(text)


def test_every_function_that_accepts_an_image_has_the_range_and_the_bands(model):
    """The image's bands are reversed and its values lie in a part of int16. With both options the image is CHELSEA."""
    image = (CHELSEA[..., ::-1].astype(np.int16) - 128) * 100
    options = {"value_range": (-12800, 12700), "bands": (2, 1, 0)}
    np.testing.assert_array_equal(read(image, **options), CHELSEA)
    point, grid = [(220, 140)], {"points_per_side": 2, "output_mode": "coco_rle"}
    expected = model.encode(CHELSEA).segment(point)
    embedding = model.encode(image, **options)
    assert embedding.value_range == (-12800, 12700)
    predictor = SamPredictor(model)
    predictor.set_image(image, **options)
    for features in (embedding.features, predictor.embedding.features):
        np.testing.assert_array_equal(features, model.encode(CHELSEA).features)
    one = mobilesam.segment(image, point, model=model, **options)
    np.testing.assert_array_equal(one.low_res, mobilesam.segment(CHELSEA, point, model=model).low_res)
    records = SamAutomaticMaskGenerator(model, **grid).generate(CHELSEA)
    assert SamAutomaticMaskGenerator(model, **grid).generate(image, **options) == records
    assert mobilesam.everything(image, model=model, **grid, **options) == records
    answer, objects = embedding.segment(point), [expected.as_object()]
    for of_ours, of_chelsea in (
        (partial(answer.overlay, image, bands=(2, 1, 0)), partial(expected.overlay, CHELSEA)),  # the embedding's range
        (partial(answer.cutout, image, bands=(2, 1, 0)), partial(expected.cutout, CHELSEA)),
        (partial(results.overlay, image, objects, **options), partial(results.overlay, CHELSEA, objects)),
        (partial(results.cutout, image, objects, **options), partial(results.cutout, CHELSEA, objects)),
    ):
        np.testing.assert_array_equal(np.asarray(of_ours()), np.asarray(of_chelsea()))
