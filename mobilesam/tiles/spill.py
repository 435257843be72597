"""Masks and objects of a large image in files, so that memory does not grow with the image."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryFile
from types import TracebackType
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from ..masks import runs as runs_of
from ..masks.runs import Runs
from ..util.files import whole_file
from ..util.system import remove_folder
from .grid import Box, Grid
from .join import TileMask, cut_sides


class TileFiles:
    """The masks of finished tiles: a folder with a file for each tile, which a resumed run goes on with.

    Attributes:
        folder: The folder.
    """

    def __init__(self, folder: Path, settings: Mapping[str, object]) -> None:
        """Choose the folder, without touching it.

        Args:
            folder: The folder.
            settings: All that the masks depend on, as JSON values.
        """
        self.folder, self._settings = folder, json.dumps(settings, indent=1, sort_keys=True)

    def open(self, *, resume: bool) -> set[int]:
        """Create the folder. Files of an earlier run are kept with `resume`, and otherwise removed.

        Returns:
            The numbers of the tiles that are finished.

        Raises:
            ValueError: The files of the earlier run were made with other settings.
        """
        said = self.folder / "settings.json"
        if resume and said.is_file():
            if said.read_text(encoding="utf-8") != self._settings:
                raise ValueError(
                    f"{self.folder}: the finished tiles were made with other options or from another image: repeat the "
                    "command with the options in settings.json, or leave out --resume"
                )
            return {int(file.stem) for file in self.folder.glob("[0-9]*.npz")}
        if self.folder.exists():
            remove_folder(self.folder)
        self.folder.mkdir(parents=True)
        with whole_file(said) as partial:
            partial.write_text(self._settings, encoding="utf-8")
        return set()

    def write(self, number: int, masks: Sequence[TileMask]) -> None:
        """Write the masks of a tile."""
        with whole_file(self._file(number)) as partial:
            np.savez(
                partial,
                runs=np.concatenate([mask.runs for mask in masks] or [np.empty((0, 3), np.int32)]).astype(np.int32),
                lengths=np.array([len(mask.runs) for mask in masks], np.int64),
                scores=np.array([(mask.predicted_iou, mask.stability_score) for mask in masks]).reshape(-1, 2),
                points=np.array([mask.point for mask in masks]).reshape(-1, 2),
            )

    def read(self, number: int, grid: Grid) -> list[TileMask]:
        """Read the masks of a tile. Raises ValueError if the file is damaged."""
        try:
            with np.load(self._file(number), allow_pickle=False) as file:
                runs, lengths, scores, points = (file[name] for name in ("runs", "lengths", "scores", "points"))
        except (EOFError, OSError, ValueError, KeyError, BadZipFile) as error:
            raise ValueError(f"{self._file(number)}: the file is damaged, remove it and repeat: {error}") from None
        parts = np.split(runs, np.cumsum(lengths)[:-1]) if len(lengths) else []
        outer = grid[number].outer
        return [
            TileMask(part, iou, stability, (x, y), number, cut_sides(runs_of.box(part), outer, grid))
            for part, (iou, stability), (x, y) in zip(parts, scores.tolist(), points.tolist(), strict=True)
        ]

    def remove(self) -> None:
        """Remove the folder, when the results are written."""
        remove_folder(self.folder)

    def _file(self, number: int) -> Path:
        return self.folder / f"{number:06}.npz"


class ObjectFile:
    """The objects of a large image, in the order of their numbers. Their runs are in a temporary file.

    Attributes:
        scores: (predicted_iou, stability_score) of each object.
        boxes: (x0, y0, x1, y1) of each object.
        areas: Number of pixels of each object.
    """

    def __init__(self) -> None:
        self.scores, self.boxes, self.areas = list[tuple[float, float]](), list[Box](), list[int]()
        self._spans = list[tuple[int, int]]()  # start and length, in bytes, of each object's runs in the file
        self._file = TemporaryFile(prefix="mobilesam-objects-")  # noqa: SIM115 (open until __exit__)

    def __enter__(self) -> ObjectFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def __len__(self) -> int:
        return len(self.areas)

    def add(self, mask: TileMask) -> None:
        """Add an object."""
        start = self._spans[-1][0] + self._spans[-1][1] if self._spans else 0
        data = np.ascontiguousarray(mask.runs, np.int32).tobytes()
        self._file.seek(start)
        self._file.write(data)
        self._spans.append((start, len(data)))
        self.scores.append((mask.predicted_iou, mask.stability_score))
        self.boxes.append(mask.box)
        self.areas.append(mask.area)

    def runs(self, index: int) -> Runs:
        """The runs of an object, (R, 3) int32, in pixels of the whole image."""
        start, length = self._spans[index]
        self._file.seek(start)
        return np.frombuffer(self._file.read(length), np.int32).reshape(-1, 3)

    def mask(self, index: int, box: Box) -> NDArray[np.bool_]:
        """The pixels of an object in a box."""
        x0, y0, x1, y1 = box
        columns = np.zeros((x1 - x0, y1 - y0), np.bool_)
        for column, first, end in runs_of.clipped(self.runs(index), box).tolist():
            columns[column - x0, first - y0 : end - y0] = True
        return columns.T

    def labels(self, top: int, bottom: int, width: int) -> NDArray[np.uint32]:
        """The number of the object at each pixel of the rows `top` to `bottom`: from 1, and 0 for no object.

        If several objects cover a pixel, the pixel shows the object with the smallest area.

        Returns:
            (bottom - top, width) uint32.
        """
        columns = np.zeros((width, bottom - top), np.uint32)
        within = [i for i, (_, y0, _, y1) in enumerate(self.boxes) if y0 < bottom and y1 > top]
        for i in sorted(within, key=lambda i: -self.areas[i]):
            for column, first, end in runs_of.clipped(self.runs(i), (0, top, width, bottom)).tolist():
                columns[column, first - top : end - top] = i + 1
        return np.ascontiguousarray(columns.T)
