"""Decoding of pictures from clients: the program that a child process of the server runs (see `decoders`).

The server's own process never decodes an upload, because a decoder may use much time or memory, or crash.
This module imports neither Starlette nor the model, so that a child process starts fast.

A request is a `REQUEST`, followed by the bytes of an image file. An answer is an `ANSWER`, followed by a JSON object
and the bytes of a picture.
"""

from __future__ import annotations

import faulthandler
import io
import json
import os
import struct
import sys
import warnings
from contextlib import suppress
from typing import IO, NamedTuple

from PIL import Image

from mobilesam.images.errors import NotAnImage, TooManyPixels
from mobilesam.images.files import decode as decode_file
from mobilesam.images.files import ignore_logged_errors, register_heif
from mobilesam.images.photo import to_rgb
from mobilesam.images.value_range import Bands, ValueRange
from mobilesam.util.system import limit_memory

# The formats are usual for photos. EPS, for example, is not accepted, because Pillow starts Ghostscript to decode EPS.
Image.init()
register_heif()
_USUAL = ("AVIF", "BMP", "GIF", "HEIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
FORMATS = tuple(name for name in _USUAL if name in Image.OPEN)
DISPLAY_SIDE = 2048
REQUEST = struct.Struct(">4sQ")  # the form, RGB or JPEG, and the number of bytes of the file
ANSWER = struct.Struct(">QQ")  # the numbers of bytes of the JSON and of the picture
RGB, JPEG = b"RGB ", b"JPEG"
GRACE_SECONDS = 5.0


class Opening(NamedTuple):
    """How photos are opened. See `mobilesam.images.photo.open_rgb`."""

    value_range: ValueRange = "dtype"
    bands: Bands | None = None


def decode(data: bytes, most_pixels: int, opening: Opening = Opening()) -> Image.Image:  # noqa: B008 (immutable)
    """Decode an image file to an upright RGB picture. Format and size are checked before the pixels are decoded.

    Args:
        data: The bytes of the file.
        most_pixels: The largest number of pixels accepted.
        opening: How photos are opened.

    Raises:
        NotAnImage: The format is not in FORMATS.
        TooManyPixels: The header gives more than `most_pixels`.
        TypeError, ValueError: The pixels cannot be decoded or converted.
    """
    picture = decode_file(io.BytesIO(data), "the upload", *opening, formats=FORMATS, most_pixels=most_pixels)
    return to_rgb(picture, *opening)


def display_jpeg(picture: Image.Image) -> bytes:
    """The picture as JPEG, its longest side at most DISPLAY_SIDE, for browsers that cannot show the file itself."""
    picture.thumbnail((DISPLAY_SIDE, DISPLAY_SIDE))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=90)
    return file.getvalue()


def ignore_warnings() -> None:
    """Ignore the library's warnings about a client's image or prompt, which would fill the server's log."""
    ignore_logged_errors()
    for message in ("box .* was clipped", ".*16-bit values use less"):
        warnings.filterwarnings("ignore", message=message)
    warnings.filterwarnings("ignore", module=r"PIL\.")


def main() -> None:
    """Answer the requests on standard input until the input ends. The options are a JSON object in `sys.argv[1]`."""
    options = json.loads(sys.argv[1])
    opening = Opening(*(tuple(value) if isinstance(value, list) else value for value in options["opening"]))
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    with suppress(OSError):  # standard error is closed
        os.dup2(2, 1)  # what a library prints must not become a part of an answer
    ignore_warnings()
    Image.MAX_IMAGE_PIXELS = options["pixels"]  # Pillow's own limit could be lower
    limit_memory(options["bytes"])
    nowhere = os.open(os.devnull, os.O_WRONLY)
    while head := requests.read(REQUEST.size):
        form, length = REQUEST.unpack(head)
        # If the server is gone, this ends the process, also while a decoder holds the GIL.
        faulthandler.dump_traceback_later(options["seconds"] + GRACE_SECONDS, exit=True, file=nowhere)
        _send(answers, *_answer(form, requests.read(length), options["pixels"], options["bytes"], opening))
        faulthandler.cancel_dump_traceback_later()


def _send(answers: IO[bytes], fields: dict[str, object], body: bytes) -> None:
    text = json.dumps(fields).encode()
    with suppress(OSError):  # the server is gone
        answers.write(ANSWER.pack(len(text), len(body)) + text)
        answers.write(body)
        answers.flush()


def _answer(form: bytes, data: bytes, pixels: int, memory: int, opening: Opening) -> tuple[dict[str, object], bytes]:
    """The JSON and the picture of an answer. The JSON of a refusal has an HTTP status and a sentence."""
    try:
        picture = decode(data, pixels, opening)
        if form == JPEG:
            return {}, display_jpeg(picture)
        return {"size": picture.size}, picture.tobytes()
    except NotAnImage as error:
        accepted = f"not an image in an accepted format: save it as one of {', '.join(FORMATS)}"
        return _refusal(415, f"{accepted} ({error})"), b""
    except TooManyPixels:
        return _refusal(413, f"at most {pixels / 1e6:g} megapixels are accepted, and the image has more"), b""
    except MemoryError:
        return _refusal(413, f"decoding the image needs more than {memory >> 20} MiB of memory"), b""
    except (TypeError, ValueError) as error:
        return _refusal(422, f"the image is damaged or cannot be converted: {error}"), b""


def _refusal(status: int, sentence: str) -> dict[str, object]:
    return {"status": status, "error": " ".join(sentence.split())}
