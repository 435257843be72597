"""Removal of small regions from masks, and non-maximum suppression of boxes.

Regions are the 8-connected components of a mask. They are computed from the mask's runs by union-find, without an array
of the image's size. Source: the reference's `remove_small_regions` (utils/amg.py), and torchvision's `nms`.
"""

from collections.abc import Mapping
from typing import Literal, TypeAlias, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import rle
from .rle import RLE, Runs

__all__ = [
    "Mask",
    "Mode",
    "label_runs",
    "nms",
    "remove_small_regions",
]

Mode: TypeAlias = Literal["holes", "islands"]
Mask: TypeAlias = NDArray[np.bool_]


@overload
def remove_small_regions(mask: Mask, area_thresh: float, mode: Mode) -> tuple[Mask, bool]: ...
@overload
def remove_small_regions(mask: RLE, area_thresh: float, mode: Mode) -> tuple[RLE, bool]: ...
def remove_small_regions(mask: Mask | RLE, area_thresh: float, mode: Mode) -> tuple[Mask | RLE, bool]:
    """Remove holes or islands of fewer than `area_thresh` pixels from a mask.

    Args:
        mask: bool (H, W) or an RLE.
        area_thresh: Regions of fewer pixels are removed.
        mode: "holes" fills small regions outside the mask, including regions at the image's border. "islands" removes
            small regions inside the mask. If all islands are small, the largest island is kept. Of several largest
            islands, the island with the first pixel in row-major order is kept.

    Returns:
        The new mask in the form of `mask`, and whether anything was removed. If nothing was removed, the new
        mask is `mask` itself.

    Raises:
        TypeError: `mask` is neither a bool array nor an RLE. See `rle.encode` and `rle.decompress`.
        ValueError: `mode` is unknown, or `mask` has a wrong shape or is an invalid RLE.
    """
    if mode not in ("holes", "islands"):
        raise ValueError(f"mode must be 'holes' or 'islands', got {mode!r}")
    plain = mask if isinstance(mask, Mapping) else rle.encode(mask)
    size, counts = rle.checked(plain)
    # The holes are the runs of the complement. A leading 0 in the counts of an RLE swaps inside and outside.
    runs = rle.to_runs({"size": size, "counts": np.concatenate([[0], counts])} if mode == "holes" else plain)
    if not len(runs):
        return mask, False
    labels = label_runs(runs, size[0])
    areas = np.bincount(labels, runs[:, 2] - runs[:, 1])
    small = areas < area_thresh
    if not small.any():
        return mask, False
    if mode == "islands" and small.all():
        small[_first_by_row(runs, labels, areas == areas.max())] = False
    counts = rle.from_runs(runs[~small[labels]], size).astype(np.int64)
    if mode == "holes":
        counts = counts[1:] if counts[0] == 0 else np.concatenate([[0], counts])
    result: RLE = {"size": list(size), "counts": counts.tolist()}
    return result if isinstance(mask, Mapping) else rle.decode(result), True


def label_runs(runs: Runs, height: int) -> NDArray[np.int64]:
    """The 8-connected component of each run.

    Args:
        runs: (R, 3) from `rle.to_runs`.
        height: Height of the image.

    Returns:
        (R,) component numbers, from 0.
    """
    column, first, end = runs.T
    # A run touches the runs of the previous column that end at its first row or later and begin at its end or earlier.
    before = (column - 1) * (height + 1)
    low = np.searchsorted(column * (height + 1) + end, before + first, side="left")
    high = np.searchsorted(column * (height + 1) + first, before + end, side="right")
    touched = high - low
    one = np.repeat(np.arange(len(runs)), touched)
    other = np.arange(len(one)) + np.repeat(low - (np.cumsum(touched) - touched), touched)
    parent = np.arange(len(runs))
    while len(one):
        # The parent of each root becomes the smallest root that touches it. Then each run's parent becomes its root.
        np.minimum.at(parent, np.maximum(one, other), np.minimum(one, other))
        while not np.array_equal(parent, grand := parent[parent]):
            parent = grand
        one, other = parent[one], parent[other]
        apart = one != other
        one, other = one[apart], other[apart]
    return np.unique(parent, return_inverse=True)[1]


def _first_by_row(runs: Runs, labels: NDArray[np.int64], among: NDArray[np.bool_]) -> int:
    """The component in `among` that contains the first pixel in row-major order. `among` is a bool per component."""
    mine = np.flatnonzero(among[labels])
    return int(labels[mine[np.lexsort((runs[mine, 0], runs[mine, 1]))[0]]])


def nms(boxes: ArrayLike, scores: ArrayLike, iou_threshold: float) -> NDArray[np.int64]:
    """Non-maximum suppression. Computes in float32, like torchvision.

    A box is dropped if its IoU with a kept box of higher score exceeds `iou_threshold`. If two scores are equal, the
    box with the lower index ranks higher.

    Args:
        boxes: (N, 4), (x0, y0, x1, y1). The area of a box is (x1 - x0)·(y1 - y0).
        scores: (N,).
        iou_threshold: The threshold.

    Returns:
        Indices of the kept boxes, in descending order of score.

    Raises:
        ValueError: `boxes` is not (N, 4), or `scores` is not (N,).
    """
    boxes, scores = np.asarray(boxes, np.float32), np.asarray(scores, np.float32)
    if boxes.shape == (0,):
        boxes = boxes.reshape(0, 4)
    if boxes.ndim != 2 or boxes.shape[1] != 4 or scores.shape != boxes.shape[:1]:
        raise ValueError(f"boxes must be (N, 4) and scores (N,), got shapes {boxes.shape} and {scores.shape}")
    order = np.argsort(-scores, kind="stable")
    x0, y0, x1, y1 = np.ascontiguousarray(boxes[order].T)
    areas = (x1 - x0) * (y1 - y0)
    alive = np.ones(len(order), np.bool_)
    for i in range(len(order)):
        if not alive[i]:
            continue
        width = np.minimum(x1[i], x1[i + 1 :]) - np.maximum(x0[i], x0[i + 1 :])
        height = np.minimum(y1[i], y1[i + 1 :]) - np.maximum(y0[i], y0[i + 1 :])
        both = np.maximum(width, 0) * np.maximum(height, 0)
        with np.errstate(invalid="ignore"):  # the IoU of two boxes without area is NaN, so neither is dropped
            shared = both / (areas[i] + areas[i + 1 :] - both)
        alive[i + 1 :] &= ~(shared.astype(np.float64) > iou_threshold)
    return order[alive]
