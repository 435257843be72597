"""Accepted kinds of images and their RGB pixels, and errors for other inputs."""

import gc
import io
import mmap
import os
import re
import threading
import types
import typing
import warnings
from pathlib import Path

import numpy as np
import pytest
from golden import PHOTOS
from PIL import Image

import mobilesam
from mobilesam.images import photo
from mobilesam.images.photo import open_rgb

# The test photo, 2x3 pixels, in gray and in RGB. Swapping axes or channels changes the photo.
GRAY = np.array([[0, 1, 100], [128, 254, 255]], np.uint8)
RGB = np.stack([GRAY, 255 - GRAY, GRAY[::-1] // 2], axis=-1)
AS_RGB = np.stack([GRAY] * 3, axis=-1)
ALPHA = np.array([[0, 255, 7], [200, 0, 255]], np.uint8)
WIDE = GRAY.astype(np.uint16) * 257


def read_image(image: object, image_format: str = "RGB") -> np.ndarray:
    return np.asarray(open_rgb(image, image_format))


def with_alpha(array: np.ndarray) -> np.ndarray:
    return np.dstack([array, ALPHA])


def encoded(picture: Image.Image, file_format: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, file_format, **options)
    return file.getvalue()


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def frames(file_format: str) -> bytes:
    first, second = Image.fromarray(RGB), Image.fromarray(RGB[::-1].copy())
    return encoded(first, file_format, save_all=True, append_images=[second], lossless=True)


class Pipe(io.RawIOBase):
    """A file object that cannot seek."""

    def __init__(self, content: bytes) -> None:
        self.content = io.BytesIO(content)

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self.content.read(size)


PNG = encoded(Image.fromarray(RGB))
TAKEN = {
    # arrays
    "gray uint8": (GRAY, AS_RGB),
    "gray uint8, one channel": (GRAY[..., None], AS_RGB),
    "gray and alpha uint8": (with_alpha(GRAY), AS_RGB),
    "RGB uint8": (RGB, RGB),
    "RGBA uint8": (with_alpha(RGB), RGB),
    "gray uint16": (WIDE, AS_RGB),
    "gray uint16, rounded": (np.array([[128, 129, 65406]], np.uint16), [[[0] * 3, [1] * 3, [254] * 3]]),
    "RGB uint16": (RGB.astype(np.uint16) * 257, RGB),
    "RGB uint16, big-endian": ((RGB.astype(np.uint16) * 257).astype(">u2"), RGB),
    "RGB float16": ((RGB / 255).astype(np.float16), RGB),
    "RGB float32": ((RGB / 255).astype(np.float32), RGB),
    "RGBA float64": (with_alpha(RGB) / 255, RGB),
    "float that rounding put over 1": (np.full((2, 3), np.nextafter(np.float32(1), np.float32(2))), AS_RGB * 0 + 255),
    "bool": (GRAY > 127, np.where(AS_RGB > 127, 255, 0)),
    "not contiguous": (RGB[::-1, ::-1], RGB[::-1, ::-1]),
    "read-only": (np.frombuffer(RGB.tobytes(), np.uint8).reshape(RGB.shape), RGB),
    # PIL images
    "PIL 1": (Image.fromarray(GRAY > 127), np.where(AS_RGB > 127, 255, 0)),
    "PIL L": (Image.fromarray(GRAY), AS_RGB),
    "PIL LA": (Image.fromarray(with_alpha(GRAY)), AS_RGB),
    "PIL RGB": (Image.fromarray(RGB), RGB),
    "PIL RGBA": (Image.fromarray(with_alpha(RGB)), RGB),
    "PIL RGBX": (Image.fromarray(RGB).convert("RGBX"), RGB),
    "PIL P": (Image.fromarray(RGB).quantize(6), RGB),
    "PIL CMYK": (Image.fromarray(RGB).convert("CMYK"), RGB),
    "PIL I;16": (Image.fromarray(WIDE), AS_RGB),
    "PIL I": (Image.fromarray(WIDE.astype(np.int32)), AS_RGB),
    "PIL F": (Image.fromarray(GRAY.astype(np.float32) / 255), AS_RGB),
    "PIL with an orientation, as it is": (Image.open(io.BytesIO(encoded(Image.fromarray(RGB), exif=exif(6)))), RGB),
    # files
    "bytes": (PNG, RGB),
    "bytearray": (bytearray(PNG), RGB),
    "memoryview": (memoryview(PNG), RGB),
    "file object": (io.BytesIO(PNG), RGB),
    "file object that cannot seek": (Pipe(PNG), RGB),
    "PNG with alpha": (encoded(Image.fromarray(with_alpha(RGB))), RGB),
    "PNG with a palette": (encoded(Image.fromarray(RGB).quantize(6)), RGB),
    "PNG with a transparent palette": (encoded(Image.fromarray(RGB).quantize(6), transparency=b"\0\xff"), RGB),
    "PNG, 1 bit": (encoded(Image.fromarray(GRAY > 127)), np.where(AS_RGB > 127, 255, 0)),
    "PNG, 16-bit gray": (encoded(Image.fromarray(WIDE)), AS_RGB),
    "TIFF, 16-bit gray": (encoded(Image.fromarray(WIDE), "TIFF"), AS_RGB),
    "TIFF, float": (encoded(Image.fromarray(GRAY.astype(np.float32) / 255), "TIFF"), AS_RGB),
    "TIFF, CMYK": (encoded(Image.fromarray(RGB).convert("CMYK"), "TIFF"), RGB),
    "BMP": (encoded(Image.fromarray(RGB), "BMP"), RGB),
    "WebP": (encoded(Image.fromarray(RGB), "WEBP", lossless=True), RGB),
    "animated PNG": (frames("PNG"), RGB),
    "animated WebP": (frames("WEBP"), RGB),
    "TIFF of several pages": (frames("TIFF"), RGB),
    "PNG to be mirrored": (encoded(Image.fromarray(RGB), exif=exif(2)), RGB[:, ::-1]),
    "PNG to be turned clockwise": (encoded(Image.fromarray(RGB), exif=exif(6)), np.rot90(RGB, -1)),
    "TIFF to be turned over": (encoded(Image.fromarray(RGB), "TIFF", exif=exif(3)), RGB[::-1, ::-1]),
}  # fmt: skip


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("what", TAKEN)
def test_accepted_images(what):
    given, expected = TAKEN[what]
    rgb = read_image(given)
    assert rgb.dtype == np.uint8
    np.testing.assert_array_equal(rgb, expected)


@pytest.mark.parametrize("array", [RGB, with_alpha(RGB), RGB.astype(np.uint16) * 257, RGB / 255])
def test_bgr(array):
    bgr = array[..., [2, 1, 0, *range(3, array.shape[2])]]
    np.testing.assert_array_equal(read_image(bgr, "BGR"), RGB)
    np.testing.assert_array_equal(read_image(GRAY, "BGR"), AS_RGB)


@pytest.mark.parametrize("path", [str, Path])
def test_paths(tmp_path, path):
    (tmp_path / "picture.jpg").write_bytes(encoded(Image.fromarray(RGB[:1, :1]), "JPEG", exif=exif(8)))
    assert read_image(path(tmp_path / "picture.jpg")).shape == (1, 1, 3)
    with (tmp_path / "picture.jpg").open("rb") as file:
        assert read_image(file).shape == (1, 1, 3)
        assert not file.closed


@pytest.mark.parametrize(
    "name", ["picture", "picture.PNG", "picture.jpg", "picture.gif", "picture.tiff", "picture.txt"]
)
def test_the_format_does_not_depend_on_the_extension(tmp_path, name):
    (tmp_path / name).write_bytes(encoded(Image.fromarray(RGB), "PNG"))
    np.testing.assert_array_equal(read_image(tmp_path / name), RGB)


@pytest.mark.parametrize(("mode", "kind"), [("L", "PPM"), ("RGB", "PNG"), ("RGBA", "TIFF")])
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_named_pipe_is_read_once(tmp_path, mode, kind):
    picture = Image.fromarray(RGB).convert(mode)
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(encoded(picture, kind),), daemon=True)
    writer.start()
    np.testing.assert_array_equal(read_image(tmp_path / "pipe"), np.asarray(picture.convert("RGB")))


@pytest.mark.parametrize(("mode", "kind"), [("L", "PPM"), ("P", "BMP"), ("RGBA", "TIFF")])
def test_files_are_not_mapped(tmp_path, monkeypatch, mode, kind):
    """Image files must not be memory-mapped. Reading a mapped file that has been truncated kills the process."""
    picture = Image.fromarray(RGB).convert(mode)
    (tmp_path / "picture").write_bytes(encoded(picture, kind))
    monkeypatch.setattr(mmap, "mmap", lambda *arguments, **options: pytest.fail("the file was memory-mapped"))
    np.testing.assert_array_equal(read_image(tmp_path / "picture"), np.asarray(picture.convert("RGB")))


def test_files_are_closed(tmp_path):
    (tmp_path / "good.gif").write_bytes(encoded(Image.fromarray(RGB), "GIF"))
    (tmp_path / "cut.png").write_bytes(encoded(Image.fromarray(RGB), "PNG")[:60])
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        read_image(tmp_path / "good.gif")
        with pytest.raises(ValueError, match=r"cut\.png"):
            read_image(tmp_path / "cut.png")
        gc.collect()


WHITE = Image.new("RGBA", (3, 2), "white")


@pytest.mark.parametrize(
    "picture",
    [
        WHITE.convert("LA").convert("La"),
        WHITE.convert("RGBa"),
        WHITE.convert("RGB").convert("YCbCr"),
        WHITE.convert("RGB").convert("HSV"),
        WHITE.convert("L").convert("PA"),
    ],
    ids=lambda picture: picture.mode,
)
def test_the_other_modes_are_converted(picture):
    assert (read_image(picture) == 255).all()


@pytest.mark.parametrize("file_format", ["JPEG", "GIF"])
def test_lossy_formats(file_format):
    cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0)) if file_format == "JPEG" else Image.new("RGB", (8, 8), "red")
    more = {"save_all": True, "append_images": [Image.new("RGB", (8, 8), "blue")]} if file_format == "GIF" else {}
    rgb = read_image(encoded(cmyk, file_format, **more))
    assert abs(rgb.astype(int) - (255, 0, 0)).max() <= 2


CUT = PHOTOS["rocket"].read_bytes()[:-2000]
REFUSED = {
    "NaN": (np.full((2, 3), np.nan), ValueError, "a float image must lie in [0, 1], got NaN or infinity"),
    "infinity": (np.full((2, 3), np.inf), ValueError, "got NaN or infinity"),
    "float to 255": (RGB.astype(float), ValueError, "must lie in [0, 1], got values from 0 to 255; scale them, or"),
    "float below 0": (RGB / -255, ValueError, "got values from -1 to -0"),
    "int64": (RGB.astype(int), TypeError, "or any integers or floats with a value_range, got dtype int64"),
    "complex": (RGB.astype(complex), TypeError, "got dtype complex128"),
    "objects": (RGB.astype(object), TypeError, "got dtype object"),
    "no dimension": (np.array(3, np.uint8), ValueError, "(H, W, C) with 1 to 4 channels, and not empty, got"),
    "a batch": (RGB[None], ValueError, "got shape (1, 2, 3, 3)"),
    "channels first": (np.zeros((3, 20, 30), np.uint8), ValueError, "got shape (3, 20, 30)"),
    "no channel": (RGB[..., :0], ValueError, "got shape (2, 3, 0)"),
    "no row": (RGB[:0], ValueError, "got shape (0, 3, 3)"),
    "no column": (GRAY[:, :0], ValueError, "got shape (2, 0)"),
    "PIL, empty": (Image.new("RGB", (0, 5)), ValueError, "the image is empty: 0x5 pixels"),
    "PIL F over 1": (Image.fromarray(GRAY.astype(np.float32)), ValueError, "got values from 0 to 255"),
    "PIL F, NaN": (Image.fromarray(np.full((2, 3), np.nan, np.float32)), ValueError, "got NaN"),
    "PIL I over 16 bits": (Image.fromarray(np.full((2, 2), 70000, np.int32)), ValueError, "must hold 16-bit values"),
    "PIL I below 0": (Image.fromarray(np.full((2, 2), -1, np.int32)), ValueError, "must hold 16-bit values"),
    "None": (None, TypeError, "image must be a path, bytes, a file object, a PIL image or a NumPy array, got NoneType"),
    "a list": (RGB.tolist(), TypeError, "got list"),
    "a number": (7, TypeError, "got int"),
    "text": (io.StringIO("text"), TypeError, "open as text"),
    "no bytes": (b"", ValueError, "not an image that Pillow can read: 0 bytes"),
    "foreign bytes": (b"<svg/>", ValueError, "not an image that Pillow can read: 6 bytes"),
    "truncated bytes": (CUT, ValueError, f"cannot decode image {len(CUT)} bytes: image file is truncated"),
    "truncated file object": (io.BytesIO(CUT), ValueError, "decode image a file object: image file is trunc"),
    "float TIFF over 1": (encoded(Image.fromarray(GRAY.astype(np.float32)), "TIFF"), ValueError, "values from 0 to 2"),
    "missing": ("no-such-file.png", FileNotFoundError, "no-such-file.png"),
    "a folder": (Path(__file__).parent, IsADirectoryError, "tests"),
    "another file": (Path(__file__), ValueError, f"not an image that Pillow can read: {__file__}"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_refused_images(what):
    given, error, message = REFUSED[what]
    with pytest.raises(error, match=re.escape(message)) as caught:
        open_rgb(given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("photo", ["chelsea", "rocket"])
@pytest.mark.parametrize("kept", [0.01, 0.5, 0.98])
def test_a_truncated_file_is_refused(tmp_path, photo, kept):
    data = PHOTOS[photo].read_bytes()
    path = tmp_path / f"cut{PHOTOS[photo].suffix}"
    path.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(ValueError, match=f"{path.name}") as caught:
        open_rgb(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "image_format", "message"),
    [
        (RGB, "HSV", "image_format must be 'RGB' or 'BGR', got 'HSV'"),
        (RGB, None, "image_format must be 'RGB' or 'BGR', got None"),
        (PNG, "BGR", "image_format='BGR' is for arrays"),
        (Image.fromarray(RGB), "BGR", "image_format='BGR' is for arrays"),
    ],
)
def test_a_wrong_image_format_is_refused(given, image_format, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        open_rgb(given, image_format)


def test_a_decompression_bomb_is_refused_before_it_is_decoded(monkeypatch):
    bomb = encoded(Image.new("1", (20_000, 10_000)))
    assert len(bomb) < 100_000
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2**28 // 3)  # Pillow's default limit, which the commands increase
    monkeypatch.setattr("mobilesam.images.files._load_upright", lambda _: pytest.fail("the image was decoded"))
    with pytest.raises(
        ValueError, match=r"200000000 pixels\) exceeds limit .* raise PIL.Image.MAX_IMAGE_PIXELS, "
    ) as caught:
        open_rgb(bomb)
    assert "\n" not in str(caught.value)


def test_the_limit_on_pixels_is_pillows(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2)
    with pytest.raises(ValueError, match="exceeds limit of 4 pixels"):
        open_rgb(PNG)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 6)
    np.testing.assert_array_equal(read_image(PNG), RGB)


@pytest.mark.filterwarnings("error")
def test_a_photo_of_48_megapixels_is_read():
    assert open_rgb(encoded(Image.new("L", (8000, 6000)))).size == (8000, 6000)


def test_the_model_accepts_the_same_images(model):
    with Image.open(PHOTOS["chelsea"]) as picture:
        rgb = np.asarray(picture)
    expected = model.encode(rgb).features
    for given in (PHOTOS["chelsea"].read_bytes(), rgb.astype(np.uint16) * 257, rgb / 255):
        np.testing.assert_array_equal(model.encode(given).features, expected)
    np.testing.assert_array_equal(model.encode(rgb[..., ::-1], image_format="BGR").features, expected)
    one = mobilesam.segment(rgb[..., ::-1], [(220, 140)], image_format="BGR", model=model)
    np.testing.assert_array_equal(one.masks, mobilesam.segment(rgb, [(220, 140)], model=model).masks)


def test_a_photo_that_was_read_ahead_is_an_image():
    ahead = photo.read_photo(PNG)
    np.testing.assert_array_equal(read_image(ahead), RGB)
    assert photo.as_photo(ahead) is ahead
    assert ahead.resized is ahead.resized
    assert max(ahead.resized.size) == 1024
    for image_format in ("BGR", "rgb"):
        with pytest.raises(ValueError, match=r"^image_format"):
            photo.as_photo(ahead, image_format)


def test_annotations_are_of_real_types():
    for name in mobilesam.__all__:
        given = getattr(mobilesam, name)
        for one in (given, *vars(given).values()) if isinstance(given, type) else (given,):
            if isinstance(one, types.FunctionType) and not one.__name__.startswith("_"):
                typing.get_type_hints(one)
