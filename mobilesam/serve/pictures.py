"""Decoding pictures from clients. Format and size are checked before the pixels are decoded."""

from __future__ import annotations

import io
import warnings

from PIL import Image, ImageOps, UnidentifiedImageError

from mobilesam.images.photo import open_rgb

from .limits import Refused

# The accepted formats are usual for photos, and Pillow decodes them inside this process.
# EPS, for example, is not accepted, because Pillow starts Ghostscript to decode EPS.
Image.init()
FORMATS = tuple(name for name in ("AVIF", "BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP") if name in Image.OPEN)
DISPLAY_SIDE = 2048


def decode(data: bytes, most_pixels: int) -> Image.Image:
    """Decode an image file to an upright RGB picture.

    Args:
        data: bytes of the file.
        most_pixels: the largest number of pixels accepted.

    Raises:
        Refused: 415 if the format is not in FORMATS, 413 if the header gives more than `most_pixels`, 422 if `data`
            is empty or the pixels cannot be decoded.
    """
    if not data:
        raise Refused(422, "the request has no body: send the bytes of the image file")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the server checks its own limit below
        try:
            picture: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
        except Image.DecompressionBombError:
            raise _too_many("more than is safe to decode", most_pixels) from None
        except (UnidentifiedImageError, ValueError, OSError, SyntaxError):
            raise Refused(415, f"not an image in an accepted format: save it as one of {', '.join(FORMATS)}") from None
        if picture.width * picture.height > most_pixels:
            raise _too_many(f"{picture.width}x{picture.height} pixels", most_pixels)
        try:
            ImageOps.exif_transpose(picture, in_place=True)
            return open_rgb(picture)
        except MemoryError:
            raise
        except Exception as error:  # Pillow's decoders raise errors of many types for damaged data
            reason = " ".join(str(error).split())
            raise Refused(422, f"the image is damaged and does not decode: {reason or type(error).__name__}") from error


def _too_many(size: str, most_pixels: int) -> Refused:
    return Refused(413, f"the image has {size}; at most {most_pixels / 1e6:g} megapixels are accepted")


def display_jpeg(picture: Image.Image) -> bytes:
    """The picture as JPEG, its longest side at most DISPLAY_SIDE, for browsers that cannot show the file itself."""
    small = picture.copy()
    small.thumbnail((DISPLAY_SIDE, DISPLAY_SIDE))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=90)
    return file.getvalue()
