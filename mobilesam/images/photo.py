"""Photos as they come in, opened as RGB. By Pillow alone, which begins before NumPy is loaded."""

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
MAX_PIXELS = 256_000_000  # of a photo on the command line; phones make 200 million
IMAGE_FORMATS = ("RGB", "BGR")
_WITHOUT_DIRECT_CONVERSION = {"La": "LA", "RGBa": "RGBA"}  # Pillow's premultiplied modes


_NO_ARRAYS = str, os.PathLike, bytes, bytearray, memoryview, Image.Image, Photo  # nor files


def as_photo(image: ImageLike, image_format: str = "RGB") -> Photo:
    """The image, to be encoded; accepts and raises what `open_rgb` does."""
    rgb = open_rgb(image, image_format)
    return image if isinstance(image, Photo) else Photo(rgb)


def read_photo(image: ImageLike) -> Photo:
    """As `as_photo`, and resized: for a thread that reads ahead of the encoder."""
    photo = as_photo(image)
    _ = photo.resized
    return photo


def open_rgb(image: ImageLike, image_format: str = "RGB") -> Image.Image:
    """The image as a PIL image of mode RGB.

    image: one of
    - a path, the bytes of a file or a binary file object, in any format that Pillow reads; EXIF orientation is
      honoured, an animation gives its first frame;
    - a PIL image of any mode, taken as it is, whatever its EXIF says, or a Photo;
    - an array (H, W), or (H, W, C) of 1 (gray), 2 (gray, alpha), 3 (RGB) or 4 (RGB, alpha) channels, uint8, uint16,
      bool or float in [0, 1].
    Every other colour space becomes RGB. Alpha is dropped, not composed: what it hides is seen. 16-bit values are
    scaled by their range, 65535 becomes 255; so are PIL's modes I (0 to 65535) and F ([0, 1]).
    image_format: "RGB", or "BGR" where an array's colours are in that order, as OpenCV's are.
    Raises OSError for a file that cannot be opened, ValueError for an image that is none, damaged, empty, not finite,
    out of range, or so large (over twice PIL.Image.MAX_IMAGE_PIXELS) that it may be a decompression bomb, before it
    is decoded; TypeError for anything else.
    """
    if image_format not in IMAGE_FORMATS:
        raise ValueError(f"image_format must be 'RGB' or 'BGR', got {image_format!r}")
    if not isinstance(image, _NO_ARRAYS) and (hasattr(image, "__array__") or not hasattr(image, "read")):
        from .arrays import from_array

        return from_array(image, image_format)
    if image_format != "RGB":
        raise ValueError("image_format='BGR' is for arrays: a file or a PIL image says itself what its colours are")
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
        with path.open("rb") as file:  # a pipe, or what cannot be opened
            return _decode(file, os.fspath(image))
    if isinstance(image, io.TextIOBase):
        raise TypeError("the image's file is open as text: open it with mode 'rb'")
    return _decode(image, str(getattr(image, "name", "a file object")))


def allow_large_photos() -> None:
    """Set Pillow's limit for this process to MOBILESAM_MAX_PIXELS, by default 256 million; its own is 179 million.

    For commands, to which the process belongs. Raises ValueError for a variable that is no number from 1.
    """
    given = os.environ.get(MAX_PIXELS_VARIABLE, "")
    if given and (not given.isascii() or not given.isdecimal() or int(given) < 1):
        raise ValueError(f"{MAX_PIXELS_VARIABLE} must be a number of pixels, got {given!r}")
    Image.MAX_IMAGE_PIXELS = -(-int(given or MAX_PIXELS) // 2)  # twice that is refused; from that on it warns
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)


def _decode(file: str | IO[bytes], name: str) -> Image.Image:
    try:
        with Image.open(file) as picture:  # a path's extension says which of Pillow's formats is loaded
            picture.filename = ""  # by which it would be mapped, and a process killed whose file is cut short meanwhile
            ImageOps.exif_transpose(picture, in_place=True)
            return _to_rgb(picture)
    except MemoryError:
        raise
    except UnidentifiedImageError:
        raise ValueError(f"not an image that Pillow can read: {name}") from None
    except Image.DecompressionBombError as error:
        limit = f"to allow it, raise PIL.Image.MAX_IMAGE_PIXELS, on the command line {MAX_PIXELS_VARIABLE}"
        raise ValueError(f"cannot decode image {name}: {str(error).rstrip('.')}; {limit}") from None
    except Exception as error:  # Pillow's decoders raise a dozen types on damaged data
        if isinstance(file, str) and isinstance(error, OSError) and error.filename is not None:
            raise  # the system's, which names the file
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
