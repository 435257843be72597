"""TIFF files without a georeference, such as scanned slides, read by windows. Requires tifffile and zarr."""

from __future__ import annotations

import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..images import limits
from ..images.value_range import Bands, ValueRange
from .grid import Box
from .source import ArraySource, reading

try:
    import tifffile
    import zarr
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "large TIFF files need tifffile and zarr: pip install 'mobilesam[tiff,zarr]'", name=error.name
    ) from error


MOST_PAGES = 10_000  # a slide may have 120 channels, each with ten levels


class TiffSource(ArraySource):
    """The first and largest image of a TIFF file. Threads may read from it at once; their reads take turns."""

    def __init__(self, path: Path, *, value_range: ValueRange = "dtype", bands: Bands | None = None) -> None:
        with reading(str(path)):
            tiff = tifffile.TiffFile(path)
            weakref.finalize(self, tiff.close)
            _check_pages(tiff)
            series = tiff.series[0]
            if series.keyframe.is_tiled:  # a tile is decoded as a whole
                width, height = series.keyframe.tilewidth, series.keyframe.tilelength
                limits.check_tiles(str(path), width, height, 1, limits.pixel_limit(None))
            axes, array = series.axes, zarr.open(series.aszarr(level=0), mode="r")
        if axes not in ("YX", "YXS", "SYX", "CYX"):
            raise ValueError(f"{path}: a TIFF image with axes {axes}: expected rows and columns of pixels")
        if len(axes) == 3 and axes != "YXS":
            array = _ChannelsLast(array)
        super().__init__(array, path.name, value_range=value_range, bands=bands)
        self._lock = threading.Lock()

    def read(self, box: Box) -> NDArray[Any]:
        with self._lock, reading(self.name):
            return super().read(box)


def _check_pages(tiff: tifffile.TiffFile) -> None:
    """Raise ValueError if the file has more than MOST_PAGES pages, including SubIFDs, because `series` reads all.

    `len` comes first: without it, tifffile reads the pages of a circular chain without end.
    """
    count = len(tiff.pages)
    if count <= MOST_PAGES:
        count += sum(len(page.subifds or ()) for page in tiff.pages)
    if count > MOST_PAGES:
        raise ValueError(f"{count} pages, expected at most {MOST_PAGES}")


class _ChannelsLast:
    """An array (C, H, W) that is read like an array (H, W, C)."""

    def __init__(self, array: Any) -> None:
        self._array, self.ndim = array, 3
        self.shape = (*array.shape[1:], array.shape[0])

    def __getitem__(self, window: tuple[slice, slice]) -> NDArray[Any]:
        rows, columns = window
        return np.ascontiguousarray(np.moveaxis(np.asarray(self._array[:, rows, columns]), 0, -1))
