"""Outlines of masks as polygons with holes. Needs contourpy: `pip install 'mobilesam[polygons]'`."""

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
    """The polygons of a mask (H, W) bool, each its outer ring and then its holes.

    A ring is (N, 2), x and y in the image's pixels, where the pixel in column x and row y covers x to x + 1 and y to
    y + 1; it is closed without repeating its first point. Outer rings run counterclockwise and holes clockwise as
    numbers go, as GeoJSON has it, which on a screen, with y downwards, looks the other way round.

    The line runs half-way between the centres of pixels inside and outside and cuts corners at 45°. So it is exact in
    this sense: a pixel belongs to the mask where its centre lies within a polygon. Pixels that touch at a corner only
    are apart. Points on a straight line are left out.
    """
    if not mask.any():
        return []
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    top, left = rows[0], columns[0]
    levels = np.pad(mask[top : rows[-1] + 1, left : columns[-1] + 1].astype(np.float64), 1)
    contours = contour_generator(z=levels, name="serial", fill_type=FillType.OuterOffset)
    # Index 1 is the first row or column of the mask within its box; its centre is half a pixel on.
    origin = np.array([left, top]) - 0.5
    return [
        [_without_straight(points[start : end - 1] + origin) for start, end in pairwise(offsets)]
        for points, offsets in zip(*contours.filled(0.5, np.inf))
    ]


def _without_straight(ring: Ring) -> Ring:
    before, after = ring - np.roll(ring, 1, axis=0), np.roll(ring, -1, axis=0) - ring
    return ring[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]
