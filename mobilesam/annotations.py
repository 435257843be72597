"""Everything-mode's records as pictures and as COCO's JSON."""

import colorsys
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from . import __version__, rle
from .automatic_mask_generator import Record
from .image import Size, mask_image
from .rle import RLE

FILL_ALPHA = 0.45
LINE_COLOUR = (255, 255, 255)
GOLDEN_ANGLE = (3 - math.sqrt(5)) / 2  # of a turn: hues so far apart stay distinct, however many they are
MOST_LABELS = 2**16 - 1
BAND = 512  # rows


def label_map(records: Sequence[Record], size: Size) -> NDArray[np.uint16]:
    """For each pixel (H, W) the number of its mask, from 1 in the records' order, and 0 where there is none.

    Where masks overlap, the smaller one is seen. size: (H, W) of the masks.
    Raises ValueError where there are more masks than 16 bits can number.
    """
    if len(records) > MOST_LABELS:
        raise ValueError(f"a label map of 16 bits holds at most {MOST_LABELS} masks, got {len(records)}")
    height, width = size
    columns = np.zeros(height * width, np.uint16)
    for i in sorted(range(len(records)), key=lambda i: -records[i]["area"]):
        for first, end in rle.spans(_rle(records[i])).tolist():
            columns[first:end] = i + 1
    return np.ascontiguousarray(columns.reshape(width, height).T)


def draw_labels(photo: Image.Image, labels: NDArray[np.uint16]) -> Image.Image:
    """The RGB photo with each label in a colour of its own, translucent, and a line where it ends.

    labels: (H, W), as from `label_map`. Raises ValueError where the photo is of another size.
    """
    height, width = labels.shape
    if photo.size != (width, height):
        raise ValueError(f"the labels are {width}x{height} but the photo is {photo.width}x{photo.height} pixels")
    colours = np.array([_colour(label) for label in range(int(labels.max()) + 1)], np.uint8)
    radius = round(max(photo.size) / 1600)
    halo = radius + 1
    drawn = photo.copy()
    for top in range(0, height, BAND):  # so that little is held besides the photo and its copy
        first, end = max(0, top - halo), min(height, top + BAND + halo)
        band = _draw(photo.crop((0, first, width, end)), labels[first:end], colours, radius)
        drawn.paste(band.crop((0, top - first, width, min(height, top + BAND) - first)), (0, top))
    return drawn


def _draw(photo: Image.Image, labels: NDArray[np.uint16], colours: NDArray[np.uint8], radius: int) -> Image.Image:
    line = np.zeros(labels.shape, np.bool_)
    line[1:] |= labels[1:] != labels[:-1]
    line[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    if radius:
        line = np.asarray(mask_image(line).filter(ImageFilter.BoxBlur(radius))) > 0
    photo.paste(
        Image.fromarray(colours[labels]), mask=mask_image(labels > 0).point([0] * 255 + [round(255 * FILL_ALPHA)])
    )
    photo.paste(LINE_COLOUR, mask=mask_image(line))
    return photo


def _colour(label: int) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(label * GOLDEN_ANGLE % 1, (0.95, 0.7)[label % 2], 1)
    return round(255 * red), round(255 * green), round(255 * blue)


def coco(records: Sequence[Record], size: Size, file_name: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """A COCO data set of one image, for json.dumps; the masks are its annotations, all of one category.

    An annotation has what a record has. Its mask is a compressed RLE, and its box COCO's, whose width and height count
    pixels: they are one more than the record's.
    """
    height, width = size
    return {
        "info": {
            "description": "masks of a whole image, by mobilesam",
            "version": __version__,
            "parameters": dict(parameters),
        },
        "images": [{"id": 1, "file_name": file_name, "width": width, "height": height}],
        "categories": [{"id": 1, "name": "object"}],
        "annotations": [
            {"id": i, "image_id": 1, "category_id": 1, "iscrowd": 0, **record, **_as_coco(record)}
            for i, record in enumerate(records, 1)
        ],
    }


def _as_coco(record: Record) -> dict[str, Any]:
    """What differs in an annotation from the record; an empty mask's stability is no number."""
    mask, stability = rle.compress(_rle(record)), record["stability_score"]
    return {
        "segmentation": mask,
        "bbox": rle.bbox(mask),
        "stability_score": None if math.isnan(stability) else stability,
    }


def _rle(record: Record) -> RLE:
    mask = record["segmentation"]
    return rle.encode(mask) if isinstance(mask, np.ndarray) else mask
