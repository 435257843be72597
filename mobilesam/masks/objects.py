"""Types for masks with metadata: records of everything-mode, and segmented objects with a name and a score."""

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
    """One mask of everything-mode, for an image of H×W pixels.

    Attributes:
        segmentation: The mask: bool (H, W) or an RLE, depending on `output_mode`.
        area: Number of pixels in the mask.
        bbox: [x, y, w, h]. As in the reference, w is the last column minus the first column, and h is the last row
            minus the first row.
        predicted_iou: The model's estimate of the mask's IoU with an object.
        point_coords: [[x, y]], the point prompt of the mask.
        stability_score: IoU between the masks at a higher and a lower threshold of the logits.
        crop_box: [x, y, w, h] of the crop that the mask was found in.
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
    """An object of an image: a mask with its metadata.

    Attributes:
        mask: bool (H, W) or an RLE.
        name: Name or class of the object. It becomes the category in COCO JSON.
        score: The mask's predicted IoU, or None.
        colour: (r, g, b) from 0 to 255, or None for a colour from `colours`.
        attributes: Additional values for COCO JSON and GeoJSON.
        file_name: File name of the image, for COCO JSON. Empty if unknown.
    """

    mask: Mask
    name: str = UNNAMED
    score: float | None = None
    colour: Colour | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    file_name: str = ""

    @classmethod
    def from_record(cls, record: Record, name: str = UNNAMED) -> SegmentedObject:
        """Convert a record of everything-mode.

        The record's scores, point and crop become attributes with the same keys. The stability score of an empty mask
        is NaN, which JSON cannot hold, and becomes None.
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
        """Number of pixels in the mask."""
        return rle.area(self.mask) if isinstance(self.mask, Mapping) else int(self.mask.sum())

    def pixels(self) -> NDArray[np.bool_]:
        """The mask as bool (H, W)."""
        return rle.decode(self.mask) if isinstance(self.mask, Mapping) else self.mask

    def run_lengths(self) -> RLE:
        """The mask as an RLE."""
        return self.mask if isinstance(self.mask, Mapping) else rle.encode(self.mask)

    def polygons(self) -> list[Polygon]:
        """The mask's outlines. See `mobilesam.masks.polygons.outlines`. Needs the extra [polygons]."""
        from .polygons import outlines

        return outlines(self.pixels())


def common_size(objects: Sequence[SegmentedObject], size: Size | None = None) -> Size:
    """The common size (h, w) of all masks and of `size`, if `size` is given.

    Raises:
        ValueError: There are neither objects nor a `size`, or the sizes differ.
    """
    sizes = sorted({item.size for item in objects} | ({size} if size else set()))
    if not sizes:
        raise ValueError("no objects: at least one object is needed, or the size of the image")
    if len(sizes) > 1:
        raise ValueError(f"the masks must have one size (h, w), got {' and '.join(map(str, sizes))}")
    return sizes[0]


def common_file_name(objects: Sequence[SegmentedObject]) -> str:
    """The file name of the objects' image. Empty if unknown. Raises ValueError if the objects have different names."""
    names = sorted({item.file_name for item in objects} - {""})
    if len(names) > 1:
        raise ValueError(f"the objects come from several images, {names[0]!r} and {names[1]!r}: give file_name")
    return names[0] if names else ""
