"""Reading windows of an .npy file.

The file is not mapped into memory. If a mapped file is truncated, reading the map kills the process.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray


class NpyFile:
    """An .npy file with an array (H, W) or (H, W, C) of numbers, which is read by windows.

    Attributes:
        shape: The shape of the array.
        dtype: The dtype of the array.

    Raises:
        OSError: The file cannot be opened.
        ValueError: The file is no .npy file, holds no numbers or is shorter than its header says.
    """

    def __init__(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                version = npy.read_magic(file)
                read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
                self.shape, self._fortran, self.dtype = read_header(file)
                self._path, self._start = path, file.tell()
        except OSError:
            raise
        except Exception:  # a damaged header raises errors of several types
            raise ValueError(f"{path}: not an .npy file with an array of numbers") from None
        if self.dtype.kind not in "biuf":
            raise ValueError(f"{path}: expected an array of numbers, got dtype {self.dtype}")
        needed, size = self._start + math.prod(self.shape) * self.dtype.itemsize, path.stat().st_size
        if size < needed:
            raise ValueError(f"{path}: truncated: expected {needed} bytes, got {size}")

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __getitem__(self, window: tuple[slice, slice]) -> NDArray[Any]:
        """Read the window (h, w) or (h, w, C) of these rows and columns.

        Raises:
            ValueError: The file was truncated after it was opened.
        """
        rows, columns = (range(*part.indices(length)) for part, length in zip(window, self.shape))
        height, width, *channels = self.shape
        if self._fortran:  # the file holds the array's transpose
            with self._path.open("rb") as file:
                planes = [
                    [self._read(file, (plane * width + column) * height + rows.start, len(rows)) for column in columns]
                    for plane in range(math.prod(channels))
                ]
            return np.array(planes).reshape(*reversed(channels), len(columns), len(rows)).T
        deep = math.prod(channels)
        with self._path.open("rb") as file:
            lines = [self._read(file, (row * width + columns.start) * deep, len(columns) * deep) for row in rows]
        return np.array(lines).reshape(len(rows), len(columns), *channels)

    def _read(self, file: IO[bytes], first: int, count: int) -> NDArray[Any]:
        file.seek(self._start + first * self.dtype.itemsize)
        elements = np.fromfile(file, self.dtype, count)
        if len(elements) != count:
            raise ValueError(f"{self._path}: truncated while it was read")
        return elements
