"""Resizing as OpenCV's INTER_AREA: areas are averaged to shrink an image, and neighbours are blended to enlarge it.

Source: OpenCV's documentation of `cv2.resize`; checked against opencv-python-headless. Results differ from
OpenCV's by at most one grey level, because OpenCV rounds its weights to 11 bits when it enlarges an image.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .geometry import Size


class Taps(NamedTuple):
    """The input lines that one output line is a weighted sum of.

    Attributes:
        first: Index of the first input line.
        weights: Weights (N,) float32 of N neighbouring input lines. They sum to 1.
    """

    first: int
    weights: NDArray[np.float32]


def resize_area(image: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """Resize an image as `cv2.resize(image, (w, h), interpolation=cv2.INTER_AREA)`.

    Args:
        image: (H, W) or (H, W, C) uint8.
        size: (h, w) of the result.

    Returns:
        (h, w) or (h, w, C) uint8, rounded to the nearest whole number.
    """
    height, width = image.shape[:2]
    if (height, width) == size:
        return image
    # OpenCV averages areas only if neither side grows.
    taps = _shrinking if size[0] <= height and size[1] <= width else _enlarging
    rows = _resized(image.reshape(height, -1), size[0], taps)
    columns = rows.reshape(size[0], width, -1).swapaxes(0, 1)
    resized = _resized(columns.reshape(width, -1), size[1], taps).reshape(size[1], size[0], -1).swapaxes(0, 1)
    halved = (height, width) == (2 * size[0], 2 * size[1])  # OpenCV then rounds halves up, else to even numbers
    rounded = np.floor(resized + 0.5) if halved else np.rint(resized)
    return rounded.astype(np.uint8).reshape(*size, *image.shape[2:])


def _resized(lines: NDArray[np.generic], count: int, taps: Callable[[int, int], list[Taps]]) -> NDArray[np.float32]:
    """Resize lines (L, N) to (count, N) along their first axis."""
    out = np.empty((count, lines.shape[1]), np.float32)
    for i, (first, weights) in enumerate(taps(len(lines), count)):
        # einsum, because the product of BLAS would start threads that compete with the kernels' threads
        np.einsum("l,ln->n", weights, lines[first : first + len(weights)].astype(np.float32), out=out[i])
    return out


@lru_cache(8)
def _shrinking(length: int, count: int) -> list[Taps]:
    """The weight of an input line is the share of the output line that the input line covers."""
    scale, taps = length / count, []
    for i in range(count):
        start, end = i * scale, min((i + 1) * scale, length)
        first, last = int(start), math.ceil(end - 1e-9)
        covered = [min(line + 1, end) - max(line, start) for line in range(first, last)]
        taps.append(Taps(first, np.array(covered, np.float32) / np.float32(end - start)))
    return taps


@lru_cache(8)
def _enlarging(length: int, count: int) -> list[Taps]:
    """An output line that lies inside an input line copies it. Across a border, two input lines are blended."""
    scale, taps = length / count, []
    for i in range(count):
        line = int(i * scale)
        second = (i + 1) - (line + 1) / scale  # the part of the output line beyond the input line's end
        second = second - math.floor(second) if second > 0 else 0.0
        if second == 0 or line + 1 >= length:
            taps.append(Taps(min(line, length - 1), np.ones(1, np.float32)))
        else:
            taps.append(Taps(line, np.array([1 - second, second], np.float32)))
    return taps
