"""Limits on the work of a decoder, checked before an image file is decoded: pixels, tiles and scans.

A small file can claim large tiles, or many scans. This module does not import NumPy.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from typing import IO, TYPE_CHECKING, Literal

from PIL import Image

from .errors import DamagedImage, TooManyPixels

if TYPE_CHECKING:
    from PIL.TiffImagePlugin import TiffImageFile

# libtiff's limit for JPEG data too. Encoders write about 10 scans, and optimizers of scans below 50.
MOST_SCANS = 100
# A scan without data takes about 1/40 of the time of a full decode. So an image as large as the limit may have 20
# scans, and smaller images more, up to MOST_SCANS.
MOST_SCANS_OF_LARGEST = 20
MOST_MARKERS = 20_000  # of a JPEG file. A file of 1 GB with an ICC profile and metadata in full segments has 16,000.
MOST_SEGMENTS = 100_000  # tiles or strips of a TIFF file; tifffile takes 7 s to read this many
BIG_TIFF = 43
# TIFF's tags
COMPRESSION, TILE_WIDTH, TILE_LENGTH = 259, 322, 323
STRIP_OFFSETS, STRIP_BYTES, TILE_OFFSETS, TILE_BYTES = 273, 279, 324, 325
_LAYOUT = {256, 257, 258, COMPRESSION, 277, 278, 284, 322, 323, STRIP_OFFSETS, STRIP_BYTES, TILE_OFFSETS, TILE_BYTES}
# TIFF compressions whose tiles or strips are complete pictures with their own size, and Pillow's formats for them
JPEG = (6, 7, 33007, 34892)
_JPEG_2000 = ("JPEG2000",)
PICTURES = {33003: _JPEG_2000, 33004: _JPEG_2000, 33005: _JPEG_2000, 34712: _JPEG_2000, 34933: ("PNG",)}
PICTURES |= {34927: ("WEBP",), 50001: ("WEBP",)}
_NEXT_MARKER = re.compile(
    rb"\xff([\x02-\xcf\xd8-\xfe])"
)  # any marker except those inside a scan: 00, TEM (01), D0 to D7
_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
_PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}


def pixel_limit(most_pixels: int | None) -> int | None:
    """The smaller of `most_pixels` and Pillow's limit, which is twice PIL.Image.MAX_IMAGE_PIXELS. None for no limit."""
    pillow = None if Image.MAX_IMAGE_PIXELS is None else 2 * Image.MAX_IMAGE_PIXELS
    return min((limit for limit in (most_pixels, pillow) if limit is not None), default=None)


def check_tiles(name: str, width: int, height: int, count: int, limit: int | None) -> None:
    """Check the pixels of one tile or strip, which the decoder allocates, and of all together, which it decodes.

    Tiles extend beyond the image's border, so all tiles together may have up to twice `limit` pixels.

    Args:
        name: Name of the file, for messages.
        width: Width of a tile in pixels.
        height: Height of a tile in pixels.
        count: Number of tiles.
        limit: The largest number of pixels of a tile. None for no limit.

    Raises:
        TooManyPixels: A tile, or all tiles together, have too many pixels.
    """
    if limit is not None and (width * height > limit or width * height * count > 2 * limit):
        found = f"{count} tile{'s' * (count != 1)} of {width}x{height} pixels"
        raise TooManyPixels(f"{name}: the file has {found}, and the limit is {limit} pixels")


def check_tiff(picture: TiffImageFile, name: str, limit: int | None) -> None:
    """Check a TIFF file that libtiff will decode.

    libtiff clips strips to the image, so only tiles may be larger than the image.

    Args:
        picture: The file, opened by Pillow. The position in the file changes.
        name: Name of the file, for messages.
        limit: The largest number of pixels. None for no limit.

    Raises:
        DamagedImage: The layout is ambiguous, or JPEG data has too many scans.
        TooManyPixels: See `check_tiles`.
    """
    file, tags = picture.fp, picture.tag_v2
    assert file is not None
    _check_layout(file)
    if TILE_WIDTH in tags or TILE_LENGTH in tags:
        width, height = tags.get(TILE_WIDTH), tags.get(TILE_LENGTH)
        if not (isinstance(width, int) and isinstance(height, int) and min(width, height) > 0):
            raise DamagedImage(f"tiles of {width!a:.20}x{height!a:.20} pixels")
        count = math.ceil(picture.width / width) * math.ceil(picture.height / height)
        check_tiles(name, width, height, count, limit)
    if (compression := tags.get(COMPRESSION)) in JPEG:
        offsets, counts = (TILE_OFFSETS, TILE_BYTES) if TILE_OFFSETS in tags else (STRIP_OFFSETS, STRIP_BYTES)
        check_pictures(file, tags.get(offsets, ()), tags.get(counts, ()), compression, limit)


def _check_layout(file: IO[bytes]) -> None:
    """Refuse a TIFF file with a tag of the layout twice, because Pillow uses the last value and libtiff the first."""
    file.seek(0)
    start = file.read(16)
    order: Literal["little", "big"] = "little" if start[:2] == b"II" else "big"
    if int.from_bytes(start[2:4], order) == BIG_TIFF:
        offset, counter, entry = int.from_bytes(start[8:16], order), 8, 20
    else:
        offset, counter, entry = int.from_bytes(start[4:8], order), 2, 12
    file.seek(offset)
    entries = file.read(entry * min(int.from_bytes(file.read(counter), order), 1 << 16))
    found = set()
    for at in range(0, len(entries), entry):
        tag = int.from_bytes(entries[at : at + 2], order)
        if tag in found:
            raise DamagedImage(f"the TIFF tag {tag} occurs twice")
        if tag in _LAYOUT:
            found.add(tag)


def check_segments(file_size: int, byte_counts: Sequence[int]) -> None:
    """Check the number and the sizes of the tiles or strips of a TIFF file. A reader reads each of them by itself.

    Raises:
        DamagedImage: There are too many, or they overlap in the file.
    """
    if len(byte_counts) > MOST_SEGMENTS:
        raise DamagedImage(f"{len(byte_counts)} tiles or strips; at most {MOST_SEGMENTS} are accepted")
    if min(byte_counts, default=0) < 0:
        raise DamagedImage("a tile or strip has a negative number of bytes")
    if (total := sum(byte_counts)) > 2 * file_size:
        raise DamagedImage(f"tiles or strips overlap: they have {total} bytes, and the file has {file_size}")


def check_pictures(
    file: IO[bytes], offsets: Sequence[int], byte_counts: Sequence[int], compression: int, limit: int | None
) -> None:
    """Check tiles or strips of a TIFF file that are pictures with their own size. The position in the file changes.

    Raises:
        DamagedImage: See `check_segments` and `check_jpeg`.
        TooManyPixels: The pictures have more than twice `limit` pixels.
    """
    check_segments(file.seek(0, 2), byte_counts)
    if min(offsets, default=0) < 0:
        raise DamagedImage("a tile or strip has a negative place in the file")
    pixels = work = 0
    for offset, count in zip(offsets, byte_counts):
        if not count:  # a tile without data
            continue
        file.seek(offset)
        data = file.read(count)
        if compression in JPEG:
            width, height, scans = check_jpeg(data, limit)
        else:
            with Image.open(io.BytesIO(data), formats=PICTURES[compression]) as picture:
                (width, height), scans = picture.size, 1
        pixels += width * height
        work += width * height * scans
    if limit is not None and pixels > 2 * limit:
        raise TooManyPixels(f"the tiles or strips have {pixels} pixels, and the limit is {limit}")
    if limit is not None and work > MOST_SCANS_OF_LARGEST * limit:
        raise DamagedImage(f"{work / pixels:.3g} scans in JPEG data of {pixels} pixels")


def check_jpeg(data: bytes, limit: int | None) -> tuple[int, int, int]:
    """Check the number of scans of a JPEG file. The time of a decoder grows with scans times pixels.

    Args:
        data: The file. Data behind the image, such as further pictures or a video, is not read.
        limit: The largest number of pixels accepted. None for no limit.

    Returns:
        Width, height and number of scans. Zeros if the data has no frame.

    Raises:
        DamagedImage: There are too many scans.
    """
    width = height = components = scans = markers = position = 0
    progressive = False
    while found := _NEXT_MARKER.search(data, position):
        marker, position = found[1][0], found.end()
        markers += 1
        if marker == _EOI:
            break
        if marker == _SOI:
            continue
        if markers > MOST_MARKERS:
            raise DamagedImage(f"more than {MOST_MARKERS} markers in JPEG data, the limit")
        if marker in _FRAMES and not components:
            height, width = (int.from_bytes(data[position + at : position + at + 2], "big") for at in (3, 5))
            components = int.from_bytes(data[position + 7 : position + 8], "big")
            progressive = marker in _PROGRESSIVE
        elif marker == _SOS:
            scans += 1
            if scans == 1 and not progressive and data[position + 2 : position + 3] == bytes([components]):
                break  # a decoder reads no further scan, because the first has all components
        position += int.from_bytes(data[position : position + 2], "big")
    most = MOST_SCANS
    if limit is not None and (pixels := width * height):
        most = min(most, max(1, MOST_SCANS_OF_LARGEST * limit // pixels))
    if scans > most:
        raise DamagedImage(f"{scans} scans in JPEG data of {width}x{height} pixels; at most {most} are accepted")
    return width, height, scans
