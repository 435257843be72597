"""Everything-mode on large images: all masks of each tile, joined to objects of the whole image."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..images.value_range import ValueRange
from ..masks import rle
from ..masks import runs as runs_of
from ..masks.objects import Record
from ..tiles.grid import Grid, Tile
from ..tiles.join import TileMask, cut_sides, distinct, join
from ..tiles.source import Source
from .tiled import read_ahead

Progress = Callable[[int, int], object]


class Generator(Protocol):
    """A `MaskGenerator` whose records have uncompressed run lengths."""

    def generate(self, image: NDArray[Any], *, value_range: ValueRange | None = None) -> list[Record]: ...


def check_halo(grid: Grid) -> None:
    """Raise ValueError if the tiles have no halo, in which masks are compared."""
    if min(grid.halo) < 1:
        raise ValueError(f"halo must be at least 1 to join masks of neighbouring tiles, got {grid.halo}")


def masks_of_tiles(
    source: Source, grid: Grid, generator: Generator, *, done: Container[int] = ()
) -> Iterator[tuple[int, list[TileMask]]]:
    """Generate the masks of each tile. The next tile is read while a tile is searched.

    Args:
        source: The image.
        grid: The tiles.
        generator: Generates the records of a tile.
        done: Numbers of the tiles to leave out.

    Yields:
        The number of each tile, and its masks in pixels of the whole image. A tile whose core has no data has no masks.

    Raises:
        OSError, TypeError, ValueError: A window cannot be read. See `MobileSAM.encode`.
    """

    def read(tile: Tile) -> NDArray[Any] | None:
        return None if source.is_empty(tile.core) else source.read(tile.outer)

    for tile, window in read_ahead(read, [tile for tile in grid if tile.number not in done]):
        records = [] if window is None else generator.generate(window, value_range=source.value_range)
        masks = (_mask(record, tile, grid) for record in records)
        yield tile.number, distinct([mask for mask in masks if mask is not None])


def _mask(record: Record, tile: Tile, grid: Grid) -> TileMask | None:
    """The record of a tile as a mask of the whole image. None if the mask is empty."""
    assert isinstance(record["segmentation"], dict), "the generator's records have run lengths"
    x0, y0, *_ = tile.outer
    runs = runs_of.shifted(rle.to_runs(record["segmentation"]), x0, y0)
    if not len(runs):
        return None
    ((x, y),) = record["point_coords"]
    cut = cut_sides(runs_of.box(runs), tile.outer, grid)
    return TileMask(
        runs.astype(np.int32), record["predicted_iou"], record["stability_score"], (x + x0, y + y0), tile.number, cut
    )


def records(masks: Iterable[TileMask], grid: Grid, output_mode: str) -> Iterator[Record]:
    """The records of joined masks. Their run lengths and boxes are in pixels of the whole image.

    The crop box of a record is the tile of the mask, with its halo.
    """
    for mask in masks:
        counts = rle.from_runs(mask.runs, grid.size)
        x0, y0, x1, y1 = mask.box
        left, top, right, bottom = grid[mask.tile].outer
        yield {
            "segmentation": rle.in_form({"size": list(grid.size), "counts": counts.tolist()}, output_mode),
            "area": mask.area,
            "bbox": [x0, y0, x1 - 1 - x0, y1 - 1 - y0],
            "predicted_iou": mask.predicted_iou,
            "point_coords": [list(mask.point)],
            "stability_score": mask.stability_score,
            "crop_box": [left, top, right - left, bottom - top],
        }


def everything_tiled(
    source: Source, grid: Grid, generator: Generator, output_mode: str, progress: Progress | None = None
) -> Iterator[Record]:
    """Generate the records of all objects of a large image. See `everything`.

    Args:
        source: The image.
        grid: The tiles, with a halo of at least 1 pixel.
        generator: Generates the records of a tile.
        output_mode: Form of each record's mask.
        progress: Called after each tile with the number of tiles done and the number of tiles.

    Yields:
        The records, row of tiles by row of tiles.
    """

    def counted() -> Iterator[tuple[int, list[TileMask]]]:
        for number, masks in masks_of_tiles(source, grid, generator):
            if progress is not None:
                progress(number + 1, len(grid))
            yield number, masks

    yield from records(join(counted(), grid), grid, output_mode)
