"""The benchmark of everything-mode, `scripts/benchmark.py --everything`.

The benchmark measures the time for several values of points_per_side, the parts of the time that a point takes, and the
time and peak memory of the command `mobilesam everything`. It uses three photos: the given photo, the photo resized to
`MIDDLE`, and a photo of 24 megapixels (`LARGE`). The large photo repeats the given photo in `TILES` columns and rows,
so it shows many objects.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from PIL import Image

from ..api.crop_search import Crop, Thresholds, build_point_grid
from ..api.everything import MaskGenerator
from ..masks.objects import Record
from ..util.console import show
from .harness import MEASURES_MEMORY, Options, Row, Table, child, interleave
from .layers import LayersBench

GRIDS = (8, 16, 32, 64)  # values of points_per_side
MIDDLE, MIDDLE_GRID = (1024, 683), 16
LARGE, TILES = (6000, 4000), 4
# The options of `mobilesam everything` for each photo.
OPTIONS: dict[str, Sequence[str]] = {"photo": [], "large": ["--crop-n-layers", "1"]}


class EverythingBench(LayersBench):
    """The benchmark of everything-mode on one photo. It writes its files into `folder`."""

    def __init__(self, options: Options, folder: Path) -> None:
        super().__init__(options)
        self.folder = folder

    def everything(self) -> list[Table]:
        """The section `everything`: times from a photo in memory to its records, and time and memory of the command."""
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
            self._parts(),
            Table("the command, from start to its files", "ms", milliseconds),
            *([Table("peak memory of the command", "MB", megabytes)] if MEASURES_MEMORY else []),
        ]

    def _records(self, photo: Image.Image, grids: Sequence[int]) -> Table:
        cases: dict[str, Callable[[], list[Record]]] = {}
        for points in grids:
            generator = MaskGenerator(self.model, points, output_mode="coco_rle")
            cases[f"points_per_side {points}"] = partial(generator.generate, photo)
        title = f"everything-mode, from a photo of {_size(photo)} to its records"
        return Table(title, "ms", [Row(*row) for row in interleave(cases, self.options.runs, title).items()])

    def _parts(self) -> Table:
        """Where the time of a point goes: the mean over a grid of points, encoding left out."""
        size = self.photo.height, self.photo.width
        embedding = self.model.encode(self.photo)
        crop = Crop(embedding, (0, 0, *self.photo.size), size, Thresholds(0.88, 0.95, 1.0, 0.7), 64)
        points = build_point_grid(MIDDLE_GRID) * self.photo.size
        rows = [Row(part, []) for part in ("decode", "compute the masks with a high score", "run lengths and tests")]
        for _ in range(self.options.runs):
            seconds, last = [0.0] * len(rows), time.perf_counter()
            for point, candidates in zip(points.tolist(), crop.candidates(points), strict=True):
                times = [last, time.perf_counter()]
                passed = crop.passing_scores(candidates)
                low_res = candidates.draw(passed, crop.lines) if passed else None
                times.append(time.perf_counter())
                if low_res is not None:
                    crop.masks_of_logits(low_res, candidates.scores[passed], point)
                last = time.perf_counter()
                times.append(last)
                seconds = [sum_ + end - start for sum_, start, end in zip(seconds, times, times[1:])]
            for row, part in zip(rows, seconds):
                row.samples.append(part / len(points) * 1e3)
        return Table("a point in exact mode, mean of a grid", "ms", rows)

    def _command(self, photo: Path, options: Sequence[str]) -> tuple[float, float]:
        """Milliseconds and peak megabytes of `mobilesam everything` with these options."""
        command = [sys.executable, "-m", "mobilesam", "everything", str(photo), "--output", "masks", *options]
        weights = ["--weights", str(self.options.weights)] if self.options.weights else []
        return child([*command, "--threads", str(self.options.threads), *weights], self.folder)


def _tiled(photo: Image.Image) -> Image.Image:
    """A photo of size LARGE that repeats `photo` in TILES columns and rows."""
    tile = photo.resize((LARGE[0] // TILES, LARGE[1] // TILES))
    large = Image.new("RGB", LARGE)
    for i in range(TILES**2):
        large.paste(tile, (i % TILES * tile.width, i // TILES * tile.height))
    return large


def _size(photo: Image.Image) -> str:
    return f"{photo.width}x{photo.height}"
