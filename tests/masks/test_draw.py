"""Overlays of one mask on a photo. test_results.py tests overlays of several objects."""

import numpy as np
import pytest
from noise import noise
from PIL import Image

from mobilesam.masks import draw


def test_overlay_marks_the_mask_alone():
    rgb = noise(90, 120)
    mask = np.zeros((90, 120), bool)
    mask[20:60, 30:80] = True
    drawn = np.asarray(draw.draw_overlay(rgb, mask))
    assert drawn.shape == rgb.shape
    np.testing.assert_array_equal(drawn[70:], rgb[70:])
    blend = rgb + (np.array(draw.FILL_COLOUR) - rgb.astype(float)) * draw.FILL_ALPHA
    assert abs(drawn[25:55, 35:75] - blend[25:55, 35:75]).max() <= 1
    assert tuple(drawn[20, 40]) == draw.INNER_LINE_COLOUR
    assert tuple(drawn[19, 40]) == draw.OUTER_LINE_COLOUR


def test_overlay_of_an_empty_mask_is_the_photo():
    rgb = noise(30, 40)
    np.testing.assert_array_equal(np.asarray(draw.draw_overlay(rgb, np.zeros((30, 40), bool))), rgb)


def test_overlay_leaves_the_photo_alone():
    photo = Image.fromarray(noise(30, 40))
    before = photo.tobytes()
    draw.draw_overlay(photo, np.ones((30, 40), bool))
    assert photo.tobytes() == before


def test_overlay_of_another_size_is_refused():
    with pytest.raises(ValueError, match="the mask is 40x30 but the image is 30x40 pixels"):
        draw.draw_overlay(noise(40, 30), np.zeros((30, 40), bool))
