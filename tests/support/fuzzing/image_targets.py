"""Targets that decode pictures and large images."""

import io
import re
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image

from mobilesam.images.photo import open_rgb
from mobilesam.serve import decoding
from mobilesam.tiles.opening import open_source

from .mutation import INTEGERS, MOST_BYTES, with_png_checksums
from .target import Target, from_files

FORMATS = {  # Pillow's name -> extension
    "AVIF": ".avif", "BMP": ".bmp", "DDS": ".dds", "GIF": ".gif", "ICNS": ".icns", "ICO": ".ico", "IM": ".im",
    "JPEG": ".jpg", "JPEG2000": ".jp2", "MPO": ".mpo", "PCX": ".pcx", "PNG": ".png", "PPM": ".ppm", "QOI": ".qoi",
    "SGI": ".sgi", "SPIDER": ".spider", "TGA": ".tga", "TIFF": ".tif", "WEBP": ".webp", "XBM": ".xbm",
}  # fmt: skip
MODES = ("RGB", "L", "P", "RGBA", "CMYK", "1", "I;16", "F")
OPTIONS = (
    {"format": "JPEG", "progressive": True},
    {"format": "JPEG", "quality": 95, "subsampling": 0},
    {"format": "PNG", "interlace": 1},
    {"format": "TIFF", "compression": "tiff_lzw"},
    {"format": "TIFF", "compression": "tiff_adobe_deflate"},
    {"format": "TIFF", "compression": "jpeg"},
    {"format": "TIFF", "compression": "packbits"},
)
SIDES = (37, 23)
PIXELS = np.random.default_rng(0).integers(0, 256, (*SIDES[::-1], 3), np.uint8)


def exif(orientation: int) -> bytes:
    """An EXIF block with an orientation and an offset to a second directory."""
    tags = [(0x0112, 3, 1, orientation), (0x011A, 5, 1, 60), (0x8769, 4, 1, 50), (0x010E, 2, 8, 60)]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(tags)) + entries + b"\1\0\0\0" * 10


def photos(_: Path) -> list[tuple[str, bytes]]:
    """A file of every format and mode that this Pillow writes, and TIFF files that only tifffile writes."""
    return [*_pillow_files(), *_tiff_files()]


def _pillow_files() -> Iterator[tuple[str, bytes]]:
    picture = Image.fromarray(PIXELS)
    written = [(mode, {"format": name}) for name in FORMATS for mode in MODES]
    for mode, options in [*written, *(("RGB", options) for options in OPTIONS)]:
        file = io.BytesIO()
        try:
            converted = picture.convert("L").convert(mode) if mode in ("I;16", "F") else picture.convert(mode)
            if options["format"] in ("JPEG", "PNG", "WEBP", "AVIF"):
                options = options | {"exif": exif(6)}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                converted.save(file, **options)
        except Exception:  # a format that this Pillow does not write, or a mode that the format does not have
            continue
        yield FORMATS[str(options["format"])], file.getvalue()


def _tiff_files() -> Iterator[tuple[str, bytes]]:
    try:
        import tifffile
    except ModuleNotFoundError:
        return
    rng, (width, height) = np.random.default_rng(0), SIDES
    for shape, dtype, options in (
        ((height, width), np.float64, {}),
        ((height, width, 3), np.float32, {"photometric": "rgb"}),
        ((height, width, 3), np.uint16, {"photometric": "rgb", "tile": (16, 16), "compression": "zlib"}),
        ((height, width), np.uint32, {"compression": "lzw"}),
        ((height, width), np.int16, {"bigtiff": True, "rowsperstrip": 5}),
        ((6, height, width), np.uint16, {"planarconfig": "separate", "photometric": "minisblack"}),
        ((height, width), bool, {"photometric": "miniswhite"}),
        ((height, width, 3), np.uint8, {"photometric": "rgb", "tile": (16, 16), "compression": "jpeg"}),
    ):
        file = io.BytesIO()
        try:
            tifffile.imwrite(file, (rng.random(shape) * 200).astype(dtype), **options)
        except Exception:  # the compression needs imagecodecs
            continue
        yield ".tif", file.getvalue()


def many_scans(rng: Random) -> bytes:
    """A progressive JPEG file that repeats one of its scans, whose header may give a larger size."""
    file = io.BytesIO()
    Image.fromarray(PIXELS).save(file, "JPEG", progressive=True)
    data = bytearray(file.getvalue())
    frame, side = data.index(b"\xff\xc2"), rng.choice((23, 500, 4000))
    data[frame + 5 : frame + 9] = struct.pack(">HH", side, side)
    starts = [match.start() for match in re.finditer(rb"\xff\xda", data)] + [len(data) - 2]
    place = rng.randrange(len(starts) - 1)
    scan = data[starts[place] : starts[place + 1]]
    data[starts[place] : starts[place]] = scan * min(rng.choice((1, 30, 3000)), MOST_BYTES // len(scan))
    return bytes(data)


def damaged_tags(rng: Random) -> bytes:
    """A TIFF file of which one to three tags have other numbers, types, counts or values."""
    damaged = bytearray(rng.choice([data for _, data in TIFF_FILES if data[:4] == b"II*\0"]))
    directory = struct.unpack_from("<I", damaged, 4)[0]
    count = struct.unpack_from("<H", damaged, directory)[0]
    for _ in range(rng.choice((1, 1, 2, 3))):
        entry = directory + 2 + 12 * rng.randrange(count)
        place, size = rng.choice(((0, 2), (2, 2), (4, 4), (8, 4), (8, 4), (8, 4)))
        value = rng.choice((*INTEGERS, *range(16), 322, 323, 20_000, 100_000)) % (1 << 8 * size)
        damaged[entry + place : entry + place + size] = value.to_bytes(size, "little")
    return bytes(damaged)


def finish(data: bytes, rng: Random) -> bytes:
    return with_png_checksums(data) if data[:4] == b"\x89PNG" and rng.random() < 0.8 else data


TIFF_FILES = [file for file in [*_pillow_files(), *_tiff_files()] if file[0] == ".tif"]


def check_photo(picture: Image.Image) -> None:
    assert picture.mode == "RGB" and min(picture.size) > 0
    picture.resize((8, 8))  # reads every pixel


def open_path(path: Path) -> None:
    check_photo(open_rgb(path))


def open_bytes(path: Path) -> None:
    check_photo(open_rgb(path.read_bytes(), value_range="minmax"))


def open_bands(path: Path) -> None:
    check_photo(open_rgb(path, value_range="minmax-channel", bands=(2, 0, 1)))


def open_upload(path: Path) -> None:
    check_photo(decoding.decode(path.read_bytes(), 64_000_000))


def scenes(folder: Path) -> list[tuple[str, bytes]]:
    """TIFF files, some of them with a georeference, and .npy files."""
    import rasterio
    from rasterio.transform import Affine

    files = [file for file in _tiff_files() if file[0] == ".tif"]
    data, file = np.random.default_rng(0).integers(0, 256, (3, 40, 50), np.uint8), io.BytesIO()
    np.save(file, data.transpose(1, 2, 0))
    files.append((".npy", file.getvalue()))
    for options in (
        {},
        {"compress": "deflate", "tiled": True, "blockxsize": 16, "blockysize": 16},
        {"compress": "lzw"},
    ):
        path, place = (
            folder / "made.tif",
            {"transform": Affine(0.5, 0, 500_000, 0, -0.5, 5_200_000), "crs": "EPSG:32632"},
        )
        shape = {"driver": "GTiff", "width": 50, "height": 40, "count": 3, "dtype": "uint8"}
        with rasterio.open(path, "w", **shape, **place, **options) as dataset:
            dataset.write(data)
        files += [(".tif", path.read_bytes())] * 3
        path.unlink()
    return files


def read_scene(path: Path) -> None:
    source = open_source(path)
    height, width = source.size
    box = (0, 0, min(width, 64), min(height, 64))
    source.is_empty(box)
    assert source.read(box).shape[:2] == (box[3], box[2])
    source.read((max(0, width - 8), max(0, height - 8), width, height))


MAKERS = (many_scans, damaged_tags, damaged_tags, damaged_tags)
EXPECTED = (OSError, ValueError, TypeError)
TARGETS = (
    Target("photo", 4000, from_files(photos, [open_path, open_path, open_bytes, open_bands], MAKERS, finish), EXPECTED),
    Target("upload", 1500, from_files(photos, [open_upload], MAKERS, finish), (ValueError, TypeError)),
    Target(
        "scene",
        1500,
        from_files(scenes, [read_scene], [damaged_tags]),
        (OSError, ValueError, TypeError, MemoryError),
        ("rasterio", "tifffile", "zarr"),
    ),
)
