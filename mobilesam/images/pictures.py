"""Masks as gray images, and writing of images to files."""

import io
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..util.files import check_folder, whole_file


def mask_image(mask: NDArray[np.bool_]) -> Image.Image:
    """Convert a bool (H, W) mask to an 8-bit gray image, 255 inside the mask and 0 outside."""
    return Image.fromarray(mask.view(np.uint8) * np.uint8(255))


def check_output(path: str | os.PathLike[str], mode: str = "L") -> Path:
    """Check that an image of a PIL mode can be written to the path, without creating a file. Returns the path.

    Raises:
        OSError: See `files.check_folder`.
        ValueError: Pillow cannot write an image of this mode in the format of the extension.
    """
    path = Path(path)
    trial = io.BytesIO()
    trial.name = path.name  # Pillow takes the format from the extension
    try:
        Image.new(mode, (1, 1)).save(trial)
    except (KeyError, OSError, ValueError):
        raise ValueError(f"cannot write an image as {path.suffix.lower()!r}, use .png: {path}") from None
    check_folder(path)
    return path


def save_image(image: Image.Image, path: str | os.PathLike[str]) -> None:
    """Write an image in the format of the path's extension. A failure leaves no partial file.

    Raises:
        OSError, ValueError: See `check_output`, which is called before writing.
    """
    path = check_output(path, image.mode)
    with whole_file(path) as partial:
        encoded = io.BytesIO()  # Pillow's encoders do not notice that a file took a part of the bytes, on a full disk
        encoded.name = path.name
        image.save(encoded)
        partial.write_bytes(encoded.getbuffer())
