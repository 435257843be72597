"""Joining the masks of tiles to objects of the whole image.

A tile sees its core and a halo. So two neighbouring tiles both see the strip along the seam between them. An object
near the seam has a mask in each of them. Two masks of neighbouring tiles belong to one object if they agree in the
strip that both tiles see. The masks of an object form a component:

- If a mask of the component is whole, it is the object: it does not reach the outer edge of its tile.
- If no mask is whole, the object is larger than a tile. It is the union of the masks, if the union goes on beyond each
  edge on which a mask is cut off. Otherwise the component is a remnant and is dropped. A union that reaches all four
  edges of the image is the ground that objects lie on, and is dropped too.

Only the masks of two rows of tiles, and those of unfinished objects, are in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..architecture import LOW_RES
from ..masks import runs as runs_of
from ..masks.runs import Runs
from .grid import Box, Grid, box_size, common_box

AGREE = 0.7  # masks agree if their IoU in the common strip is at least this number, the NMS threshold of the exact mode
SAME = 0.9  # masks of one tile with at least this IoU show the same object
# Beyond an edge that cuts a mask off, the object may end at this share of the mask's pixels at the edge, or at this
# number of low-resolution pixels, because the tip of an object narrows from one pixel to the next.
ENDS_SHARE, ENDS_PIXELS = 0.3, 4


@dataclass(eq=False)
class TileMask:
    """A mask of a tile, in pixels of the whole image.

    Attributes:
        runs: The mask's runs, at least one.
        predicted_iou: The model's estimate of the mask's IoU with the object.
        stability_score: IoU between the masks at a higher and a lower threshold.
        point: (x, y), the point prompt that gave the mask.
        tile: Number of the tile.
        cut: The sides (0 left, 1 top, 2 right, 3 bottom) on which the mask reaches the outer edge of the tile, except
            edges of the image.
        box: The box of the mask.
        area: Number of pixels of the mask.
    """

    runs: Runs
    predicted_iou: float
    stability_score: float
    point: tuple[float, float]
    tile: int
    cut: frozenset[int]
    box: Box = field(init=False)
    area: int = field(init=False)

    def __post_init__(self) -> None:
        self.box, self.area = runs_of.box(self.runs), runs_of.area(self.runs)


def cut_sides(box: Box, outer: Box, grid: Grid) -> frozenset[int]:
    """The sides on which a mask's box reaches the edge of its tile's outer box, except edges of the image."""
    height, width = grid.size
    edges, near = (0, 0, width, height), _precision(outer)
    return frozenset(i for i in range(4) if abs(box[i] - outer[i]) < near and outer[i] != edges[i])


def _precision(outer: Box) -> int:
    """Pixels of the image for each low-resolution pixel of a tile. A mask's border is not more precise than this."""
    return -(-max(box_size(outer)) // LOW_RES)


def distinct(masks: Sequence[TileMask]) -> list[TileMask]:
    """The masks of one tile without those that show the same object as a mask with a higher predicted IoU.

    The NMS of boxes does not drop such a mask if a few stray pixels enlarge its box.
    """
    kept: list[TileMask] = []
    for mask in sorted(masks, key=lambda mask: -mask.predicted_iou):
        if all(_iou(mask, better) < SAME for better in kept):
            kept.append(mask)
    return kept


def _iou(a: TileMask, b: TileMask) -> float:
    if common_box(a.box, b.box) is None or min(a.area, b.area) < SAME * max(a.area, b.area):
        return 0.0
    common = runs_of.common_area(a.runs, b.runs)
    return common / (a.area + b.area - common)


def join(tiles: Iterable[tuple[int, Sequence[TileMask]]], grid: Grid) -> Iterator[TileMask]:
    """Join the masks of all tiles to objects.

    Args:
        tiles: The number and the masks of each tile, in the order of the numbers. Tiles without masks may be left out.
        grid: The tiles.

    Yields:
        A TileMask for each object, in the order in which the objects are finished: row of tiles by row of tiles. The
        scores, point and tile of a union are those of its largest mask.
    """
    near: dict[int, Sequence[TileMask]] = {}  # the masks of the tiles whose neighbours are still to come
    open_: dict[int, _Component] = {}  # by id
    of: dict[int, _Component] = {}  # by the id of a mask
    row = 0
    for number, masks in tiles:
        if number // grid.columns > row:
            row = number // grid.columns
            near = {other: kept for other, kept in near.items() if other // grid.columns >= row - 1}
            yield from _finished(open_, of, row - 1, grid)
        for mask in masks:
            of[id(mask)] = component = _Component([mask])
            open_[id(component)] = component
        for other in grid.neighbours_before(number):
            strip = common_box(grid[other].outer, grid[number].outer)
            if strip is not None:
                for a, b in _pairs(near.get(other, ()), masks, strip):
                    _merge(open_, of, a, b)
        near[number] = masks
    yield from _finished(open_, of, grid.rows, grid)


@dataclass(eq=False)
class _Component:
    """Masks of one object."""

    masks: list[TileMask]

    def object(self, grid: Grid) -> TileMask | None:
        """The object that the masks are parts of. None if they are a remnant."""
        whole = [mask for mask in self.masks if not mask.cut]
        if whole:
            return max(whole, key=lambda mask: (_is_at_home(mask, grid), mask.predicted_iou))
        union = runs_of.union([mask.runs for mask in self.masks])
        if not all(_goes_on(mask, side, union, grid) for mask in self.masks for side in mask.cut):
            return None
        if runs_of.box(union) == (0, 0, *grid.size[::-1]):
            return None
        largest = max(self.masks, key=lambda mask: mask.area)
        scores = largest.predicted_iou, largest.stability_score
        return TileMask(union, *scores, largest.point, largest.tile, frozenset())


def _goes_on(mask: TileMask, side: int, union: Runs, grid: Grid) -> bool:
    """Whether the union goes on beyond the edge on which the mask is cut off, at most of the mask's pixels there."""
    outer, outward = grid[mask.tile].outer, -1 if side < 2 else 1
    near = _precision(outer)
    inside = outer[side] - near if outward > 0 else outer[side] + near - 1  # row or column that the mask surely has
    height, width = grid.size
    line = (0, inside, width, inside + 1) if side % 2 else (inside, 0, inside + 1, height)
    at_edge = runs_of.clipped(mask.runs, line)
    step = outward * near  # to the first row or column beyond the edge
    beyond = runs_of.shifted(at_edge, *((0, step) if side % 2 else (step, 0)))
    pixels = runs_of.area(at_edge)
    return pixels - runs_of.common_area(beyond, union) <= max(ENDS_SHARE * pixels, ENDS_PIXELS * near)


def _finished(open_: dict[int, _Component], of: dict[int, _Component], before: int, grid: Grid) -> Iterator[TileMask]:
    """Remove and yield the objects of which no mask lies in the row of tiles `before` or in a later row."""
    done = [key for key, each in open_.items() if all(mask.tile // grid.columns < before for mask in each.masks)]
    for key in done:
        component = open_.pop(key)
        for mask in component.masks:
            del of[id(mask)]
        whole = component.object(grid)
        if whole is not None:
            yield whole


def _is_at_home(mask: TileMask, grid: Grid) -> bool:
    """Whether the centre of the mask's box lies in the core of the mask's tile."""
    x0, y0, x1, y1 = mask.box
    return grid.at((x0 + x1) / 2, (y0 + y1) / 2).number == mask.tile


def _pairs(some: Sequence[TileMask], others: Sequence[TileMask], strip: Box) -> list[tuple[TileMask, TileMask]]:
    """Pairs of masks of two tiles that agree in a strip. Each mask is in at most one pair, best agreement first."""
    left, right = (
        [(mask, part, runs_of.area(part)) for mask in masks if len(part := _part(mask, strip))]
        for masks in (some, others)
    )
    if not left or not right:
        return []
    agreeing = []
    boxes = np.array([runs_of.box(part) for _, part, _ in right])
    for i, (_, part, area) in enumerate(left):
        x0, y0, x1, y1 = runs_of.box(part)
        near = (boxes[:, 0] < x1) & (boxes[:, 2] > x0) & (boxes[:, 1] < y1) & (boxes[:, 3] > y0)
        for j in np.flatnonzero(near).tolist():
            _, other, other_area = right[j]
            if min(area, other_area) >= AGREE * max(area, other_area):
                common = runs_of.common_area(part, other)
                iou = common / (area + other_area - common)
                if iou >= AGREE:
                    agreeing.append((iou, i, j))
    pairs = list[tuple[TileMask, TileMask]]()
    taken = set[tuple[int, int]]()
    for _, i, j in sorted(agreeing, key=lambda each: (-each[0], each[1], each[2])):
        if not taken & {(0, i), (1, j)}:
            taken |= {(0, i), (1, j)}
            pairs.append((left[i][0], right[j][0]))
    return pairs


def _part(mask: TileMask, strip: Box) -> Runs:
    return runs_of.clipped(mask.runs, strip) if common_box(mask.box, strip) else mask.runs[:0]


def _merge(open_: dict[int, _Component], of: dict[int, _Component], a: TileMask, b: TileMask) -> None:
    """Put the components of two masks that agree together."""
    kept, other = of[id(a)], of[id(b)]
    if kept is not other:
        del open_[id(other)]
        kept.masks += other.masks
        for mask in other.masks:
            of[id(mask)] = kept
