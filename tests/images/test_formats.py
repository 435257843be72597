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
    with pytest.raises(NotAnImage, match="8 bands that are not red, green and blue; choose three with bands"):
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
    with pytest.raises(NotAnImage, match="Pillow reads 8 bits of each colour in PNG"):
        read(png_of_16_bits(), value_range="minmax")


def test_white_is_zero():
    levels = RGB[..., 0]
    np.testing.assert_array_equal(read(tiff(levels, photometric="miniswhite"))[..., 0], 255 - levels)
    wide = levels.astype(np.uint16) * 257
    data = tiff(np.stack([wide] * 8, axis=2), photometric="miniswhite", planarconfig="contig")
    np.testing.assert_array_equal(read(data, bands=(0, 1, 2))[..., 0], 255 - levels)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_orientation_does_not_depend_on_the_reader(orientation):
    tags = [(274, 3, 1, orientation, True)]
    plain = tiff(RGB, photometric="rgb", extratags=tags)
    expected = read(plain)
    np.testing.assert_array_equal(read(plain, bands=(0, 1, 2)), expected)
    np.testing.assert_array_equal(read(tiff(RGB / 255, photometric="rgb", extratags=tags)), expected)


def test_unsigned_values_of_32_bits_are_not_signed():
    wide = GRAY.astype(np.uint32)[..., 0] << 24
    np.testing.assert_array_equal(read(tiff(wide), value_range=(0, 255 << 24)), GRAY)


def test_inks_need_a_choice_of_bands():
    inks = tiff(EIGHT[..., :4].astype(np.uint16) * 257, photometric="separated")
    with pytest.raises(NotAnImage, match="4 bands that are not red, green and blue"):
        read(inks, value_range="minmax")
    np.testing.assert_array_equal(read(inks, bands=(0, 1, 2)), RGB)


def test_a_file_of_many_bytes_per_pixel_is_refused_before_it_is_decoded(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)
    bands = tiff(
        np.zeros((20, 31, 200), np.float64), photometric="minisblack", planarconfig="contig", compression="zlib"
    )
    monkeypatch.setattr(tifffile.TiffPage, "asarray", lambda page: pytest.fail("the page was decoded"))
    with pytest.raises(TooManyPixels, match="31x20 pixels of 1600 bytes"):
        read(bands, bands=(0, 1, 2))


class OnlyRead:
    """A file object with the one method that `open_rgb` needs."""

    def __init__(self, data: bytes) -> None:
        self.read = io.BytesIO(data).read


def test_a_file_object_needs_only_the_method_read():
    np.testing.assert_array_equal(read(OnlyRead(TIFFS["float64"][0])), GRAY)


def test_wide_colours_that_pillow_reduces_are_refused_with_a_range():
    ppm = b"P6 1 1 65535\n" + struct.pack(">3H", 256, 512, 4095)
    with pytest.raises(NotAnImage, match="Pillow reads 8 bits of each colour in PPM"):
        read(ppm, value_range="minmax")


def test_the_warning_for_few_levels_does_not_count_alpha():
    values = np.dstack([RGB.astype(np.uint16) * 16, np.full(RGB.shape[:2], 65535, np.uint16)])
    with pytest.warns(UserWarning, match="less than 1/8 of their range"):
        read(tiff(values, photometric="rgb", extrasamples=["unassalpha"]))


def test_too_many_pixels_are_refused_before_they_are_decoded(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    monkeypatch.setattr(tifffile.TiffPage, "asarray", lambda page: pytest.fail("the page was decoded"))
    with pytest.raises(TooManyPixels, match="31x20 pixels of 8 bytes, more than 200 pixels, the limit"):
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
