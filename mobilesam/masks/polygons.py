"""Outlines of masks as polygons with holes. Requires contourpy: `pip install 'mobilesam[polygons]'`."""

from itertools import pairwise
from typing import TypeAlias

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
    contours = contour_generator(z=levels, name="serial", fill_type=FillType.OuterOffset)
    # Index 1 of `levels` is the mask's first row or column, whose centre lies half a pixel inside the mask's box.
    origin = np.array([left, top]) - 0.5
    return [
        [_without_straight(points[start : end - 1] + origin) for start, end in pairwise(offsets)]
        for points, offsets in zip(*contours.filled(0.5, np.inf))
    ]


def _without_straight(ring: Ring) -> Ring:
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    return ring[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]
