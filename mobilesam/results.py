"""What segmented objects become: COCO JSON, GeoJSON, SVG, a cut-out, a label map; one object or many of one image."""

from __future__ import annotations

import colorsys
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from . import rle
from .files import check_folder, whole_file
from .image import FILL_COLOUR, ImageLike, Size, mask_image, open_rgb
from .rle import RLE

if TYPE_CHECKING:
    from .polygons import Polygon

Mask: TypeAlias = NDArray[np.bool_] | RLE
Colour: TypeAlias = tuple[int, int, int]

UNNAMED = "object"
FILL_OPACITY = 0.5
SUFFIXES = (".json", ".geojson", ".svg")
GOLDEN_RATIO = (5**0.5 - 1) / 2  # multiples of it, modulo 1, keep far from each other


@dataclass(frozen=True, eq=False)
class SegmentedObject:
    """An object of an image: its mask, bool (H, W) or an RLE, and what is known of it.

    name: what it is called, or the class it belongs to. score: its mask's predicted IoU. colour: (r, g, b) from 0 to
    255 to draw it in, else one that `colours` gives.
    """

    mask: Mask
    name: str = UNNAMED
    score: float | None = None
    colour: Colour | None = None

    @property
    def size(self) -> Size:
        """(h, w) of the image."""
        if isinstance(self.mask, Mapping):
            return rle.checked(self.mask)[0]
        height, width = self.mask.shape
        return height, width

    def pixels(self) -> NDArray[np.bool_]:
        """The mask as bool (H, W)."""
        return rle.decode(self.mask) if isinstance(self.mask, Mapping) else self.mask

    def run_lengths(self) -> RLE:
        """The mask as an RLE."""
        return self.mask if isinstance(self.mask, Mapping) else rle.encode(self.mask)

    def polygons(self) -> list[Polygon]:
        """The mask's polygons; `mobilesam.polygons.outlines` says what they are and raises."""
        from .polygons import outlines

        return outlines(self.pixels())


def coco(
    objects: Sequence[SegmentedObject], *, file_name: str = "", polygons: bool = False
) -> dict[str, list[dict[str, Any]]]:
    """COCO's JSON of an image: `images` with one, `annotations` in the objects' order, `categories` of their names.

    An annotation's segmentation is a compressed RLE, which is exact and which pycocotools reads; it has COCO's area and
    bbox, and the score where there is one. file_name: the image's. polygons: also give each object's `polygons`, each
    a list of rings of [x, y], the outer one first, then its holes (of which COCO's own polygons have none); needs the
    extra [polygons]. Raises ValueError where there is no object or the masks' sizes differ.
    """
    height, width = _common_size(objects)
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
        if polygons:
            annotation["polygons"] = [[ring.tolist() for ring in polygon] for polygon in item.polygons()]
        annotations.append(annotation)
    return {
        "images": [{"id": 1, "file_name": file_name, "width": width, "height": height}],
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for number, name in enumerate(names, 1)],
    }


def geojson(objects: Sequence[SegmentedObject]) -> dict[str, Any]:
    """A GeoJSON FeatureCollection, for each object a MultiPolygon with its name, score and area in pixels.

    Coordinates are pixels of the image, y downwards, not places on Earth; rings are closed and wound as RFC 7946 asks.
    Needs the extra [polygons]. Raises ValueError where there is no object or the masks' sizes differ.
    """
    _common_size(objects)
    features = []
    for item in objects:
        coordinates = [[[*ring.tolist(), ring[0].tolist()] for ring in polygon] for polygon in item.polygons()]
        properties: dict[str, Any] = {"name": item.name, "area": rle.area(item.run_lengths())}
        if item.score is not None:
            properties["score"] = item.score
        geometry = {"type": "MultiPolygon", "coordinates": coordinates}
        features.append({"type": "Feature", "geometry": geometry, "properties": properties})
    return {"type": "FeatureCollection", "features": features}


def svg(objects: Sequence[SegmentedObject]) -> str:
    """An SVG picture of the image's size, for each object a path with its holes and its name as the title.

    Later objects lie over earlier ones. Needs the extra [polygons]. Raises ValueError where there is no object or the
    masks' sizes differ.
    """
    height, width = _common_size(objects)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">'
    ]
    for item, colour in zip(objects, colours(len(objects))):
        paint = "#{:02x}{:02x}{:02x}".format(*(item.colour or colour))
        path = "".join(_path(ring) for polygon in item.polygons() for ring in polygon)
        lines += [
            f'<path fill="{paint}" fill-opacity="{FILL_OPACITY:g}" fill-rule="evenodd" d="{path}">'
            f"<title>{escape(item.name, quote=False)}</title></path>"
        ]
    return "\n".join([*lines, "</svg>", ""])


def _path(ring: NDArray[np.float64]) -> str:
    return "M" + "L".join(f"{x:.7g},{y:.7g}" for x, y in ring.tolist()) + "Z"


def cutout(image: ImageLike, objects: Sequence[SegmentedObject], *, crop: bool = False) -> Image.Image:
    """The image with nothing but the objects: RGBA, transparent and black everywhere else.

    crop: only the smallest box around them. Raises ValueError where the sizes differ, there is no object, or crop finds
    no pixel, and what reading the image raises.
    """
    height, width = _common_size(objects)
    photo = open_rgb(image)
    if photo.size != (width, height):
        raise ValueError(f"the masks are {width}x{height} but the image is {photo.width}x{photo.height} pixels")
    inside = np.zeros((height, width), np.bool_)
    for item in objects:
        inside |= item.pixels()
    alpha = mask_image(inside)
    box = alpha.getbbox() if crop else (0, 0, width, height)
    if box is None:
        raise ValueError("there is nothing to crop to: the masks are empty")
    cut = Image.new("RGBA", (box[2] - box[0], box[3] - box[1]))
    cut.paste(photo.crop(box), mask=alpha.crop(box))
    return cut


def label_map(objects: Sequence[SegmentedObject]) -> NDArray[np.uint16]:
    """Each pixel's object (H, W) uint16: its number in the sequence, from 1, of several the last; 0 for none.

    `PIL.Image.fromarray` makes a 16-bit picture of it. Raises ValueError where there is no object, there are over
    65535, or the masks' sizes differ.
    """
    labels = np.zeros(_common_size(objects), np.uint16)
    if len(objects) > np.iinfo(np.uint16).max:
        raise ValueError(f"a label map holds 65535 objects, got {len(objects)}")
    for number, item in enumerate(objects, 1):
        labels[item.pixels()] = number
    return labels


def colours(count: int) -> list[Colour]:
    """Colours (r, g, b) that neighbours in the list do not share; the first is that of overlays."""
    hue, saturation, value = colorsys.rgb_to_hsv(*(level / 255 for level in FILL_COLOUR))
    hues = ((hue + i * GOLDEN_RATIO) % 1 for i in range(count))
    shades = (colorsys.hsv_to_rgb(hue, saturation, value) for hue in hues)
    return [(round(255 * red), round(255 * green), round(255 * blue)) for red, green, blue in shades]


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
    objects: Sequence[SegmentedObject], path: str | os.PathLike[str], *, file_name: str = "", polygons: bool = False
) -> None:
    """Write `coco` as .json, `geojson` as .geojson or `svg` as .svg, whole or not at all.

    file_name and polygons are for `coco`. Raises ValueError for another extension, OSError for a folder that is missing
    or not writable, and what these functions raise.
    """
    path = check_output(path, polygons=polygons)
    match path.suffix.lower():
        case ".json":
            text = json.dumps(coco(objects, file_name=file_name, polygons=polygons))
        case ".geojson":
            text = json.dumps(geojson(objects))
        case _:
            text = svg(objects)
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def _common_size(objects: Sequence[SegmentedObject]) -> Size:
    sizes = sorted({item.size for item in objects})
    if not sizes:
        raise ValueError("no objects: at least one is needed")
    if len(sizes) > 1:
        raise ValueError(f"the masks must be of one size (h, w), got {' and '.join(map(str, sizes))}")
    return sizes[0]
