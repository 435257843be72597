"""Objects as polygons in a GeoPackage or GeoJSON file. Requires the extra [geo]."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .raster import Georeference
from .spill import ObjectFile

try:
    import pyarrow as pa
    import pyogrio
    import shapely
    import shapely.geometry
    from rasterio.features import shapes
    from rasterio.transform import Affine
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"vector files need {error.name}: pip install 'mobilesam[geo]'", name=error.name
    ) from error

DRIVERS = {".gpkg": "GPKG", ".geojson": "GeoJSON"}
BATCH = 256  # objects in memory at a time
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
        pyogrio.write_arrow(
            stream,
            path,
            driver=driver,
            layer="objects",
            geometry_name="geometry",
            geometry_type="MultiPolygon",
            crs=georeference.crs if georeference and georeference.crs else None,
            dataset_options={"VERSION": "1.2"} if driver == "GPKG" else None,  # older GDAL warns about newer versions
        )


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
    x, y, *_ = objects.boxes[index]
    mask = objects.mask(index)
    a, b, c, d, e, f = PIXELS if place is None else place.transform
    transform = Affine(a, b, a * x + b * y + c, d, e, d * x + e * y + f)  # of the object's box
    parts = shapes(mask.view(np.uint8), mask=mask, transform=transform)
    return bytes(shapely.to_wkb(shapely.MultiPolygon([shapely.geometry.shape(part) for part, _ in parts])))
