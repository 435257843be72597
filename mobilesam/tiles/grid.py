"""The division of a large image into tiles: cores that cover the image once, each read with a halo around it.

Source: the tiling of micro-sam (Archit et al., Nature Methods 2025), whose tiles have the same numbers and boxes.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from ..images.geometry import Size

TILE, HALO = 1024, 256  # pixels; micro-sam recommends these sizes for SAM
Box: TypeAlias = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels of the image, x1 and y1 exclusive


@dataclass(frozen=True)
class Tile:
    """A part of an image.

    Attributes:
        number: The tile's number. Tiles are numbered row by row.
        core: The box that belongs to this tile alone.
        outer: The core with its halo, clipped to the image. This box is read and encoded.
    """

    number: int
    core: Box
    outer: Box

    @property
    def outer_size(self) -> Size:
        """(h, w) of the outer box."""
        return box_size(self.outer)


class Grid:
    """The tiles of an image.

    Attributes:
        size: (h, w) of the image.
        tile: (h, w) of a core. Cores at the right and lower edge are smaller if the image's size is no multiple.
        halo: (h, w) of the margin that is read on each side of a core.
        rows: Number of rows of tiles.
        columns: Number of columns of tiles.
    """

    def __init__(self, size: Size, tile: int | Size, halo: int | Size) -> None:
        """Divide an image.

        Args:
            size: (h, w) of the image.
            tile: Side, or (h, w), of a core.
            halo: Width, or (h, w), of the margin on each side. At most half of `tile`, so that the outer boxes of only
                neighbouring tiles overlap.

        Raises:
            ValueError: An argument is no whole number, or outside its range.
        """
        self.size, self.tile, self.halo = size, _pair("tile", tile, 1), _pair("halo", halo, 0)
        if any(2 * margin > side for margin, side in zip(self.halo, self.tile)):
            raise ValueError(f"halo must be at most half of tile, {self.tile}, got {self.halo}")
        self.rows, self.columns = (-(-whole // side) for whole, side in zip(size, self.tile))

    def __len__(self) -> int:
        return self.rows * self.columns

    def __iter__(self) -> Iterator[Tile]:
        return (self[number] for number in range(len(self)))

    def __getitem__(self, number: int) -> Tile:
        if not 0 <= number < len(self):
            raise IndexError(f"tile must be from 0 to {len(self) - 1}, got {number}")
        row, column = divmod(number, self.columns)
        (height, width), (tile_h, tile_w) = self.size, self.tile
        x0, y0 = column * tile_w, row * tile_h
        core = x0, y0, min(x0 + tile_w, width), min(y0 + tile_h, height)
        return Tile(number, core, self._grown(core))

    def at(self, x: float, y: float) -> Tile:
        """The tile whose core contains a point of the image. A point on the right or lower edge is in the last tile."""
        row = min(int(y) // self.tile[0], self.rows - 1)
        column = min(int(x) // self.tile[1], self.columns - 1)
        return self[row * self.columns + column]

    def around(self, box: Box) -> Box:
        """A box for the prompt that spans `box`: at least as large as an inner tile's outer box, and within the image.

        On each side of `box` the result has a halo, as far as the image reaches.
        """
        result = []
        for low, high, length, tile, halo in zip(box[:2], box[2:], self.size[::-1], self.tile[::-1], self.halo[::-1]):
            side = min(length, max(tile, high - low) + 2 * halo)
            first = min(max((low + high - side) // 2, 0), length - side)
            result.append((first, first + side))
        (x0, x1), (y0, y1) = result
        return x0, y0, x1, y1

    def neighbours_before(self, number: int) -> list[int]:
        """Numbers of the adjacent tiles with a smaller number: up to three above, and the one to the left."""
        row, column = divmod(number, self.columns)
        at = [(row - 1, column - 1), (row - 1, column), (row - 1, column + 1), (row, column - 1)]
        return [r * self.columns + c for r, c in at if r >= 0 and 0 <= c < self.columns]

    def _grown(self, core: Box) -> Box:
        x0, y0, x1, y1 = core
        (height, width), (down, across) = self.size, self.halo
        return max(x0 - across, 0), max(y0 - down, 0), min(x1 + across, width), min(y1 + down, height)


def common_box(a: Box, b: Box) -> Box | None:
    """The common part of two boxes. None if they have no pixel in common."""
    x0, y0, x1, y1 = max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3])
    return (x0, y0, x1, y1) if x0 < x1 and y0 < y1 else None


def box_size(box: Box) -> Size:
    """(h, w) of a box."""
    return box[3] - box[1], box[2] - box[0]


def _pair(name: str, value: object, least: int) -> Size:
    try:
        pair = value if isinstance(value, (tuple, list)) else (value, value)
        height, width = (operator.index(each) for each in pair if not isinstance(each, bool))
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be a whole number of pixels, or (h, w), got {value!r}") from None
    if min(height, width) < least:
        raise ValueError(f"{name} must be at least {least}, got {value!r}")
    return height, width
