"""EXIF decides about the orientation only: pixels are read whatever else an EXIF block holds."""

import io
import struct

import numpy as np
import pytest
from noise import noise
from PIL import Image

from mobilesam.images.photo import open_rgb

tifffile = pytest.importorskip("tifffile")

# Pillow warns about damaged EXIF.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")

RGB = noise(6, 9)
ORIENTATION, X_RESOLUTION, EXIF_IFD = 0x0112, 0x011A, 0x8769
SHORT, LONG, TEXT = 3, 4, 2
FORMATS = {"JPEG": {"quality": 95}, "PNG": {}, "WEBP": {"lossless": True}}
TURNED = {1: RGB, 3: RGB[::-1, ::-1], 6: np.rot90(RGB, -1), 8: np.rot90(RGB)}


def block(*tags: tuple[int, int, int, int], data: bytes = b"", magic: bytes = b"II*\0") -> bytes:
    """An EXIF block with these tags: number, type, count, and value or offset. `data` follows, see `data_offset`."""
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    directory = struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0)
    return b"Exif\0\0" + magic + struct.pack("<I", 8) + directory + data


def data_offset(tags: int) -> int:
    return 8 + 2 + 12 * tags + 4


def with_exif(file_format: str, exif: bytes) -> bytes:
    file = io.BytesIO()
    Image.fromarray(RGB).save(file, file_format, exif=exif, **FORMATS[file_format])
    return file.getvalue()


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(open_rgb(data))


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("orientation", TURNED)
def test_the_orientation_is_read_beside_a_resolution_that_is_a_text(file_format, orientation):
    text = b"seventy-two\0"
    tags = (ORIENTATION, SHORT, 1, orientation), (X_RESOLUTION, TEXT, len(text), data_offset(2))
    upright = pixels(with_exif(file_format, block(tags[0])))
    np.testing.assert_array_equal(pixels(with_exif(file_format, block(*tags, data=text))), upright)
    if file_format != "JPEG":  # JPEG is lossy
        np.testing.assert_array_equal(upright, TURNED[orientation])


ODD = {
    "garbage": b"\x00\xffgarbage" * 5,
    "empty": b"Exif\0\0",
    "cut": block((ORIENTATION, SHORT, 1, 6))[:20],
    "another magic": block((ORIENTATION, SHORT, 1, 6), magic=b"XX*\0"),
    "an orientation that is a text": block((ORIENTATION, TEXT, 4, int.from_bytes(b"six\0", "little"))),
    "an orientation out of range": block((ORIENTATION, SHORT, 1, 200)),
    "many values": block((ORIENTATION, SHORT, 1 << 30, 6)),
    "a directory behind the end": block((EXIF_IFD, LONG, 1, 1 << 31)),
}


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("what", ODD)
def test_other_blocks_mean_upright(file_format, what):
    assert pixels(with_exif(file_format, ODD[what])).shape == RGB.shape


def test_random_blocks_never_hide_the_pixels():
    """Every block is a valid block in which some bytes were replaced. Half of them may turn the image."""
    random = np.random.default_rng(24)
    text = b"seventy-two\0"
    tags = (ORIENTATION, SHORT, 1, 6), (X_RESOLUTION, TEXT, len(text), data_offset(3)), (EXIF_IFD, LONG, 1, 8)
    valid = block(*tags, data=text)
    for number in range(600):
        damaged = bytearray(valid)
        for place in random.integers(6, len(valid), random.integers(1, 8)):
            damaged[place] = random.integers(256)
        file_format = list(FORMATS)[number % 3]
        shape = pixels(with_exif(file_format, bytes(damaged))).shape
        assert shape in (RGB.shape, (9, 6, 3)), bytes(damaged)


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("offset", [8, 1 << 31])  # a directory that contains itself, and one behind the file's end
def test_a_tiff_file_is_turned_once_and_its_exif_directory_may_be_damaged(orientation, offset):
    file = io.BytesIO()
    tags = (ORIENTATION, SHORT, 1, orientation, True), (EXIF_IFD, LONG, 1, offset, True)
    tifffile.imwrite(file, RGB, photometric="rgb", extratags=tags)
    np.testing.assert_array_equal(pixels(file.getvalue()), TURNED[orientation])
