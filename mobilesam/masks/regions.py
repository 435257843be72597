"""Small regions of masks removed, and duplicates among boxes.

Regions are the 8-connected components of a mask's runs, found by union of the runs that touch: no map of labels. The
rules are those of the reference's `remove_small_regions` (utils/amg.py) and of torchvision's `nms`.
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
    """The mask without holes or islands of fewer than `area_thresh` pixels, and whether there were any.

    mask: bool (H, W) or an RLE; the result is of the same kind, the mask itself where there were none.
    mode: "holes" fills the small regions outside the mask, those at the border too; "islands" drops the small ones
    inside, but where all are small keeps the largest, of several the one that is met first, row by row.
    Raises ValueError for another mode, and as `rle.encode` or `rle.decompress` for what is no mask.
    """
    if mode not in ("holes", "islands"):
        raise ValueError(f"mode must be 'holes' or 'islands', got {mode!r}")
    plain = mask if isinstance(mask, Mapping) else rle.encode(mask)
    size, counts = rle.checked(plain)
    # The runs outside the mask are those inside its complement, which begins with a run of no pixel.
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
    """The number (R,), from 0, of each run's 8-connected component; runs (R, 3) as `rle.to_runs` has them."""
    column, first, end = runs.T
    # Touched by a run: in the column before, what ends at its first row or later and begins at its end or earlier.
    before = (column - 1) * (height + 1)
    low = np.searchsorted(column * (height + 1) + end, before + first, side="left")
    high = np.searchsorted(column * (height + 1) + first, before + end, side="right")
    touched = high - low
    one = np.repeat(np.arange(len(runs)), touched)
    other = np.arange(len(one)) + np.repeat(low - (np.cumsum(touched) - touched), touched)
    parent = np.arange(len(runs))
    while len(one):
        # Each root takes the smallest root that it touches for its parent; then all look for their roots again.
        np.minimum.at(parent, np.maximum(one, other), np.minimum(one, other))
        while not np.array_equal(parent, grand := parent[parent]):
            parent = grand
        one, other = parent[one], parent[other]
        apart = one != other
        one, other = one[apart], other[apart]
    return np.unique(parent, return_inverse=True)[1]


def _first_by_row(runs: Runs, labels: NDArray[np.int64], among: NDArray[np.bool_]) -> int:
    """Of the components that are `among`, the one whose first pixel comes first, row by row."""
    mine = np.flatnonzero(among[labels])
    return int(labels[mine[np.lexsort((runs[mine, 0], runs[mine, 1]))[0]]])


def nms(boxes: ArrayLike, scores: ArrayLike, iou_threshold: float) -> NDArray[np.int64]:
    """The indices of the boxes that stay, by falling score, the earlier first where scores are equal.

    A box goes where its IoU with one that stays and comes before it exceeds `iou_threshold`. boxes: (N, 4) as
    (x0, y0, x1, y1), areas (x1 - x0)·(y1 - y0); scores: (N,). In float32, as torchvision.
    Raises ValueError for other shapes.
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
        with np.errstate(invalid="ignore"):  # two boxes without area: NaN, which exceeds nothing
            shared = both / (areas[i] + areas[i + 1 :] - both)
        alive[i + 1 :] &= ~(shared.astype(np.float64) > iou_threshold)
    return order[alive]
