"""Everything-mode: `scripts/benchmark.py --everything`, its time over points a side, and the command's peak memory."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from .automatic_mask_generator import Record, SamAutomaticMaskGenerator
from .benchmark import Options, Row, Table, child, interleave
from .benchmark_layers import LayersBench

GRIDS = (8, 16, 32, 64)
COMMANDS = {"defaults": [], "crop_n_layers 1": ["--crop-n-layers", "1"]}


class EverythingBench(LayersBench):
    """One photo and the model; `folder` is for files of its own."""

    def __init__(self, options: Options, folder: Path) -> None:
        super().__init__(options)
        self.folder = folder

    def everything(self) -> list[Table]:
        """From the photo in memory to the records, as RLE; then the command, once."""
        size = f"{self.photo.width}x{self.photo.height}"
        cases: dict[str, Callable[[], list[Record]]] = {}
        for points in GRIDS:
            generator = SamAutomaticMaskGenerator(self.model, points, output_mode="coco_rle")
            cases[f"points_per_side {points}"] = partial(generator.generate, self.photo)
        times = interleave(cases, self.options.runs, "everything-mode")
        rows = [Row(name, samples) for name, samples in times.items()]
        return [
            Table(f"everything-mode, a photo of {size}, to its records", "ms", rows),
            Table("peak memory of the command", "MB", [Row(name, [self._memory(name)]) for name in COMMANDS]),
        ]

    def _memory(self, name: str) -> float:
        command = [sys.executable, "-m", "mobilesam", "everything", str(self.options.image), "-o", str(self.folder)]
        weights = ["--weights", str(self.options.weights)] if self.options.weights else []
        threads = ["--threads", str(self.options.threads)]
        return child([*command, *COMMANDS[name], *threads, *weights], self.folder)[1]
