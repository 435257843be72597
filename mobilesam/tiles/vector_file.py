"""Objects as polygons in a GeoPackage or GeoJSON file. Requires the extra [geo]."""

from __future__ import annotations

import sqlite3
import warnings
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .grid import Box
from .raster import Georeference
from .spill import ObjectFile

try:
    import pyarrow as pa
    import pyogrio
    import shapely
    import shapely.geometry
    from pyogrio.errors import DataLayerError, DataSourceError
    from rasterio.features import shapes
    from rasterio.transform import Affine
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"vector files need {error.name}: pip install 'mobilesam[geo]'", name=error.name
    ) from error

DRIVERS = {".gpkg": "GPKG", ".geojson": "GeoJSON"}
BATCH = 256  # objects in memory at a time
BLOCK = 2048  # side, in pixels, of the part of an object that is turned into polygons at a time
PIXELS = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)  # the transform of an image without a georeference
_FIELDS = {"object": pa.int64(), "area": pa.int64(), "predicted_iou": pa.float64(), "stability_score": pa.float64()}


def write_vectors(path: Path, objects: ObjectFile, georeference: Georeference | None) -> None:
    """Write a multipolygon for each object, with its number, area in pixels and scores.

    The coordinates are those of the image's coordinate reference system, or pixels if the image has none.

    Args:
        path: The file, whose extension is one of DRIVERS.
        objects: The objects.
        georeference: Where the image lies. None if unknown.

    Raises:
        OSError: The file cannot be written.
    """
    schema = pa.schema([*_FIELDS.items(), pa.field("geometry", pa.binary(), metadata=_WKB)])
    stream = pa.RecordBatchReader.from_batches(schema, _batches(schema, objects, georeference))
    driver = DRIVERS[path.suffix.lower()]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "'crs' was not provided")  # an image without a georeference
        try:
            pyogrio.write_arrow(
                stream,
                path,
                driver=driver,
                layer="objects",
                geometry_name="geometry",
                geometry_type="MultiPolygon",
                crs=georeference.crs if georeference and georeference.crs else None,
                dataset_options={"VERSION": "1.2"} if driver == "GPKG" else None,  # older GDAL warns of newer versions
            )
        except (DataSourceError, DataLayerError) as error:
            raise OSError(str(error)) from None
    if not (_is_whole_package if driver == "GPKG" else _is_whole_json)(path):
        raise OSError("the end of the file could not be written")


def _is_whole_json(path: Path) -> bool:
    """Whether a GeoJSON file has its end, which GDAL writes on close without reporting errors."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 8))
        end = file.read()
    return end.split()[-2:] == [b"]", b"}"] and end.endswith(b"\n")


def _is_whole_package(path: Path) -> bool:
    """Whether a GeoPackage has its spatial index, which GDAL makes on close without reporting errors."""
    try:
        with closing(sqlite3.connect(path)) as database:
            index = database.execute("SELECT name FROM sqlite_master WHERE name LIKE 'rtree%'").fetchall()
            return bool(index) and database.execute("PRAGMA quick_check").fetchall() == [("ok",)]
    except sqlite3.Error:
        return False


_WKB = {"ARROW:extension:name": "geoarrow.wkb"}


def _batches(schema: pa.Schema, objects: ObjectFile, place: Georeference | None) -> Iterator[pa.RecordBatch]:
    for first in range(0, len(objects), BATCH):
        numbers = range(first, min(first + BATCH, len(objects)))
        columns = [
            [i + 1 for i in numbers],
            [objects.areas[i] for i in numbers],
            [objects.scores[i][0] for i in numbers],
            [objects.scores[i][1] for i in numbers],
            [_wkb(objects, i, place) for i in numbers],
        ]
        arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)


def _wkb(objects: ObjectFile, index: int, place: Georeference | None) -> bytes:
    """The object's multipolygon along the edges of its pixels, as well-known binary."""
    x0, y0, x1, y1 = objects.boxes[index]
    blocks = [
        (left, top, min(left + BLOCK, x1), min(top + BLOCK, y1))
        for top in range(y0, y1, BLOCK)
        for left in range(x0, x1, BLOCK)
    ]
    parts = [part for block in blocks for part in _polygons(objects.mask(index, block), block, place)]
    shape = shapely.union_all(parts) if len(blocks) > 1 else shapely.MultiPolygon(parts)
    return bytes(shapely.to_wkb(shape if shape.geom_type == "MultiPolygon" else shapely.MultiPolygon([shape])))


def _polygons(mask: NDArray[np.bool_], box: Box, place: Georeference | None) -> list[shapely.Polygon]:
    a, b, c, d, e, f = PIXELS if place is None else place.transform
    x, y, *_ = box
    transform = Affine(a, b, a * x + b * y + c, d, e, d * x + e * y + f)  # of the box
    found = shapes(mask.view(np.uint8), mask=mask, transform=transform)
    return [shapely.geometry.shape(part) for part, _ in found]
