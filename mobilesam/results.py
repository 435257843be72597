"""What segmented objects become: COCO JSON, GeoJSON, SVG, a picture of them, a cut-out, a label map; one or many."""

from __future__ import annotations

import colorsys
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from . import rle
from .files import check_folder, whole_file
from .image import FILL_COLOUR, mask_image
from .photo import Size, open_rgb
from .pixels import ImageLike
from .rle import RLE

if TYPE_CHECKING:
    from .automatic_mask_generator import Record
    from .polygons import Polygon

Mask: TypeAlias = NDArray[np.bool_] | RLE
Colour: TypeAlias = tuple[int, int, int]

UNNAMED = "object"
FILL_OPACITY = 0.5
LINE_COLOUR = (255, 255, 255)
BAND = 512  # rows of a photo drawn at a time
SUFFIXES = (".json", ".geojson", ".svg")
GOLDEN_RATIO = (5**0.5 - 1) / 2  # multiples of it, modulo 1, keep far from each other


@dataclass(frozen=True, eq=False)
class SegmentedObject:
    """An object of an image: its mask, bool (H, W) or an RLE, and what is known of it.

    name: what it is called, or the class it belongs to. score: its mask's predicted IoU. colour: (r, g, b) from 0 to
    255 to draw it in, else one that `colours` gives. attributes: what else COCO's JSON and GeoJSON shall say of it.
    """

    mask: Mask
    name: str = UNNAMED
    score: float | None = None
    colour: Colour | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_record(cls, record: Record, name: str = UNNAMED) -> SegmentedObject:
        """The object of a record of everything-mode, whose scores, point and crop become attributes of their names.

        The stability of an empty mask, which is not a number, becomes None.
        """
        attributes: dict[str, Any] = {
            key: record[key] for key in ("predicted_iou", "point_coords", "stability_score", "crop_box")
        }
        if math.isnan(record["stability_score"]):
            attributes["stability_score"] = None
        return cls(record["segmentation"], name, record["predicted_iou"], attributes=attributes)

    @property
    def size(self) -> Size:
        """(h, w) of the image."""
        if isinstance(self.mask, Mapping):
            return rle.checked(self.mask)[0]
        height, width = self.mask.shape
        return height, width

    @property
    def area(self) -> int:
        """Its pixels."""
        return rle.area(self.mask) if isinstance(self.mask, Mapping) else int(self.mask.sum())

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
    height, width = _common_size(objects, size)
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
    _common_size(objects)
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

    height, width = _common_size(objects)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}">'
    ]
    for item, colour in zip(objects, _own_colours(objects)):
        paint = "#{:02x}{:02x}{:02x}".format(*colour)
        path = "".join(_path(ring) for polygon in item.polygons() for ring in polygon)
        lines += [
            f'<path fill="{paint}" fill-opacity="{FILL_OPACITY:g}" fill-rule="evenodd" d="{path}">'
            f"<title>{escape(item.name, quote=False)}</title></path>"
        ]
    return "\n".join([*lines, "</svg>", ""])


def _path(ring: NDArray[np.float64]) -> str:
    return "M" + "L".join(f"{x:.7g},{y:.7g}" for x, y in ring.tolist()) + "Z"


def overlay(image: ImageLike, objects: Sequence[SegmentedObject], *, smallest_on_top: bool = False) -> Image.Image:
    """The image with each object in its colour, translucent, and a white line around what is seen of it.

    Of several on a pixel it shows the one that `label_map` has. Raises ValueError where sizes differ, and what reading
    the image raises.
    """
    photo = _photo(image, objects)
    labels = label_map(objects, size=(photo.height, photo.width), smallest_on_top=smallest_on_top)
    palette = np.array([(0, 0, 0), *_own_colours(objects)], np.uint8)
    radius = round(max(photo.size) / 1600)  # of the line, which is a pixel wide on small photos
    drawn = photo.copy()
    for top in range(0, photo.height, BAND):  # so that little is held besides the photo and its copy
        end = min(top + BAND, photo.height)
        first, last = max(0, top - radius - 1), min(end + radius + 1, photo.height)  # what a line comes in from
        band = _draw_labels(photo.crop((0, first, photo.width, last)), labels[first:last], palette, radius)
        drawn.paste(band.crop((0, top - first, photo.width, end - first)), (0, top))
    return drawn


def _draw_labels(
    photo: Image.Image, labels: NDArray[np.uint16], palette: NDArray[np.uint8], radius: int
) -> Image.Image:
    line = np.zeros(labels.shape, np.bool_)
    line[1:] |= labels[1:] != labels[:-1]
    line[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    if radius:
        line = np.asarray(mask_image(line).filter(ImageFilter.BoxBlur(radius))) > 0
    fill = mask_image(labels > 0).point([0] * 255 + [round(255 * FILL_OPACITY)])
    photo.paste(Image.fromarray(palette[labels]), mask=fill)
    photo.paste(LINE_COLOUR, mask=mask_image(line))
    return photo


def cutout(image: ImageLike, objects: Sequence[SegmentedObject], *, crop: bool = False) -> Image.Image:
    """The image with nothing but the objects: RGBA, transparent and black everywhere else.

    crop: only the smallest box around them. Raises ValueError where sizes differ or crop finds no pixel, and what
    reading the image raises.
    """
    photo = _photo(image, objects)
    width, height = photo.size
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


def label_map(
    objects: Sequence[SegmentedObject], *, size: Size | None = None, smallest_on_top: bool = False
) -> NDArray[np.uint16]:
    """Each pixel's object (H, W) uint16: its number in the sequence, from 1; 0 for none.

    Of several objects on a pixel it is the last, or with smallest_on_top the one of the smallest area. size: (h, w) of
    the image, needed where there is no object. `PIL.Image.fromarray` makes a 16-bit picture of it. Masks that are RLEs
    are not unpacked. Raises ValueError where there is neither object nor size, sizes differ, or there are over 65535
    objects.
    """
    height, width = _common_size(objects, size)
    if len(objects) > np.iinfo(np.uint16).max:
        raise ValueError(f"a label map holds 65535 objects, got {len(objects)}")
    order = range(len(objects))
    columns = np.zeros(height * width, np.uint16)
    for i in sorted(order, key=lambda i: -objects[i].area) if smallest_on_top else order:
        for first, end in rle.spans(objects[i].run_lengths()).tolist():
            columns[first:end] = i + 1
    return np.ascontiguousarray(columns.reshape(width, height).T)


def colours(count: int) -> list[Colour]:
    """Colours (r, g, b) that neighbours in the list do not share; the first is that of overlays."""
    hue, saturation, value = colorsys.rgb_to_hsv(*(level / 255 for level in FILL_COLOUR))
    hues = ((hue + i * GOLDEN_RATIO) % 1 for i in range(count))
    shades = (colorsys.hsv_to_rgb(hue, saturation, value) for hue in hues)
    return [(round(255 * red), round(255 * green), round(255 * blue)) for red, green, blue in shades]


def _own_colours(objects: Sequence[SegmentedObject]) -> list[Colour]:
    return [item.colour or colour for item, colour in zip(objects, colours(len(objects)))]


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


def _photo(image: ImageLike, objects: Sequence[SegmentedObject]) -> Image.Image:
    """The image, where it is of the masks' size."""
    photo = open_rgb(image)
    height, width = _common_size(objects) if objects else (photo.height, photo.width)
    if photo.size != (width, height):
        raise ValueError(f"the masks are {width}x{height} but the image is {photo.width}x{photo.height} pixels")
    return photo


def _common_size(objects: Sequence[SegmentedObject], size: Size | None = None) -> Size:
    sizes = sorted({item.size for item in objects} | ({size} if size else set()))
    if not sizes:
        raise ValueError("no objects: at least one is needed")
    if len(sizes) > 1:
        raise ValueError(f"the masks must be of one size (h, w), got {' and '.join(map(str, sizes))}")
    return sizes[0]
