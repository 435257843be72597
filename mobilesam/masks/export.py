"""Segmented objects as text: COCO JSON, GeoJSON, SVG; and as files."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..images.geometry import Size
from ..util.files import check_folder, whole_file
from . import rle
from .draw import FILL_OPACITY, own_colours
from .objects import SegmentedObject, common_size

SUFFIXES = (".json", ".geojson", ".svg")


def coco(
    objects: Sequence[SegmentedObject],
    *,
    file_name: str = "",
    size: Size | None = None,
    info: Mapping[str, Any] | None = None,
    polygons: bool = False,
) -> dict[str, Any]:
    """COCO's JSON of an image: `images` with one, `annotations` in the objects' order, `categories` of their names.

    An annotation's segmentation is a compressed RLE, which is exact and which pycocotools reads; it has COCO's area and
    bbox, the score where there is one, and the object's attributes. file_name: the image's. size: its (h, w), needed
    where there is no object. info: what COCO's `info` shall say. polygons: also give each object's `polygons`, each
    a list of rings of [x, y], the outer one first, then its holes (of which COCO's own polygons have none); needs the
    extra [polygons]. Raises ValueError where there is neither object nor size, or sizes differ.
    """
    height, width = common_size(objects, size)
    names = list(dict.fromkeys(item.name for item in objects))
    annotations = []
    for number, item in enumerate(objects, 1):
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
        "images": [{"id": 1, "file_name": file_name, "width": width, "height": height}],
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for number, name in enumerate(names, 1)],
    }


def geojson(objects: Sequence[SegmentedObject]) -> dict[str, Any]:
    """A GeoJSON FeatureCollection, for each object a MultiPolygon with its name, area in pixels, score and attributes.

    Coordinates are pixels of the image, y downwards, not places on Earth; rings are closed and wound as RFC 7946 asks.
    Needs the extra [polygons]. Raises ValueError where there is no object or the masks' sizes differ.
    """
    common_size(objects)
    features = []
    for item in objects:
        coordinates = [[[*ring.tolist(), ring[0].tolist()] for ring in polygon] for polygon in item.polygons()]
        properties: dict[str, Any] = {"name": item.name, "area": item.area}
        if item.score is not None:
            properties["score"] = item.score
        properties |= item.attributes
        geometry = {"type": "MultiPolygon", "coordinates": coordinates}
        features.append({"type": "Feature", "geometry": geometry, "properties": properties})
    return {"type": "FeatureCollection", "features": features}


def svg(objects: Sequence[SegmentedObject]) -> str:
    """An SVG picture of the image's size, for each object a path with its holes and its name as the title.

    Later objects lie over earlier ones. Needs the extra [polygons]. Raises ValueError where there is no object or the
    masks' sizes differ.
    """
    from html import escape  # its table of entities takes a millisecond to load

    height, width = common_size(objects)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">'
    ]
    for item, colour in zip(objects, own_colours(objects)):
        paint = "#{:02x}{:02x}{:02x}".format(*colour)
        path = "".join(_path(ring) for polygon in item.polygons() for ring in polygon)
        lines += [
            f'<path fill="{paint}" fill-opacity="{FILL_OPACITY:g}" fill-rule="evenodd" d="{path}">'
            f"<title>{escape(item.name, quote=False)}</title></path>"
        ]
    return "\n".join([*lines, "</svg>", ""])


def _path(ring: NDArray[np.float64]) -> str:
    return "M" + "L".join(f"{x:.7g},{y:.7g}" for x, y in ring.tolist()) + "Z"


def check_output(path: str | os.PathLike[str], *, polygons: bool = False) -> Path:
    """The path, where `save` can write it; nothing is created. Raises what `save` raises for a path."""
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"objects are written as {', '.join(SUFFIXES)}, got {path}")
    if polygons or path.suffix.lower() != ".json":
        import_module(f"{__package__}.polygons")  # which says what is missing
    check_folder(path)
    return path


def save(
    objects: Sequence[SegmentedObject],
    path: str | os.PathLike[str],
    *,
    file_name: str = "",
    size: Size | None = None,
    info: Mapping[str, Any] | None = None,
    polygons: bool = False,
) -> None:
    """Write `coco` as .json, `geojson` as .geojson or `svg` as .svg, whole or not at all.

    file_name, size, info and polygons are for `coco`. Raises ValueError for another extension, OSError for a folder
    that is missing or not writable, and what these functions raise.
    """
    path = check_output(path, polygons=polygons)
    match path.suffix.lower():
        case ".json":
            text = json.dumps(coco(objects, file_name=file_name, size=size, info=info, polygons=polygons))
        case ".geojson":
            text = json.dumps(geojson(objects))
        case _:
            text = svg(objects)
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")
