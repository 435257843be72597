"""What is found in an image: a record of everything-mode, a segmented object with its name and score."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict

import numpy as np
from numpy.typing import NDArray

from ..images.geometry import Size
from . import rle
from .rle import RLE, CompressedRLE, UncompressedRLE

if TYPE_CHECKING:
    from .polygons import Polygon


class Record(TypedDict):
    """One mask of an image of H×W pixels.

    segmentation: bool (H, W), or an RLE, as `output_mode` says. area: its pixels. bbox: [x, y, w, h] with w and h the
    distance of the first from the last column and row. predicted_iou: the mask's IoU with an object as the model
    predicts it. point_coords: [[x, y]], the point that it answers. stability_score: the IoU between the masks of a
    higher and a lower threshold. crop_box: [x, y, w, h] of the crop it was found in.
    """

    segmentation: NDArray[np.bool_] | UncompressedRLE | CompressedRLE
    area: int
    bbox: list[int]
    predicted_iou: float
    point_coords: list[list[float]]
    stability_score: float
    crop_box: list[int]


Mask: TypeAlias = NDArray[np.bool_] | RLE
Colour: TypeAlias = tuple[int, int, int]
UNNAMED = "object"


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
        """The mask's polygons; `mobilesam.masks.polygons.outlines` says what they are and raises."""
        from .polygons import outlines

        return outlines(self.pixels())


def common_size(objects: Sequence[SegmentedObject], size: Size | None = None) -> Size:
    sizes = sorted({item.size for item in objects} | ({size} if size else set()))
    if not sizes:
        raise ValueError("no objects: at least one is needed")
    if len(sizes) > 1:
        raise ValueError(f"the masks must be of one size (h, w), got {' and '.join(map(str, sizes))}")
    return sizes[0]
