"""Conversion of NumPy arrays, and of gray PIL images with more than 8 bits, to 8-bit PIL images of mode RGB."""

import os
import warnings
from typing import IO, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .rgb_photo import Photo
from .value_range import FEW_LEVELS, USED_SHARE, Bands, ValueRange

ImageLike: TypeAlias = (
    str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | Image.Image | NDArray[np.generic] | Photo
)

_NOT_FINITE = "an image must hold finite values, got NaN or infinity"
ROWS = 256  # rows that are converted at a time, so that temporary arrays stay small


def from_array(
    array: object, image_format: str, value_range: ValueRange, bands: Bands | None, name: str = "an array"
) -> Image.Image:
    """Convert an array to a PIL image of mode RGB. See `photo.open_rgb` for the accepted shapes and dtypes.

    `name` is the image's name, for the warning.
    """
    if not isinstance(array, np.ndarray):
        expected = "a path, bytes, a file object, a PIL image or a NumPy array"
        raise TypeError(f"image must be {expected}, got {type(array).__name__}")
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.ndim not in (2, 3) or array.size == 0 or (bands is None and channels > 4):
        expected = "(H, W), or (H, W, C) with 1 to 4 channels, and not empty"
        more = ""
        if array.ndim == 3 and channels > 4:
            first = array.shape[0] <= 4
            more = "; for channels first, pass array.transpose(1, 2, 0)" if first else "; choose three with bands="
        raise ValueError(f"an image array must be {expected}, got shape {array.shape}{more}")
    image = array.reshape(*array.shape[:2], channels)
    if bands is not None:
        if image_format != "RGB":
            raise ValueError(f"give bands or image_format={image_format!r}, not both: bands set the order of channels")
        if max(bands) >= channels:
            raise ValueError(f"bands must be below the number of bands, {channels}, got {bands}")
        image = image[:, :, list(bands)]
    elif channels < 3:
        image = image[:, :, :1]
    else:
        image = image[:, :, :3] if image_format == "RGB" else image[:, :, 2::-1]
    levels = _to_uint8(image, name) if value_range == "dtype" else _scaled(image, value_range)
    if levels.shape[2] == 1:
        return Image.fromarray(levels[:, :, 0]).convert("RGB")
    return Image.fromarray(np.ascontiguousarray(levels))


def from_picture(picture: Image.Image, value_range: ValueRange, bands: Bands | None, name: str) -> Image.Image:
    """Convert a PIL image to mode RGB through an array of its values. See `from_array`."""
    values = np.asarray(picture)
    if picture.mode == "I" and value_range == "dtype":
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("an integer gray image must hold 16-bit values (0 to 65535), or needs a value_range")
        values = values.astype(np.uint16)
    return from_array(values, "RGB", value_range, bands, name)


def _to_uint8(values: NDArray[np.generic], name: str) -> NDArray[np.uint8]:
    kind = values.dtype.kind
    if values.dtype == np.uint8:
        return values.astype(np.uint8, copy=False)
    if kind == "b":
        return values.astype(np.uint8) * np.uint8(255)
    if kind == "u" and values.dtype.itemsize == 2:
        if 0 < int(values.max()) - int(values.min()) < (1 << 16) // USED_SHARE:
            warnings.warn(FEW_LEVELS.format(name), UserWarning, stacklevel=2)
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if kind != "f":
        raise TypeError(
            "an image array must be uint8, uint16, bool or float in [0, 1], or any integers or floats with a "
            f"value_range, got dtype {values.dtype}"
        )
    if not np.isfinite(values).all():
        raise ValueError("a float image must lie in [0, 1], got NaN or infinity")
    with np.errstate(over="ignore"):  # infinity is refused below
        levels = np.rint(values.astype(np.float32) * np.float32(255))
    if levels.min() < 0 or levels.max() > 255:
        span = f"{float(values.min()):g} to {float(values.max()):g}"
        raise ValueError(f"a float image must lie in [0, 1], got values from {span}; scale them, or pass a value_range")
    return levels.astype(np.uint8)


def _scaled(values: NDArray[np.generic], value_range: ValueRange) -> NDArray[np.uint8]:
    """Scale values (H, W, C) so that the range becomes 0 to 255. Values outside the range are clipped."""
    if values.dtype.kind not in "biuf":
        raise TypeError(f"an image array must hold integers or floats, got dtype {values.dtype}")
    if isinstance(value_range, tuple):
        low, high = map(np.float64, value_range)
    else:
        axes = (0, 1) if value_range == "minmax-channel" else None
        low, high = (limit(values, axis=axes).astype(np.float64) for limit in (np.min, np.max))
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise ValueError(_NOT_FINITE)
    with np.errstate(over="ignore"):
        span = high - low
    if not np.isfinite(span).all():
        raise ValueError(f"an image's values must span a finite float64 range, got {np.min(low):g} to {np.max(high):g}")
    levels = np.empty(values.shape, np.uint8)
    with np.errstate(over="ignore"):
        scale = np.divide(255, span, out=np.zeros_like(span), where=high > low)
    if not np.isfinite(scale).all():
        raise ValueError(f"an image's values must differ by at least 1e-300, got {np.min(low):g} to {np.max(high):g}")
    for first in range(0, len(values), ROWS):
        rows = values[first : first + ROWS].astype(np.float64)
        if not np.isfinite(rows).all():
            raise ValueError(_NOT_FINITE)
        with np.errstate(over="ignore"):  # values far outside the range are clipped
            levels[first : first + ROWS] = np.rint(np.clip((rows - low) * scale, 0, 255))
    return levels
