"""Opening of images as RGB. Files are opened without NumPy, because commands read the photo before NumPy is loaded."""

from __future__ import annotations

import io
import os
import warnings
from pathlib import Path
from typing import IO, TYPE_CHECKING

from PIL import Image, ImageOps, UnidentifiedImageError

from .rgb_photo import Photo

if TYPE_CHECKING:
    from .arrays import ImageLike

MAX_PIXELS_VARIABLE = "MOBILESAM_MAX_PIXELS"
MAX_PIXELS = 256_000_000  # limit for commands, because phones take photos of 200 million pixels
IMAGE_FORMATS = ("RGB", "BGR")
_WITHOUT_DIRECT_CONVERSION = {"La": "LA", "RGBa": "RGBA"}  # Pillow's premultiplied modes, and the mode before RGB
# The accepted types of images, except arrays and file objects.
_NEITHER_ARRAY_NOR_FILE = str, os.PathLike, bytes, bytearray, memoryview, Image.Image, Photo


def as_photo(image: ImageLike, image_format: str = "RGB") -> Photo:
    """Open an image as a Photo. Arguments and errors are those of `open_rgb`."""
    rgb = open_rgb(image, image_format)
    return image if isinstance(image, Photo) else Photo(rgb)


def read_photo(image: ImageLike) -> Photo:
    """Open an image as a Photo, and resize it for the model's canvas now instead of on first access."""
    photo = as_photo(image)
    _ = photo.resized
    return photo


def open_rgb(image: ImageLike, image_format: str = "RGB") -> Image.Image:
    """Open an image as a PIL image of mode RGB.

    `image` is one of:

    - A path, the bytes of a file or a binary file object, in any format that Pillow reads. The EXIF orientation is
      applied. The first frame of an animation is used.
    - A PIL image of any mode. The EXIF orientation of a PIL image is ignored.
    - A Photo.
    - An array (H, W) or (H, W, C) with 1 (gray), 2 (gray, alpha), 3 (RGB) or 4 (RGB, alpha) channels, of dtype uint8,
      uint16, bool, or float in [0, 1].

    Other colour spaces are converted to RGB. Alpha is dropped without blending, so hidden colours become visible.
    16-bit values are scaled so that 65535 becomes 255. PIL's modes I (0 to 65535) and F (0 to 1) are scaled in the same
    way.

    Args:
        image: The image.
        image_format: "RGB", or "BGR" for an array with channels in this order, as from OpenCV.

    Raises:
        OSError: The file cannot be opened.
        TypeError: The type of `image` or the dtype of an array is not accepted.
        ValueError: The data is not an image or is damaged, or the image is empty or has values that are not finite or
            not in the accepted range. ValueError is also raised for an image of more than twice
            PIL.Image.MAX_IMAGE_PIXELS pixels. Such an image may be a decompression bomb and is not decoded.
    """
    if image_format not in IMAGE_FORMATS:
        raise ValueError(f"image_format must be 'RGB' or 'BGR', got {image_format!r}")
    if not isinstance(image, _NEITHER_ARRAY_NOR_FILE) and (hasattr(image, "__array__") or not hasattr(image, "read")):
        from .arrays import from_array

        return from_array(image, image_format)
    if image_format != "RGB":
        raise ValueError("image_format='BGR' is for arrays: files and PIL images have their own channel order")
    if isinstance(image, Photo):
        return image.rgb
    if isinstance(image, Image.Image):
        return _to_rgb(image)
    if isinstance(image, (bytes, bytearray, memoryview)):
        return _decode(io.BytesIO(image), f"{len(image)} bytes")
    if isinstance(image, (str, os.PathLike)):
        path = Path(image)
        if path.is_file():
            return _decode(os.fspath(path), os.fspath(image))
        # A pipe is not a regular file, but can be opened. For a folder or a missing file, open() raises OSError.
        with path.open("rb") as file:
            return _decode(file, os.fspath(image))
    if isinstance(image, io.TextIOBase):
        raise TypeError("the image file is open as text: open it with mode 'rb'")
    return _decode(image, str(getattr(image, "name", "a file object")))


def allow_large_photos() -> None:
    """Set Pillow's limit on pixels for this process to MOBILESAM_MAX_PIXELS, by default 256 million.

    Pillow's own limit is 179 million. Only commands call this function, because it changes the whole process.

    Raises:
        ValueError: MOBILESAM_MAX_PIXELS is not a whole number of at least 1.
    """
    given = os.environ.get(MAX_PIXELS_VARIABLE, "")
    if given and (not given.isascii() or not given.isdecimal() or int(given) < 1):
        raise ValueError(f"{MAX_PIXELS_VARIABLE} must be a whole number of pixels of at least 1, got {given!r}")
    # Pillow warns above MAX_IMAGE_PIXELS and raises an error above twice MAX_IMAGE_PIXELS.
    Image.MAX_IMAGE_PIXELS = -(-int(given or MAX_PIXELS) // 2)
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)


def _decode(file: str | IO[bytes], name: str) -> Image.Image:
    try:
        with Image.open(file) as picture:  # for a path, Pillow first tries the plugin for the extension
            # Without a file name, Pillow does not map the file into memory.
            # If another process truncates a mapped file, reading the map kills this process.
            picture.filename = ""
            ImageOps.exif_transpose(picture, in_place=True)
            return _to_rgb(picture)
    except MemoryError:
        raise
    except UnidentifiedImageError:
        raise ValueError(f"not an image that Pillow can read: {name}") from None
    except Image.DecompressionBombError as error:
        limit = f"to allow it, raise PIL.Image.MAX_IMAGE_PIXELS, or on the command line {MAX_PIXELS_VARIABLE}"
        raise ValueError(f"cannot decode image {name}: {str(error).rstrip('.')}; {limit}") from None
    except Exception as error:  # Pillow's decoders raise errors of a dozen types for damaged data
        if isinstance(file, str) and isinstance(error, OSError) and error.filename is not None:
            raise  # an error of the operating system, whose message names the file
        raise ValueError(f"cannot decode image {name}: {error}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if 0 in image.size:
        raise ValueError(f"the image is empty: {image.width}x{image.height} pixels")
    if image.mode == "RGB":
        image.load()
        return image
    if image.mode == "F" or image.mode.startswith("I"):
        from .arrays import from_levels

        image = from_levels(image)
    elif image.mode in _WITHOUT_DIRECT_CONVERSION:
        image = image.convert(_WITHOUT_DIRECT_CONVERSION[image.mode])
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")
