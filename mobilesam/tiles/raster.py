"""Georeferenced rasters (GeoTIFF, COG and others) that are read by windows. Requires rasterio: extra [geo]."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..images.geometry import Size
from ..images.value_range import Bands, ValueRange
from .grid import Box

# MB of decoded blocks that GDAL keeps. By default it keeps 5 % of the machine's memory.
os.environ.setdefault("GDAL_CACHEMAX", "64")

try:
    import rasterio
    from rasterio.enums import ColorInterp, MaskFlags
    from rasterio.errors import RasterioError
    from rasterio.windows import Window
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "georeferenced images need rasterio: pip install 'mobilesam[geo]'", name="rasterio"
    ) from error


@dataclass(frozen=True)
class Georeference:
    """Where an image lies on the Earth.

    Attributes:
        crs: The coordinate reference system as WKT. Empty if the image has none.
        transform: (a, b, c, d, e, f). The pixel coordinates (x, y) lie at (a·x + b·y + c, d·x + e·y + f).
    """

    crs: str
    transform: tuple[float, float, float, float, float, float]


class RasterSource:
    """A raster file. Threads may read from it at once; their reads take turns.

    Attributes:
        size: (h, w) of the image.
        name: File name of the image, without folders.
        value_range: The `value_range` that `MobileSAM.encode` needs for the windows.
        georeference: Where the image lies.
    """

    def __init__(
        self, path: Path, driver: str | None = None, *, value_range: ValueRange = "dtype", bands: Bands | None = None
    ) -> None:
        """Open the file.

        Args:
            path: The file.
            driver: GDAL's name of the format. None lets GDAL recognise the format.
            value_range: See `open_source`.
            bands: Three numbers, from 0, of the bands that are red, green and blue. None for the only band, or for the
                first three of three or four bands.

        Raises:
            ValueError: The file is damaged, has no such band, or `bands` must be given.
        """
        try:
            self._file = rasterio.open(path, driver=driver)
        except RasterioError as error:
            raise ValueError(f"{path}: {error}") from None
        self.name, self.value_range, self._lock = path.name, value_range, threading.Lock()
        self.size: Size = self._file.height, self._file.width
        count = self._file.count
        colours = sum(colour != ColorInterp.alpha for colour in self._file.colorinterp)
        if bands is None and not (count <= 4 and colours <= 3):
            choose = "choose red, green and blue with bands=(R, G, B), or --bands R,G,B"
            raise ValueError(f"{path}: {count} bands: {choose}")
        if bands is not None and max(bands) >= count:
            raise ValueError(f"{path}: bands must be below the number of bands, {count}, got {bands}")
        numbers = range(3 if colours >= 3 else 1) if bands is None else bands
        self._bands = [number + 1 for number in numbers]  # rasterio counts bands from 1
        self._full = all(MaskFlags.all_valid in flags for flags in self._file.mask_flag_enums)
        crs = self._file.crs
        self.georeference = Georeference(crs.to_wkt() if crs else "", tuple(self._file.transform)[:6])

    def read(self, box: Box) -> NDArray[Any]:
        with self._lock:
            try:
                values: NDArray[Any] = self._file.read(self._bands, window=_window(box))
            except RasterioError as error:
                raise ValueError(f"{self.name}: {error}") from None
            empty = None if self._full else self._file.dataset_mask(window=_window(box)) == 0
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            values = np.nan_to_num(values, nan=0.0, posinf=0.0, neginf=0.0)
        if empty is not None:
            values[:, empty] = 0  # a nodata value such as -9999 is no colour
        return values[0] if len(values) == 1 else np.ascontiguousarray(values.transpose(1, 2, 0))

    def is_empty(self, box: Box) -> bool:
        if self._full:
            return False
        with self._lock:
            return not self._file.dataset_mask(window=_window(box)).any()


def _window(box: Box) -> Window:
    x0, y0, x1, y1 = box
    return Window(x0, y0, x1 - x0, y1 - y0)
