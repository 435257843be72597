"""Conversion of NumPy arrays and of gray PIL images with more than 8 bits to 8-bit PIL images."""

import os
from typing import IO, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .rgb_photo import Photo

ImageLike: TypeAlias = (
    str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | Image.Image | NDArray[np.generic] | Photo
)


def from_array(array: object, image_format: str) -> Image.Image:
    """Convert an array to a PIL image of mode RGB. See `photo.open_rgb` for the accepted shapes and dtypes."""
    if not isinstance(array, np.ndarray):
        expected = "a path, bytes, a file object, a PIL image or a NumPy array"
        raise TypeError(f"image must be {expected}, got {type(array).__name__}")
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.ndim not in (2, 3) or not 1 <= channels <= 4 or array.size == 0:
        expected = "(H, W), or (H, W, C) with 1 to 4 channels, and not empty"
        raise ValueError(f"an image array must be {expected}, got shape {array.shape}")
    levels = _to_uint8(array)
    if channels < 3:
        return Image.fromarray(levels.reshape(*levels.shape[:2], channels)[:, :, 0]).convert("RGB")
    rgb = levels[:, :, :3] if image_format == "RGB" else levels[:, :, 2::-1]
    return Image.fromarray(np.ascontiguousarray(rgb))


def from_levels(image: Image.Image) -> Image.Image:
    """Convert a gray image of Pillow's modes F, I or I;16 to 8 bits."""
    levels = np.asarray(image)
    if image.mode == "I":
        if levels.min() < 0 or levels.max() > 65535:
            raise ValueError("an integer gray image must hold 16-bit values (0 to 65535)")
        levels = levels.astype(np.uint16)
    return Image.fromarray(_to_uint8(levels))


def _to_uint8(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    kind = values.dtype.kind
    if values.dtype == np.uint8:
        return values.astype(np.uint8, copy=False)
    if kind == "b":
        return values.astype(np.uint8) * np.uint8(255)
    if kind == "u" and values.dtype.itemsize == 2:
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if kind != "f":
        raise TypeError(f"an image array must be uint8, uint16, bool or float in [0, 1], got dtype {values.dtype}")
    if not np.isfinite(values).all():
        raise ValueError("a float image must lie in [0, 1], got NaN or infinity")
    levels = np.rint(values.astype(np.float32) * np.float32(255))
    if levels.min() < 0 or levels.max() > 255:
        span = f"{float(values.min()):g} to {float(values.max()):g}"
        raise ValueError(f"a float image must lie in [0, 1], got values from {span}; scale them, or convert to uint8")
    return levels.astype(np.uint8)
