"""Runs of masks: pixels of one column from a first row to an end row. Masks of large images are stored as runs.

Runs are arrays (R, 3) of integers: column, first row, end row (exclusive), in column-major order and without overlap.
`rle.to_runs` and `rle.from_runs` convert run lengths.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Runs: TypeAlias = NDArray[np.integer[Any]]
Box: TypeAlias = tuple[int, int, int, int]  # x0, y0, x1, y1, x1 and y1 exclusive


def area(runs: Runs) -> int:
    """Number of pixels."""
    return int((runs[:, 2] - runs[:, 1]).sum(dtype=np.int64))  # on Windows, NumPy 1 adds int32 in 32 bits


def box(runs: Runs) -> Box:
    """The smallest box that contains the runs, of which there must be at least one."""
    return int(runs[0, 0]), int(runs[:, 1].min()), int(runs[-1, 0]) + 1, int(runs[:, 2].max())


def shifted(runs: Runs, x: int, y: int) -> Runs:
    """The runs, `x` columns to the right and `y` rows down, as int64."""
    return runs.astype(np.int64) + np.array([x, y, y])


def clipped(runs: Runs, to: Box) -> Runs:
    """The part of the runs that lies within a box."""
    x0, y0, x1, y1 = to
    inside = runs[np.searchsorted(runs[:, 0], x0) : np.searchsorted(runs[:, 0], x1)]
    first, end = np.maximum(inside[:, 1], y0), np.minimum(inside[:, 2], y1)
    kept = first < end
    return np.stack([inside[kept, 0], first[kept], end[kept]], axis=1)


def common_area(a: Runs, b: Runs) -> int:
    """Number of pixels that are in both masks."""
    if not len(a) or not len(b):
        return 0
    a, b = a.astype(np.int64), b.astype(np.int64)
    height = max(a[:, 2].max(), b[:, 2].max()) + 1
    a_first, a_end = (a[:, 0] * height + a[:, i] for i in (1, 2))
    lengths = np.concatenate([[0], np.cumsum(a_end - a_first)])

    def before(position: NDArray[np.int64]) -> NDArray[np.int64]:
        """Number of pixels of a before each position."""
        run = np.searchsorted(a_first, position, side="right")  # runs that begin at or before the position
        beyond = np.maximum(a_end[run - 1] - position, 0) * (run > 0)
        return lengths[run] - beyond

    return int((before(b[:, 0] * height + b[:, 2]) - before(b[:, 0] * height + b[:, 1])).sum())


def union(parts: list[Runs]) -> Runs:
    """The runs of all pixels that are in at least one of the masks."""
    runs = np.concatenate(parts).astype(np.int64)
    height = runs[:, 2].max() + 1
    first, end = runs[:, 0] * height + runs[:, 1], runs[:, 0] * height + runs[:, 2]
    order = np.argsort(first, kind="stable")
    first, end = first[order], np.maximum.accumulate(end[order])
    starts = np.concatenate([[True], first[1:] > end[:-1]])
    first, end = first[starts], end[np.concatenate([starts[1:], [True]])]
    column = first // height
    return np.stack([column, first - column * height, end - column * height], axis=1)
