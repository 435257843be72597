"""Label rasters: uint32 GeoTIFF files, written by windows. Requires rasterio: extra [geo]."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..images.geometry import Size
from .raster import Georeference

try:
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning, RasterioIOError
    from rasterio.transform import Affine
    from rasterio.windows import Window
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("label rasters need rasterio: pip install 'mobilesam[geo]'", name="rasterio") from error

BLOCK = 256  # side of a block of the file, in pixels
ROWS = 4 * BLOCK  # rows that are written at a time


def write_labels(
    path: Path, size: Size, rows: Callable[[int, int], NDArray[np.uint32]], georeference: Georeference | None
) -> None:
    """Write a label raster with deflate compression. 0 is the nodata value.

    Args:
        path: The file.
        size: (h, w).
        rows: Gives the labels (bottom - top, w) uint32 of the rows `top` to `bottom`.
        georeference: Where the image lies. None if unknown.

    Raises:
        OSError: The file cannot be written.
    """
    import warnings

    height, width = size
    place = {} if georeference is None else {
        "crs": georeference.crs or None, "transform": Affine(*georeference.transform),
    }  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        form = {"driver": "GTiff", "count": 1, "dtype": "uint32", "nodata": 0, "compress": "deflate"}
        blocks = {"tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK, "bigtiff": "if_safer"}
        with rasterio.open(path, "w", height=height, width=width, **form, **blocks, **place) as file:
            for top in range(0, height, ROWS):
                bottom = min(top + ROWS, height)
                file.write(rows(top, bottom), 1, window=Window(0, top, width, bottom - top))
        if not _is_whole(path):
            raise OSError("the end of the file could not be written")


def _is_whole(path: Path) -> bool:
    """Whether the file holds all its blocks. GDAL writes cached blocks on close, without reporting errors."""
    length = path.stat().st_size
    try:
        with rasterio.open(path) as file:
            for (row, column), _ in file.block_windows(1):
                names = (f"BLOCK_{what}_{column}_{row}" for what in ("OFFSET", "SIZE"))
                start, size = (file.get_tag_item(name, "TIFF", bidx=1) for name in names)
                if start is None or int(start) + int(size) > length:
                    return False
    except RasterioIOError:
        return False
    return True
