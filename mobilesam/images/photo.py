"""Opening of images as RGB. Files are opened without NumPy, because commands read the photo before NumPy is loaded."""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path
from typing import IO, TYPE_CHECKING

from PIL import Image

from ..architecture import MOBILE_SAM, Architecture
from ..util.files import image_path
from .files import MAX_PIXELS_VARIABLE, decode, ignore_logged_errors
from .rgb_photo import Photo
from .value_range import Bands, ValueRange, checked_bands, checked_range

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .arrays import ImageLike

MAX_PIXELS = 256_000_000  # limit for commands, because phones take photos of 200 million pixels
IMAGE_FORMATS = ("RGB", "BGR")
_WITHOUT_DIRECT_CONVERSION = {"La": "LA", "RGBa": "RGBA"}  # Pillow's premultiplied modes, and the mode before RGB
# The accepted types of images, except arrays and file objects.
_NEITHER_ARRAY_NOR_FILE = str, os.PathLike, bytes, bytearray, memoryview, Image.Image, Photo


def as_photo(
    image: ImageLike, image_format: str = "RGB", *, value_range: ValueRange = "dtype", bands: Bands | None = None
) -> Photo:
    """Open an image as a Photo. Arguments and errors are those of `open_rgb`."""
    rgb = open_rgb(image, image_format, value_range=value_range, bands=bands)
    return image if isinstance(image, Photo) else Photo(rgb, file_name(image))


def read_photo(
    image: ImageLike,
    architecture: Architecture = MOBILE_SAM,
    *,
    value_range: ValueRange = "dtype",
    bands: Bands | None = None,
) -> Photo:
    """Open an image as a Photo. For MobileSAM's canvas, resize it now instead of on first access."""
    photo = as_photo(image, value_range=value_range, bands=bands)
    if architecture.preprocessing == "mean_std":
        _ = photo.resized
    return photo


def file_name(image: ImageLike) -> str:
    """The name, without folders, of the file that the image comes from. Empty if the image has no file or no name."""
    if isinstance(image, Photo):
        return image.name
    path = image if isinstance(image, (str, os.PathLike)) else getattr(image, "filename", getattr(image, "name", ""))
    return Path(path).name if isinstance(path, (str, os.PathLike)) else ""


def open_rgb(
    image: ImageLike, image_format: str = "RGB", *, value_range: ValueRange = "dtype", bands: Bands | None = None
) -> Image.Image:
    """Open an image as a PIL image of mode RGB.

    `image` is one of:

    - A path, the bytes of a file or a binary file object, in any format that Pillow reads; HEIC with the extra [heif];
      TIFF files that Pillow cannot read with the extra [tiff]. The EXIF orientation is applied. EXIF that cannot be
      read is ignored. The first frame of an animation is used.
    - A PIL image of any mode. The EXIF orientation of a PIL image is ignored.
    - A Photo. The other arguments have no effect on a Photo.
    - An array (H, W) or (H, W, C) with 1 (gray), 2 (gray, alpha), 3 (RGB) or 4 (RGB, alpha) channels, of dtype uint8,
      uint16, bool, or float in [0, 1]. With a value range, any integers and floats are accepted, and with `bands` any
      number of channels.

    Other colour spaces are converted to RGB. Alpha is dropped without blending, so hidden colours become visible.
    16-bit values are scaled so that 65535 becomes 255. PIL's modes I (0 to 65535) and F (0 to 1) are scaled in the same
    way.

    Args:
        image: The image.
        image_format: "RGB", or "BGR" for an array with channels in this order, as from OpenCV.
        value_range: The values that become black and white: "dtype" for the range of the dtype; "minmax" for the
            smallest and the largest value of the image; "minmax-channel" for those of each channel; or (low, high).
        bands: Three numbers, from 0, of the bands of a file, or channels of an array, that are red, green and blue.
            None for the first three, or the only one.

    Warns:
        UserWarning: 16-bit values use less than 1/8 of their range, and no value range is given.

    Raises:
        OSError: The file cannot be opened.
        TypeError: The type of `image` or the dtype of an array is not accepted.
        ValueError: The data is not an image or is damaged, or the image is empty or has values that are not finite or
            not in the accepted range. ValueError is also raised for an image of more than twice
            PIL.Image.MAX_IMAGE_PIXELS pixels. Such an image may be a decompression bomb and is not decoded.
    """
    if image_format not in IMAGE_FORMATS:
        raise ValueError(f"image_format must be 'RGB' or 'BGR', got {image_format!r}")
    value_range, bands = checked_range(value_range), checked_bands(bands)
    if not isinstance(image, _NEITHER_ARRAY_NOR_FILE) and (hasattr(image, "__array__") or not hasattr(image, "read")):
        from .arrays import from_array

        return from_array(image, image_format, value_range, bands)
    if image_format != "RGB":
        raise ValueError("image_format='BGR' is for arrays: files and PIL images have their own channel order")
    if isinstance(image, Photo):
        return image.rgb
    if isinstance(image, Image.Image):
        return to_rgb(image, value_range, bands)
    if isinstance(image, (bytes, bytearray, memoryview)):
        return _open_file(io.BytesIO(image), f"{len(image)} bytes", value_range, bands)
    if isinstance(image, (str, os.PathLike)):
        path = image_path(image)
        if path.is_file():
            return _open_file(os.fspath(path), os.fspath(image), value_range, bands)
        # A pipe is not a regular file, but can be opened. For a folder or a missing file, open() raises OSError.
        with path.open("rb") as file:
            return _open_file(file, os.fspath(image), value_range, bands)
    if isinstance(image, io.TextIOBase):
        raise TypeError("the image file is open as text: open it with mode 'rb'")
    return _open_file(image, str(getattr(image, "name", "a file object")), value_range, bands)


def allow_large_photos() -> None:
    """Set Pillow's limit on pixels for this process to MOBILESAM_MAX_PIXELS, by default 256 million.

    Pillow's own limit is 179 million. Only commands call this function, because it changes the whole process. It also
    lets decoders log nothing to stderr.

    Raises:
        ValueError: MOBILESAM_MAX_PIXELS is not a whole number of at least 1.
    """
    given = os.environ.get(MAX_PIXELS_VARIABLE, "")
    if given and (not given.isascii() or not given.isdecimal() or int(given) < 1):
        raise ValueError(f"{MAX_PIXELS_VARIABLE} must be a whole number of pixels of at least 1, got {given!r}")
    ignore_logged_errors()
    # Pillow warns above MAX_IMAGE_PIXELS and raises an error above twice MAX_IMAGE_PIXELS.
    Image.MAX_IMAGE_PIXELS = -(-int(given or MAX_PIXELS) // 2)
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)


def _open_file(file: str | IO[bytes], name: str, value_range: ValueRange, bands: Bands | None) -> Image.Image:
    decoded = decode(file, name, value_range, bands)
    try:
        return to_rgb(decoded, value_range, bands, name)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from None


def to_rgb(
    image: Image.Image | NDArray[np.generic],
    value_range: ValueRange = "dtype",
    bands: Bands | None = None,
    name: str = "a PIL image",
) -> Image.Image:
    """Convert a decoded image, or the array of a TIFF file, to mode RGB. Arguments and errors: see `open_rgb`.

    `name` is the image's name, for the warning.
    """
    if not isinstance(image, Image.Image):
        from .arrays import from_array

        return from_array(image, "RGB", value_range, bands, name)
    if 0 in image.size:
        raise ValueError(f"the image is empty: {image.width}x{image.height} pixels")
    if image.mode == "F" or image.mode.startswith("I"):
        return _from_values(image, value_range, bands, name)
    image.load()
    colours = _without_palette(image)
    if bands is not None:
        return _from_values(colours, value_range, bands, name)
    rgb = colours if colours.mode == "RGB" else colours.convert("RGB")
    return rgb if value_range == "dtype" else _from_values(rgb, value_range, None, name)


def _from_values(image: Image.Image, value_range: ValueRange, bands: Bands | None, name: str) -> Image.Image:
    from .arrays import from_picture  # imported here, because it imports NumPy

    return from_picture(image, value_range, bands, name)


def _without_palette(image: Image.Image) -> Image.Image:
    """The image in a mode that Pillow converts to RGB directly, and whose bands are colours."""
    if image.mode == "P":
        return image.convert("RGBA" if "transparency" in image.info else "RGB")
    mode = _WITHOUT_DIRECT_CONVERSION.get(image.mode)
    return image.convert(mode) if mode else image
