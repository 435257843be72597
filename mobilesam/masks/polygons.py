"""Outlines of masks as polygons with holes. Requires contourpy: `pip install 'mobilesam[polygons]'`."""

from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

try:
    from contourpy import FillType, contour_generator
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("polygons need contourpy: pip install 'mobilesam[polygons]'", name="contourpy") from error

Ring: TypeAlias = NDArray[np.float64]
Polygon: TypeAlias = list[Ring]


def outlines(mask: NDArray[np.bool_]) -> list[Polygon]:
    """The polygons of a mask (H, W) bool.

    A polygon is a list of rings: the outer ring, then the holes. A ring is (N, 2) float64, x and y in pixels of the
    image. The pixel in column x and row y covers x to x + 1 and y to y + 1. The first point of a ring is not repeated
    at the end. As in GeoJSON, outer rings are counterclockwise and holes are clockwise for y upwards. On a screen, with
    y downwards, the directions are reversed.

    Outlines run half-way between the centres of pixels inside and outside the mask, and cut corners at 45°. A pixel
    belongs to the mask exactly if its centre lies within a polygon. Pixels that touch only at a corner belong to
    different polygons. Points on straight lines are left out.
    """
    if not mask.any():
        return []
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, left = rows[0], columns[0]
    levels = np.pad(mask[top : rows[-1] + 1, left : columns[-1] + 1].astype(np.float64), 1)
    generator = contour_generator(z=levels, name="serial", fill_type=FillType.ChunkCombinedOffsetOffset)
    filled: Any = generator.filled(0.5, np.inf)
    [points], [offsets], [polygons] = filled  # the mask is one chunk
    # Index 1 of `levels` is the mask's first row or column, whose centre lies half a pixel inside the mask's box.
    corners, starts = _corners(points + (np.array([left, top]) - 0.5), offsets.astype(np.int64))
    rings = [corners[start:end] for start, end in pairwise(starts.tolist())]
    return [rings[first:end] for first, end in pairwise(polygons.tolist())]


def _corners(points: Ring, starts: NDArray[np.int64]) -> tuple[Ring, NDArray[np.int64]]:
    """Leave out the points on straight lines, and the last point of each ring, which repeats the first.

    Args:
        points: (N, 2), the points of all rings.
        starts: (R + 1,), the index of the first point of each ring, and N.

    Returns:
        The remaining points, and their `starts`.
    """
    last = starts[1:] - 1
    steps = np.diff(points, axis=0)  # to the next point; steps from one ring to the next are not used
    before = np.concatenate([steps[:1], steps])
    before[starts[:-1]] = steps[last - 1]
    after = np.concatenate([steps, steps[:1]])
    kept = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
    kept[last] = False
    return points[kept], np.concatenate([[0], np.cumsum(kept)])[starts]
