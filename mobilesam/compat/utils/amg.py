"""Functions on masks, boxes and grids of the reference's utils/amg.py, on NumPy arrays.

A function whose name ends in `_pytorch` returns what the reference returns, and also accepts tensors.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...api import crop_search, everything
from ...api.everything import MOST_CROP_LAYERS, MOST_POINTS_PER_SIDE, checked_whole
from ...images.geometry import Size
from ...masks import regions, rle
from ...masks.rle import CompressedRLE, UncompressedRLE
from .transforms import tensors_for

__all__ = [
    "area_from_rle",
    "batch_iterator",
    "batched_mask_to_box",
    "box_xyxy_to_xywh",
    "build_all_layer_point_grids",
    "build_point_grid",
    "calculate_stability_score",
    "coco_encode_rle",
    "generate_crop_boxes",
    "mask_to_rle_pytorch",
    "remove_small_regions",
    "rle_to_mask",
]


def mask_to_rle_pytorch(tensor: Any) -> list[UncompressedRLE]:
    """Encode masks (B, H, W) as uncompressed RLEs."""
    return [rle.encode(mask) for mask in np.asarray(tensor).astype(np.bool_)]


def rle_to_mask(rle_mask: UncompressedRLE) -> NDArray[np.bool_]:
    """Decode an uncompressed RLE as a mask (H, W)."""
    return rle.decode(rle_mask)


def area_from_rle(rle_mask: UncompressedRLE) -> int:
    """Number of pixels in the mask."""
    return rle.area(rle_mask)


def coco_encode_rle(uncompressed_rle: UncompressedRLE) -> CompressedRLE:
    """Compress an RLE. `counts` is a str."""
    return rle.compress(uncompressed_rle)


def batched_mask_to_box(masks: Any) -> Any:
    """The boxes (..., 4) int64, (x0, y0, x1, y1) with both ends inside, of masks (..., H, W). 0 for an empty mask."""
    array = np.asarray(masks).astype(np.bool_)
    height, width = array.shape[-2:]
    boxes = []
    for mask in array.reshape(-1, height, width):
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        boxes.append((columns[0], rows[0], columns[-1], rows[-1]) if len(rows) else (0, 0, 0, 0))
    return tensors_for((masks,), np.array(boxes, np.int64).reshape(*array.shape[:-2], 4))[0]


def box_xyxy_to_xywh(box_xyxy: Any) -> Any:
    """Convert boxes (..., 4) from (x0, y0, x1, y1) to (x0, y0, width, height)."""
    box = np.array(box_xyxy)
    box[..., 2:] -= box[..., :2]
    return tensors_for((box_xyxy,), box)[0]


def calculate_stability_score(masks: Any, mask_threshold: float, threshold_offset: float) -> Any:
    """The IoU (...) of the masks at a higher and at a lower threshold of logits (..., H, W)."""
    logits = np.asarray(masks)
    high, low = (
        (logits > threshold).sum(axis=(-1, -2)).astype(np.float32)
        for threshold in (mask_threshold + threshold_offset, mask_threshold - threshold_offset)
    )
    with np.errstate(invalid="ignore"):
        return tensors_for((masks,), np.asarray(high / low))[0]


def remove_small_regions(mask: NDArray[np.bool_], area_thresh: float, mode: Any) -> tuple[NDArray[np.bool_], bool]:
    """Remove holes or islands of fewer pixels than `area_thresh`. See `mobilesam.regions.remove_small_regions`."""
    return regions.remove_small_regions(np.asarray(mask, np.bool_), area_thresh, mode)


def build_point_grid(n_per_side: int) -> NDArray[np.float64]:
    """The centres (n², 2) of n×n cells of the unit square."""
    return crop_search.build_point_grid(checked_whole("n_per_side", n_per_side, 1, MOST_POINTS_PER_SIDE))


def build_all_layer_point_grids(n_per_side: int, n_layers: int, scale_per_layer: int) -> list[NDArray[np.float64]]:
    """The point grids (N, 2) of the whole image and of each layer of crops. See `build_point_grid`."""
    side = checked_whole("n_per_side", n_per_side, 1, MOST_POINTS_PER_SIDE)
    layers = checked_whole("n_layers", n_layers, 0, MOST_CROP_LAYERS)
    scale = checked_whole("scale_per_layer", scale_per_layer, 1)
    if side < scale**layers:
        raise ValueError(f"n_per_side must leave a point per side in each layer, at least {scale**layers}, got {side}")
    return [build_point_grid(side // scale**i) for i in range(layers + 1)]


def generate_crop_boxes(im_size: Size, n_layers: int, overlap_ratio: float) -> tuple[list[list[int]], list[int]]:
    """The crops' boxes [x0, y0, x1, y1], and their layers."""
    crops = everything.generate_crop_boxes(im_size, n_layers, overlap_ratio)
    return [list(box) for box, _ in crops], [layer for _, layer in crops]


def batch_iterator(batch_size: int, *args: Any) -> Iterator[list[Any]]:
    """Yield slices of `batch_size` elements of all arguments, which have the same length."""
    checked_whole("batch_size", batch_size, 1)
    if not args or any(len(each) != len(args[0]) for each in args):
        raise AssertionError("Batched iteration must have inputs of all the same size.")
    for first in range(0, len(args[0]), batch_size):
        yield [each[first : first + batch_size] for each in args]
