"""Export of segmented objects as COCO JSON, GeoJSON or SVG."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..images.geometry import Size
from ..util.files import check_folder, whole_file
from . import rle
from .draw import FILL_OPACITY, own_colours
from .objects import SegmentedObject, common_file_name, common_size

SUFFIXES = (".json", ".geojson", ".svg")
MOST_RUNS = 300_000  # of objects whose outlines a server exports: at most 5 s, and 200 MB as SVG or 400 MB as GeoJSON
UNKNOWN_FILE = "image"  # COCO's readers refuse an empty file name
_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, production Char


class TooManyRuns(ValueError):
    """The objects have more runs than the limit for outlines."""


def check_outlines(objects: Iterable[SegmentedObject], most: int = MOST_RUNS) -> None:
    """Check that the outlines of objects are not too long, before they are computed.

    Time and memory of `svg`, `geojson` and the polygons of `coco` grow with the runs inside the masks. The exports
    themselves have no limit.

    Args:
        objects: The objects of one export.
        most: The largest number of runs of all objects together.

    Raises:
        TooManyRuns: There are more runs.
    """
    total = sum(len(rle.spans(item.run_lengths())) for item in objects)
    if total > most:
        raise TooManyRuns(f"the objects have {total} runs of pixels; outlines are made of at most {most} runs")


def coco(
    objects: Sequence[SegmentedObject],
    *,
    file_name: str | os.PathLike[str] | None = None,
    size: Size | None = None,
    info: Mapping[str, Any] | None = None,
    polygons: bool = False,
    before_each: Callable[[], None] | None = None,
) -> dict[str, Any]:
    """COCO JSON of one image, as a dict. There is one annotation per object and one category per object name.

    The segmentation of an annotation is a compressed RLE, which is exact and which pycocotools reads. An annotation
    also has COCO's area and bbox, the object's score if it has one, and the object's attributes.

    Args:
        objects: The objects. Annotations are in this order.
        file_name: File name of the image. None for the objects' own, or "image" if the objects have none.
        size: (h, w) of the image. Required only if there are no objects.
        info: Content of COCO's `info`.
        polygons: Also write `polygons`, a list of polygons, to each annotation. A polygon is a list of rings of [x, y],
            the outer ring first and then the holes, which COCO's own polygons cannot have. This needs the extra
            [polygons].
        before_each: Called before each object. An error that it raises ends the export.

    Raises:
        ModuleNotFoundError: `polygons` is true and the extra [polygons] is not installed.
        ValueError: There are neither objects nor a `size`, the masks' sizes differ from each other or from `size`, or
            the objects have different file names and no `file_name` is given.
    """
    name = common_file_name(objects) if file_name is None else os.fspath(file_name)
    height, width = common_size(objects, size)
    names = list(dict.fromkeys(item.name for item in objects))
    annotations = []
    for number, item in enumerate(objects, 1):
        if before_each is not None:
            before_each()
        runs = item.run_lengths()
        annotation: dict[str, Any] = {
            "id": number,
            "image_id": 1,
            "category_id": 1 + names.index(item.name),
            "segmentation": rle.compress(runs),
            "area": rle.area(runs),
            "bbox": rle.bbox(runs),
            "iscrowd": 0,
        }
        if item.score is not None:
            annotation["score"] = item.score
        annotation |= item.attributes
        if polygons:
            annotation["polygons"] = [[ring.tolist() for ring in polygon] for polygon in item.polygons()]
        annotations.append(annotation)
    return {
        **({} if info is None else {"info": dict(info)}),
        "images": [{"id": 1, "file_name": name or UNKNOWN_FILE, "width": width, "height": height}],
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for number, name in enumerate(names, 1)],
    }


def geojson(objects: Sequence[SegmentedObject], *, before_each: Callable[[], None] | None = None) -> dict[str, Any]:
    """A GeoJSON FeatureCollection, as a dict. Each object is a MultiPolygon feature.

    A feature's properties are the object's name, its area in pixels, its score if it has one, and its attributes.
    Coordinates are pixels of the image with y downwards, not positions on Earth. Rings are closed and have the winding
    order of RFC 7946.

    Args:
        objects: The objects.
        before_each: Called before each object. An error that it raises ends the export.

    Raises:
        ModuleNotFoundError: The extra [polygons] is not installed.
        ValueError: There are no objects, or the masks' sizes differ.
    """
    common_size(objects)
    features = []
    for item in objects:
        if before_each is not None:
            before_each()
        coordinates = [[[*ring.tolist(), ring[0].tolist()] for ring in polygon] for polygon in item.polygons()]
        properties: dict[str, Any] = {"name": item.name, "area": item.area}
        if item.score is not None:
            properties["score"] = item.score
        properties |= item.attributes
        geometry = {"type": "MultiPolygon", "coordinates": coordinates}
        features.append({"type": "Feature", "geometry": geometry, "properties": properties})
    return {"type": "FeatureCollection", "features": features}


def svg(objects: Sequence[SegmentedObject], *, before_each: Callable[[], None] | None = None) -> str:
    """An SVG picture of the image's size. Each object is a path, with holes, that has the object's name as title.

    Later objects are drawn on top of earlier objects.

    Args:
        objects: The objects.
        before_each: Called before each object. An error that it raises ends the export.

    Raises:
        ModuleNotFoundError: The extra [polygons] is not installed.
        ValueError: There are no objects, or the masks' sizes differ.
    """
    from html import escape  # imported here, because loading its table of entities takes a millisecond

    height, width = common_size(objects)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">'
    ]
    for item, colour in zip(objects, own_colours(objects)):
        if before_each is not None:
            before_each()
        paint = "#{:02x}{:02x}{:02x}".format(*colour)
        title = escape(_NOT_IN_XML.sub("\ufffd", item.name), quote=False)
        path = "".join(_path(ring) for polygon in item.polygons() for ring in polygon)
        lines += [
            f'<path fill="{paint}" fill-opacity="{FILL_OPACITY:g}" fill-rule="evenodd" d="{path}">'
            f"<title>{title}</title></path>"
        ]
    return "\n".join([*lines, "</svg>", ""])


def _path(ring: NDArray[np.float64]) -> str:
    return "M" + "L".join(f"{x:.7g},{y:.7g}" for x, y in ring.tolist()) + "Z"


def to_json(data: Mapping[str, Any]) -> str:
    """The JSON text of `coco` or `geojson`. NumPy's numbers and arrays, and paths, are accepted as attributes.

    Raises:
        TypeError: An attribute has a type that JSON cannot hold.
        ValueError: An attribute is NaN or infinite.
    """
    try:
        return json.dumps(data, allow_nan=False, default=_plain)
    except ValueError as error:
        limits = "JSON, which has no NaN, infinity or cycles"
        raise ValueError(f"cannot write attributes or info as {limits}: {error}") from None


def _plain(value: object) -> object:
    if isinstance(value, np.floating):
        return float(value)
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"cannot write a {type(value).__name__} as JSON: {value!r}")


def check_output(path: str | os.PathLike[str], *, polygons: bool = False) -> Path:
    """Check that `save` can write to the path, without creating a file. Returns the path.

    Raises:
        ModuleNotFoundError: The format needs the extra [polygons], which is not installed.
        OSError: See `files.check_folder`.
        ValueError: The extension is not .json, .geojson or .svg.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"objects can be written as {', '.join(SUFFIXES)}, got {path}")
    if polygons or path.suffix.lower() != ".json":
        import_module(f"{__package__}.polygons")  # raises ModuleNotFoundError if contourpy is not installed
    check_folder(path)
    return path


def save(
    objects: Sequence[SegmentedObject],
    path: str | os.PathLike[str],
    *,
    file_name: str | os.PathLike[str] | None = None,
    size: Size | None = None,
    info: Mapping[str, Any] | None = None,
    polygons: bool = False,
) -> None:
    """Write objects to a file: `coco` as .json, `geojson` as .geojson, `svg` as .svg. A failure leaves no partial file.

    Args:
        objects: The objects to export, each a mask with its name and score.
        path: The file to write. Its extension sets the format.
        file_name: See `coco`. GeoJSON and SVG ignore this argument and the following arguments.
        size: See `coco`.
        info: See `coco`.
        polygons: See `coco`.

    Raises:
        ModuleNotFoundError: The format needs the extra [polygons], which is not installed.
        OSError: The folder does not exist or is not writable.
        ValueError: The extension is not supported, the masks' sizes differ, or there are no objects.
    """
    path = check_output(path, polygons=polygons)
    match path.suffix.lower():
        case ".json":
            text = to_json(coco(objects, file_name=file_name, size=size, info=info, polygons=polygons))
        case ".geojson":
            text = to_json(geojson(objects))
        case _:
            text = svg(objects)
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")
