"""The encoder's input, a resized, normalized and padded photo, agrees with definitions in float64."""

import numpy as np
import pytest
from noise import noise
from PIL import Image

from mobilesam.images.canvas import to_encoder_input
from mobilesam.images.geometry import resized_size

SIZES = {  # size of the photo (height, width) -> its size on the canvas
    (1, 1): (1024, 1024),
    (7, 2000): (4, 1024),
    (2000, 7): (1024, 4),
    (1023, 1025): (1022, 1024),
    (5000, 3000): (1024, 614),
    (640, 427): (1024, 683),
    (1024, 1024): (1024, 1024),
    (5, 2048): (3, 1024),  # the exact height 2.5 is rounded up
    (1, 5000): (1, 1024),  # the exact height is 0.2, and the least height is 1
    (5000, 1): (1024, 1),
}


@pytest.mark.parametrize(("size", "expected"), SIZES.items())
def test_resized_size(size, expected):
    assert resized_size(*size) == expected


def triangle_weights(old: int, new: int) -> np.ndarray:
    """Weights (new, old) of bilinear interpolation along one axis, with antialiasing if the image shrinks."""
    scale = old / new
    distance = np.abs(np.arange(old) + 0.5 - (np.arange(new)[:, None] + 0.5) * scale)
    weights = np.maximum(0, 1 - distance / max(scale, 1))
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("size", SIZES)
def test_encoder_input_agrees_with_its_definition(size):
    rgb = noise(*size)
    x, (new_h, new_w) = to_encoder_input(rgb)
    assert (x.shape, x.dtype) == ((1024, 1024, 3), np.float32)
    assert not x[new_h:].any() and not x[:, new_w:].any()

    mean, std = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
    levels = x[:new_h, :new_w] * std + mean
    resized = np.rint(levels)
    # Normalizing rounds twice in float32, and so does undoing the normalization. Pixel values are at most 255.
    assert abs(levels - resized).max() <= 4 * 255 * 2.0**-24
    np.testing.assert_array_equal(x[:new_h, :new_w], (resized.astype(np.float32) - np.float32(mean)) / np.float32(std))

    rows, columns = np.unique([0, new_h // 3, new_h - 1]), np.unique([0, new_w // 2, new_w - 1])
    wide = np.einsum("nh,hwc->nwc", triangle_weights(size[0], new_h)[rows], rgb)
    exact = np.einsum("mw,nwc->nmc", triangle_weights(size[1], new_w)[columns], wide)
    # Pillow rounds to 8 bits after each of two passes, with errors of 1/2. Its 22-bit weights add less than 1/100.
    assert abs(resized[np.ix_(rows, columns)] - exact).max() <= 1.01


def test_encoder_input_is_the_same_from_an_array_and_an_image():
    rgb = noise(60, 90)
    np.testing.assert_array_equal(to_encoder_input(rgb)[0], to_encoder_input(Image.fromarray(rgb))[0])
