"""Masks as pictures, and pictures as files, whole or none."""

import io
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..util.files import check_folder, whole_file


def mask_image(mask: NDArray[np.bool_]) -> Image.Image:
    """A bool (H, W) mask as an 8-bit gray image of 0 and 255."""
    return Image.fromarray(mask.view(np.uint8) * np.uint8(255))


def check_output(path: str | os.PathLike[str], mode: str = "L") -> Path:
    """The path, where an image of this PIL mode can be written; nothing is created.

    Raises ValueError for an extension that Pillow cannot write in that mode, OSError as `files.check_folder`.
    """
    path = Path(path)
    trial = io.BytesIO()
    trial.name = path.name  # whose extension says the format
    try:
        Image.new(mode, (1, 1)).save(trial)
    except (KeyError, OSError, ValueError):
        raise ValueError(f"cannot write an image as {path.suffix.lower()!r}, use .png: {path}") from None
    check_folder(path)
    return path


def save_image(image: Image.Image, path: str | os.PathLike[str]) -> None:
    """Write the image, in the format of the path's extension, beside the path and then over it in one step.

    Raises what `check_output` raises, before anything is written; a failure leaves no file behind.
    """
    path = check_output(path, image.mode)
    with whole_file(path) as partial:
        image.save(partial)
