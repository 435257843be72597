"""The way to the encoder's input, overlays, and files written whole or not at all. Reading: test_inputs.py."""

import os

import numpy as np
import pytest
from PIL import Image

from mobilesam import image
from mobilesam.photo import resized_size


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)


# The way to the encoder's input, against the contract in float64


SIZES = {  # (height, width) -> (new_h, new_w)
    (1, 1): (1024, 1024),
    (7, 2000): (4, 1024),
    (2000, 7): (1024, 4),
    (1023, 1025): (1022, 1024),
    (5000, 3000): (1024, 614),
    (640, 427): (1024, 683),
    (1024, 1024): (1024, 1024),
    (5, 2048): (3, 1024),  # exactly 2.5: halves round up, not to even
    (1, 5000): (1, 1024),  # would round to 0
    (5000, 1): (1024, 1),
}


@pytest.mark.parametrize(("size", "expected"), SIZES.items())
def test_resized_size(size, expected):
    assert resized_size(*size) == expected


def triangle_weights(old: int, new: int) -> np.ndarray:
    """(new, old): bilinear interpolation, widened by the scale where it shrinks (antialias)."""
    scale = old / new
    distance = np.abs(np.arange(old) + 0.5 - (np.arange(new)[:, None] + 0.5) * scale)
    weights = np.maximum(0, 1 - distance / max(scale, 1))
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("size", SIZES)
def test_encoder_input_agrees_with_the_contract(size):
    rgb = noise(*size)
    x, (new_h, new_w) = image.to_encoder_input(rgb)
    assert (x.shape, x.dtype) == ((1024, 1024, 3), np.float32)
    assert not x[new_h:].any() and not x[:, new_w:].any()

    mean, std = np.array([123.675, 116.28, 103.53]), np.array([58.395, 57.12, 57.375])
    levels = x[:new_h, :new_w] * std + mean
    resized = np.rint(levels)
    # Two roundings in float32 of numbers up to 255, and those that undo them.
    assert abs(levels - resized).max() <= 4 * 255 * 2.0**-24
    np.testing.assert_array_equal(x[:new_h, :new_w], (resized.astype(np.float32) - np.float32(mean)) / np.float32(std))

    rows, columns = np.unique([0, new_h // 3, new_h - 1]), np.unique([0, new_w // 2, new_w - 1])
    wide = np.einsum("nh,hwc->nwc", triangle_weights(size[0], new_h)[rows], rgb)
    exact = np.einsum("mw,nwc->nmc", triangle_weights(size[1], new_w)[columns], wide)
    # Pillow rounds to 8 bits after each of its two passes (1/2 each), its weights to 22 bits (under 1/100).
    assert abs(resized[np.ix_(rows, columns)] - exact).max() <= 1.01


def test_encoder_input_is_the_same_from_an_array_and_an_image():
    rgb = noise(60, 90)
    np.testing.assert_array_equal(image.to_encoder_input(rgb)[0], image.to_encoder_input(Image.fromarray(rgb))[0])


# Writing


def test_overlay_marks_the_mask_alone():
    rgb = noise(90, 120)
    mask = np.zeros((90, 120), bool)
    mask[20:60, 30:80] = True
    drawn = np.asarray(image.draw_overlay(rgb, mask))
    assert drawn.shape == rgb.shape
    np.testing.assert_array_equal(drawn[70:], rgb[70:])
    blend = rgb + (np.array(image.FILL_COLOUR) - rgb.astype(float)) * image.FILL_ALPHA
    assert abs(drawn[25:55, 35:75] - blend[25:55, 35:75]).max() <= 1
    assert tuple(drawn[20, 40]) == image.INNER_LINE_COLOUR
    assert tuple(drawn[19, 40]) == image.OUTER_LINE_COLOUR


def test_overlay_of_an_empty_mask_is_the_photo():
    rgb = noise(30, 40)
    np.testing.assert_array_equal(np.asarray(image.draw_overlay(rgb, np.zeros((30, 40), bool))), rgb)


def test_overlay_leaves_the_photo_alone():
    photo = Image.fromarray(noise(30, 40))
    before = photo.tobytes()
    image.draw_overlay(photo, np.ones((30, 40), bool))
    assert photo.tobytes() == before


def test_overlay_of_another_size_is_refused():
    with pytest.raises(ValueError, match="the mask is 40x30 but the image is 30x40 pixels"):
        image.draw_overlay(noise(40, 30), np.zeros((30, 40), bool))


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".bmp", ".tif"])
def test_a_mask_survives_the_file(tmp_path, suffix):
    mask = noise(33, 57)[..., 0] > 127
    path = tmp_path / f"mask{suffix}"
    image.save_image(image.mask_image(mask), path)
    with Image.open(path) as saved:
        assert saved.mode == "L"
        np.testing.assert_array_equal(np.asarray(saved), np.where(mask, 255, 0))


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("mask", ValueError, "cannot write an image as ''"),
        ("mask.txt", ValueError, "cannot write an image as '.txt'"),
        ("mask.xbm", ValueError, "cannot write an image as '.xbm'"),  # Pillow writes it, but not gray
        ("nowhere/mask.png", FileNotFoundError, "no such folder to write into: .*nowhere"),
        ("folder.png", IsADirectoryError, "over a folder: .*folder.png"),
    ],
)
def test_an_impossible_output_is_refused_before_anything_is_written(tmp_path, name, error, message):
    (tmp_path / "folder.png").mkdir()
    for write in (image.check_output, lambda path: image.save_image(Image.new("L", (2, 2)), path)):
        with pytest.raises(error, match=message):
            write(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["folder.png"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write into any folder")
def test_a_closed_folder_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match="no permission to write into folder"):
        image.check_output(tmp_path / "mask.png")


def test_a_failing_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "mask.png"
    path.write_bytes(b"old")
    picture = Image.new("L", (2, 2))

    def half_written(target):
        target.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(picture, "save", half_written)
    with pytest.raises(OSError, match="no space left"):
        image.save_image(picture, path)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"old"
