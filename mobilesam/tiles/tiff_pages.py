"""TIFF files without a georeference, such as scanned slides, read by windows. Requires tifffile and zarr."""

from __future__ import annotations

import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..images import limits
from ..images.errors import TooManyPixels
from ..images.value_range import Bands, ValueRange
from ..util.messages import one_line
from .grid import Box
from .source import ArraySource

try:
    import tifffile
    import zarr
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "large TIFF files need tifffile and zarr: pip install 'mobilesam[tiff,zarr]'", name=error.name
    ) from error


class TiffSource(ArraySource):
    """The first and largest image of a TIFF file. Threads may read from it at once; their reads take turns."""

    def __init__(self, path: Path, *, value_range: ValueRange = "dtype", bands: Bands | None = None) -> None:
        try:
            with tifffile.TiffFile(path) as tiff:
                axes, page = tiff.series[0].axes, tiff.series[0].keyframe
                if page.is_tiled:  # a tile is decoded as a whole
                    limits.check_tiles(str(path), page.tilewidth, page.tilelength, 1, limits.pixel_limit(None))
            store = tifffile.imread(path, aszarr=True, series=0, level=0)
            weakref.finalize(self, store.close)
            array: Any = zarr.open(store, mode="r")
        except (MemoryError, OSError, TooManyPixels):
            raise
        except Exception as error:  # damaged tags raise errors of many types
            raise ValueError(f"{path}: a damaged TIFF file: {one_line(error)}") from None
        if axes not in ("YX", "YXS", "SYX", "CYX"):
            raise ValueError(f"{path}: a TIFF image with axes {axes}: expected rows and columns of pixels")
        if len(axes) == 3 and axes != "YXS":
            array = _ChannelsLast(array)
        super().__init__(array, path.name, value_range=value_range, bands=bands)
        self._lock = threading.Lock()

    def read(self, box: Box) -> NDArray[Any]:
        with self._lock:
            try:
                return super().read(box)
            except (MemoryError, OSError):
                raise
            except Exception as error:  # tifffile, zarr and imagecodecs raise errors of many types
                raise ValueError(f"{self.name}: the file is damaged: {one_line(error)}") from None


class _ChannelsLast:
    """An array (C, H, W) that is read like an array (H, W, C)."""

    def __init__(self, array: Any) -> None:
        self._array, self.ndim = array, 3
        self.shape = (*array.shape[1:], array.shape[0])

    def __getitem__(self, window: tuple[slice, slice]) -> NDArray[Any]:
        rows, columns = window
        return np.ascontiguousarray(np.moveaxis(np.asarray(self._array[:, rows, columns]), 0, -1))
