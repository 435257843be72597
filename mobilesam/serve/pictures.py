"""Pictures from the network: looked at before they are decoded."""

from __future__ import annotations

import io
import warnings

from PIL import Image, ImageOps, UnidentifiedImageError

from mobilesam.images.photo import open_rgb

from .limits import Refused

# Decoders that do all their work in the process, on formats that people have photos in. Not, for example, EPS, which
# starts Ghostscript.
Image.init()
FORMATS = tuple(name for name in ("AVIF", "BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP") if name in Image.OPEN)
DISPLAY_SIDE = 2048


def decode(data: bytes, most_pixels: int) -> Image.Image:
    """The picture, RGB and upright, of a file's bytes.

    Raises Refused: 415 where it is none in one of FORMATS, 413 where its header says more pixels than `most_pixels`,
    422 where the rest of it does not decode.
    """
    if not data:
        raise Refused(422, "the request has no body: send the image file's bytes")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is ours
        try:
            picture: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
        except Image.DecompressionBombError:
            raise _too_many("more than is safe to decode", most_pixels) from None
        except (UnidentifiedImageError, ValueError, OSError, SyntaxError):
            raise Refused(
                415, f"not an image in a format that is read here ({', '.join(FORMATS)}): save it as one of these"
            ) from None
        if picture.width * picture.height > most_pixels:
            raise _too_many(f"{picture.width}x{picture.height} pixels", most_pixels)
        try:
            ImageOps.exif_transpose(picture, in_place=True)
            return open_rgb(picture)
        except MemoryError:
            raise
        except Exception as error:  # Pillow's decoders raise a dozen types on damaged data
            reason = " ".join(str(error).split())
            raise Refused(422, f"the image is damaged and does not decode: {reason or type(error).__name__}") from error


def _too_many(size: str, most_pixels: int) -> Refused:
    return Refused(413, f"the image has {size}; at most {most_pixels / 1e6:g} megapixels are taken")


def display_jpeg(picture: Image.Image) -> bytes:
    """The picture as JPEG, at most DISPLAY_SIDE pixels long, for a browser that cannot read the file itself."""
    small = picture.copy()
    small.thumbnail((DISPLAY_SIDE, DISPLAY_SIDE))
    file = io.BytesIO()
    small.save(file, "JPEG", quality=90)
    return file.getvalue()
