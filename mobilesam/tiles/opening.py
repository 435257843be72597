"""Opening of a large image: the choice of the reader."""

from __future__ import annotations

import os
import struct
import warnings
from pathlib import Path
from typing import Any

from PIL import Image

from ..images.value_range import Bands, ValueRange, checked_bands, checked_range
from ..util.files import image_path
from .npy_file import NpyFile
from .source import ArraySource, PhotoSource, Source

GDAL_TAGS = {33550, 33922, 34264, 34735, 42112, 42113}  # of TIFF files: GeoTIFF's tags, and GDAL's
GDAL_SUFFIXES = {".vrt", ".jp2", ".img", ".ntf", ".nc"}  # of files that only rasterio reads by windows
TIFF_SUFFIXES = {".tif", ".tiff", ".btf", ".tf8", ".svs", ".ndpi", ".scn", ".qptiff"}


def open_source(image: Any, *, value_range: ValueRange = "dtype", bands: Bands | None = None) -> Source:
    """Open an image as a source of windows.

    Args:
        image: An array (H, W) or (H, W, C), a memory map or a zarr array. Or the path of a GeoTIFF, a COG or another
            file that GDAL reads (extra [geo]), of another TIFF file (extras [tiff] and [zarr]), of a zarr array (extra
            [zarr]) or of an .npy file. Any other image that `MobileSAM.encode` accepts is decoded as a whole.
        value_range: See `MobileSAM.encode`. "minmax" and "minmax-channel" mean the values of each window on its own.
        bands: Three numbers, from 0, of the bands that are red, green and blue.

    Raises:
        ModuleNotFoundError: The file needs an extra that is not installed.
        OSError, TypeError, ValueError: See `MobileSAM.encode`.
    """
    options: Any = {"value_range": checked_range(value_range), "bands": checked_bands(bands)}
    if isinstance(image, (str, os.PathLike)):
        path = image_path(image)
        if not path.exists():
            raise FileNotFoundError(2, "No such file or directory", str(path))
        if path.is_dir():
            from .zarr_array import ZarrSource  # imported here, because it needs an extra

            return ZarrSource(path, **options)
        suffix = path.suffix.lower()
        if suffix == ".npy":
            return ArraySource(NpyFile(path), path.name, **options)
        if suffix in GDAL_SUFFIXES or (suffix in TIFF_SUFFIXES and _is_gdals(path)):
            from .raster import RasterSource

            _check_content(path, suffix)
            return RasterSource(path, "GTiff" if suffix in TIFF_SUFFIXES else None, **options)
        if suffix in TIFF_SUFFIXES:
            from .tiff_pages import TiffSource

            return TiffSource(path, **options)
    elif not isinstance(image, Image.Image) and hasattr(image, "shape") and hasattr(image, "__getitem__"):
        return ArraySource(image, **options)
    return PhotoSource(image, **options)


def _check_content(path: Path, suffix: str) -> None:
    """Refuse a text in a file whose name says otherwise. GDAL recognises texts that let it open other files."""
    with path.open("rb") as file:
        start = file.read(64)
    if suffix != ".vrt" and start.lstrip().startswith((b"<", b"{")):
        raise ValueError(f"{path}: expected the format {suffix}, got a text that may name other files")


def _is_gdals(path: Path) -> bool:
    """Whether a TIFF file has a georeference, or metadata of GDAL."""
    from PIL import TiffImagePlugin  # imported here, because it loads many modules

    try:
        with path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about damaged files, which the reader reports
            header = file.read(8)
            if header[2:4] == b"+\0":  # BigTIFF
                header += file.read(8)
            directory = TiffImagePlugin.ImageFileDirectory_v2(header)
            file.seek(directory.next)
            directory.load(file)
            return bool(GDAL_TAGS & set(directory))
    except (OSError, SyntaxError, ValueError, KeyError, IndexError, struct.error):
        return True  # a damaged file, which GDAL describes
