"""TIFF files that Pillow cannot read, HEIC and AVIF, and messages that name the package to install."""

import builtins
import io
import struct
import sys
import zlib

import numpy as np
import pytest
from noise import noise
from PIL import Image

from mobilesam.images.errors import DamagedImage, NotAnImage, TooManyPixels
from mobilesam.images.photo import open_rgb

tifffile = pytest.importorskip("tifffile")
pillow_heif = pytest.importorskip("pillow_heif")

RGB = noise(20, 31)
GRAY = RGB[..., [0, 0, 0]]
EIGHT = np.concatenate([RGB, 255 - RGB, RGB[..., :2] // 2], axis=2)


def read(image: object, **options: object) -> np.ndarray:
    return np.asarray(open_rgb(image, **options))


def tiff(values: np.ndarray, **options: object) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, values, **options)
    return file.getvalue()


TIFFS = {
    "float64": (tiff(RGB[..., 0] / 255), GRAY),
    "float32 RGB": (tiff((RGB / 255).astype(np.float32), photometric="rgb"), RGB),
    "4 bands": (tiff(EIGHT[..., :4], photometric="minisblack", planarconfig="contig"), RGB),
    "4 planes": (tiff(EIGHT[..., :4].transpose(2, 0, 1), photometric="minisblack", planarconfig="separate"), RGB),
    "tiles, compressed": (
        tiff((RGB / 255).astype(np.float32), photometric="rgb", tile=(16, 16), compression="zlib"),
        RGB,
    ),
    "BigTIFF": (tiff(RGB[..., 0] / 255, bigtiff=True), GRAY),
    "big endian": (tiff(RGB[..., 0] / 255, byteorder=">"), GRAY),
}


@pytest.mark.parametrize("what", TIFFS)
def test_tiff_files_that_pillow_cannot_read(tmp_path, what):
    data, expected = TIFFS[what]
    (tmp_path / "a.tif").write_bytes(data)
    for image in (data, io.BytesIO(data), tmp_path / "a.tif"):
        np.testing.assert_array_equal(read(image), expected)


def test_bands_of_tiff_files():
    data = tiff(EIGHT, photometric="minisblack", planarconfig="contig")
    np.testing.assert_array_equal(read(data, bands=(7, 0, 4)), EIGHT[..., [7, 0, 4]])
    with pytest.raises(ValueError, match="choose three with bands"):
        read(data)
    with pytest.raises(ValueError, match=r"below the number of bands, 8, got \(0, 1, 8\)"):
        read(data, bands=(0, 1, 8))
    np.testing.assert_array_equal(read(tiff(RGB, photometric="rgb"), bands=(2, 1, 0)), RGB[..., ::-1])


def test_all_16_bits_of_colours_count_for_the_range():
    values = RGB.astype(np.uint16) * 3
    with pytest.warns(UserWarning, match="less than 1/8 of their range"):
        read(tiff(values, photometric="rgb"))
    np.testing.assert_array_equal(read(tiff(values, photometric="rgb"), value_range=(0, 765)), RGB)


def png_of_16_bits() -> bytes:
    """A PNG of one pixel in 16-bit RGB, which Pillow cannot write."""
    pixel = zlib.compress(b"\0" + struct.pack(">3H", 256, 512, 4095))
    chunks = {b"IHDR": struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0), b"IDAT": pixel, b"IEND": b""}
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks.items()
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_a_range_is_refused_for_a_colour_png_of_16_bits():
    with pytest.warns(UserWarning, match="less than 1/8 of their range"):
        assert read(png_of_16_bits()).tolist() == [[[1, 2, 15]]]
    with pytest.raises(NotAnImage, match=r"Pillow reads 8 of the 16 bits .* in PNG"):
        read(png_of_16_bits(), value_range="minmax")


def test_white_is_zero():
    levels = RGB[..., 0]
    np.testing.assert_array_equal(read(tiff(levels, photometric="miniswhite"))[..., 0], 255 - levels)
    wide = levels.astype(np.uint16) * 257
    data = tiff(np.stack([wide] * 8, axis=2), photometric="miniswhite", planarconfig="contig")
    np.testing.assert_array_equal(read(data, bands=(0, 1, 2))[..., 0], 255 - levels)


def test_too_many_pixels_are_refused_before_they_are_decoded(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    monkeypatch.setattr(tifffile.TiffPage, "asarray", lambda page: pytest.fail("the page was decoded"))
    with pytest.raises(TooManyPixels, match="31x20 pixels, more than 200, the limit"):
        read(TIFFS["float64"][0])


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
def test_a_cut_tiff_file_is_damaged(kept):
    data = TIFFS["tiles, compressed"][0]
    with pytest.raises(ValueError, match="bytes") as caught:
        read(data[: int(len(data) * kept)])
    assert "\n" not in str(caught.value)


def heif(orientation: int = 1) -> bytes:
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    pillow_heif.from_pillow(Image.fromarray(GRAY)).save(file, quality=-1, exif=exif.tobytes())
    return file.getvalue()


def test_heic():
    np.testing.assert_allclose(read(heif()).astype(int), GRAY, atol=3)  # the conversion to YCbCr and back rounds
    assert read(heif(6)).shape == (31, 20, 3)


def missing(monkeypatch, *modules: str) -> None:
    """Let imports of these modules fail, as if they were not installed."""
    original = builtins.__import__

    def refuse(name, *rest, **options):
        if name in modules:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return original(name, *rest, **options)

    for name in modules:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(builtins, "__import__", refuse)


def test_without_tifffile_the_message_says_what_to_install(monkeypatch):
    missing(monkeypatch, "tifffile")
    for data, options in ((TIFFS["float64"][0], {}), (tiff(RGB, photometric="rgb"), {"bands": (2, 1, 0)})):
        with pytest.raises(NotAnImage, match=r"to read it: pip install 'mobilesam\[tiff\]'"):
            read(data, **options)


def test_without_pillow_heif_the_message_says_what_to_install(monkeypatch):
    data = heif()
    missing(monkeypatch, "pillow_heif")
    monkeypatch.delitem(Image.OPEN, "HEIF", raising=False)  # another test may have registered the plugin
    monkeypatch.setattr(Image, "ID", [name for name in Image.ID if name != "HEIF"])
    with pytest.raises(NotAnImage, match=r"HEIC needs pillow-heif: pip install 'mobilesam\[heif\]'"):
        read(data)


@pytest.mark.parametrize("error", [RuntimeError, SyntaxError, ZeroDivisionError, struct.error])
def test_any_error_of_a_decoder_means_a_damaged_image(monkeypatch, error):
    """Pillow's AVIF plugin raises RuntimeError."""
    file = io.BytesIO()
    Image.fromarray(RGB).save(file, "PNG")

    def load(picture):
        raise error("Failed to decode frame 0")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", load)
    with pytest.raises(DamagedImage, match="Failed to decode frame 0"):
        read(file.getvalue())
