"""Everything-mode: `scripts/benchmark.py --everything`, its time over points a side, and the command's time and memory.

Besides the photo as it is there are two made of it: one resized to `MIDDLE`, and `LARGE`, of 24 megapixels, in which it
stands in `TILES` columns and rows, so that there are many objects to find.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from PIL import Image

from ..api.everything import MaskGenerator
from ..masks.objects import Record
from ..util.console import show
from .harness import Options, Row, Table, child, interleave
from .layers import LayersBench

GRIDS = (8, 16, 32, 64)  # points a side
MIDDLE, MIDDLE_GRID = (1024, 683), 16
LARGE, TILES = (6000, 4000), 4
OPTIONS: dict[str, Sequence[str]] = {"photo": [], "large": ["--crop-n-layers", "1"]}  # of the command


class EverythingBench(LayersBench):
    """One photo and the model; `folder` is for files of its own."""

    def __init__(self, options: Options, folder: Path) -> None:
        super().__init__(options)
        self.folder = folder

    def everything(self) -> list[Table]:
        """From the photo in memory to the records, as RLE; then the command, once on each photo."""
        times = [self._records(self.photo, GRIDS), self._records(self.photo.resize(MIDDLE), [MIDDLE_GRID])]
        large = _tiled(self.photo)
        large.save(self.folder / "large.jpg", quality=95)
        photos = {self.options.image: self.photo, self.folder / "large.jpg": large}
        milliseconds: list[Row] = []
        megabytes: list[Row] = []
        for (file, photo), options in zip(photos.items(), OPTIONS.values()):
            name = f"{_size(photo)}, {' '.join(options) or 'defaults'}"
            show(f"the command: {name}")
            for rows, sample in zip((milliseconds, megabytes), self._command(file, options)):
                rows.append(Row(name, [sample]))
        return [
            *times,
            Table("the command, from start to its files", "ms", milliseconds),
            Table("its peak memory", "MB", megabytes),
        ]

    def _records(self, photo: Image.Image, grids: Sequence[int]) -> Table:
        cases: dict[str, Callable[[], list[Record]]] = {}
        for points in grids:
            generator = MaskGenerator(self.model, points, output_mode="coco_rle")
            cases[f"points_per_side {points}"] = partial(generator.generate, photo)
        title = f"everything-mode, a photo of {_size(photo)}, to its records"
        return Table(title, "ms", [Row(*row) for row in interleave(cases, self.options.runs, title).items()])

    def _command(self, photo: Path, options: Sequence[str]) -> tuple[float, float]:
        command = [sys.executable, "-m", "mobilesam", "everything", str(photo), "--output", "masks", *options]
        weights = ["--weights", str(self.options.weights)] if self.options.weights else []
        return child([*command, "--threads", str(self.options.threads), *weights], self.folder)


def _tiled(photo: Image.Image) -> Image.Image:
    tile = photo.resize((LARGE[0] // TILES, LARGE[1] // TILES))
    large = Image.new("RGB", LARGE)
    for i in range(TILES**2):
        large.paste(tile, (i % TILES * tile.width, i // TILES * tile.height))
    return large


def _size(photo: Image.Image) -> str:
    return f"{photo.width}x{photo.height}"
