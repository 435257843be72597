"""Decoding pictures from clients. Format and size are checked before the pixels are decoded."""

from __future__ import annotations

import io
import warnings
from typing import NamedTuple

from PIL import Image

from mobilesam.images.errors import NotAnImage, TooManyPixels
from mobilesam.images.files import decode as decode_file
from mobilesam.images.files import ignore_logged_errors, register_heif
from mobilesam.images.photo import to_rgb
from mobilesam.images.value_range import Bands, ValueRange

from .limits import Refused
from .uploads import FORMS

# The accepted formats are usual for photos, and they are decoded inside this process.
# EPS, for example, is not accepted, because Pillow starts Ghostscript to decode EPS.
Image.init()
register_heif()
_USUAL = ("AVIF", "BMP", "GIF", "HEIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
FORMATS = tuple(name for name in _USUAL if name in Image.OPEN)
DISPLAY_SIDE = 2048


class Opening(NamedTuple):
    """How photos are opened. See `mobilesam.images.photo.open_rgb`."""

    value_range: ValueRange = "dtype"
    bands: Bands | None = None


def decode(data: bytes, most_pixels: int, opening: Opening = Opening()) -> Image.Image:  # noqa: B008 (immutable)
    """Decode an image file to an upright RGB picture.

    Args:
        data: bytes of the file.
        most_pixels: the largest number of pixels accepted.
        opening: how photos are opened.

    Raises:
        Refused: 415 if the format is not in FORMATS, 413 if the header gives more than `most_pixels`, 422 if `data`
            is empty or the pixels cannot be decoded.
    """
    if not data:
        raise Refused(422, f"the request has no image: send {FORMS}")
    try:
        picture = decode_file(io.BytesIO(data), "the upload", *opening, formats=FORMATS, most_pixels=most_pixels)
        return to_rgb(picture, *opening)
    except NotAnImage as error:
        accepted = f"not an image in an accepted format: save it as one of {', '.join(FORMATS)}"
        raise Refused(415, f"{accepted} ({error})") from None
    except TooManyPixels:
        most = f"{most_pixels / 1e6:g} megapixels"
        raise Refused(413, f"at most {most} are accepted, and the image has more") from None
    except (TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise Refused(422, f"the image is damaged or cannot be converted: {reason}") from error


def ignore_warnings() -> None:
    """Ignore the library's warnings about a client's image or prompt, which would fill the server's log."""
    ignore_logged_errors()
    for message in ("box .* was clipped", ".*16-bit values use less"):
        warnings.filterwarnings("ignore", message=message)
    warnings.filterwarnings("ignore", module=r"PIL\.")


def display_jpeg(picture: Image.Image) -> bytes:
    """The picture as JPEG, its longest side at most DISPLAY_SIDE, for browsers that cannot show the file itself."""
    small = picture.copy()
    small.thumbnail((DISPLAY_SIDE, DISPLAY_SIDE))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=90)
    return file.getvalue()
