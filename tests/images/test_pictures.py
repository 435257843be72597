"""Image files are written atomically. test_photo.py tests reading of images."""

import os

import numpy as np
import pytest
from noise import noise
from PIL import Image

from mobilesam.images import pictures


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".bmp", ".tif"])
def test_a_mask_survives_the_file(tmp_path, suffix):
    mask = noise(33, 57)[..., 0] > 127
    path = tmp_path / f"mask{suffix}"
    pictures.save_image(pictures.mask_image(mask), path)
    with Image.open(path) as saved:
        assert saved.mode == "L"
        np.testing.assert_array_equal(np.asarray(saved), np.where(mask, 255, 0))


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("mask", ValueError, "cannot write an image as ''"),
        ("mask.txt", ValueError, "cannot write an image as '.txt'"),
        ("mask.xbm", ValueError, "cannot write an image as '.xbm'"),  # Pillow cannot write gray images as XBM
        ("nowhere/mask.png", FileNotFoundError, "no such folder to write into: .*nowhere"),
        ("folder.png", IsADirectoryError, "over a folder: .*folder.png"),
    ],
)
def test_an_impossible_output_is_refused_before_anything_is_written(tmp_path, name, error, message):
    (tmp_path / "folder.png").mkdir()
    for write in (pictures.check_output, lambda path: pictures.save_image(Image.new("L", (2, 2)), path)):
        with pytest.raises(error, match=message):
            write(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["folder.png"]


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="chmod does not close a folder on Windows")
@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write into any folder")
def test_a_closed_folder_is_refused(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match="no permission to write into folder"):
        pictures.check_output(tmp_path / "mask.png")


def test_a_failing_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "mask.png"
    path.write_bytes(b"old")
    picture = Image.new("L", (2, 2))

    def half_written(target):
        target.write(b"half")
        raise OSError("no space left")

    monkeypatch.setattr(picture, "save", half_written)
    with pytest.raises(OSError, match="no space left"):
        pictures.save_image(picture, path)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"old"
