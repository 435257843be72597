"""Storage for the features of tiles: in memory up to a limit, and beyond the limit in files."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import tempfile

MEMORY = 1 << 30  # bytes of features in memory: 256 tiles, or 85 with Light HQ-SAM
Features = tuple[NDArray[np.float32], ...]  # the arrays of a tile


class FeatureStore:
    """The features of tiles by tile number. Threads may share one store.

    If the arrays in memory exceed `limit` bytes, the arrays that were used least recently are written to a temporary
    folder, which is removed with the store.
    """

    def __init__(self, limit: int) -> None:
        self._limit, self._bytes, self._lock = limit, 0, threading.RLock()
        self._in_memory: OrderedDict[int, Features] = OrderedDict()
        self._in_files: dict[int, int] = {}  # number of arrays of each tile that has files
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def __contains__(self, number: int) -> bool:
        with self._lock:
            return number in self._in_memory or number in self._in_files

    def get(self, number: int) -> Features | None:
        """The features of a tile. None if the store does not have them."""
        with self._lock:
            if number in self._in_memory:
                self._in_memory.move_to_end(number)
                return self._in_memory[number]
            if number not in self._in_files:
                return None
            features = tuple(np.load(self._file(number, i)) for i in range(self._in_files[number]))
            for array in features:
                array.flags.writeable = False
            self._keep(number, features)
            return features

    def put(self, number: int, features: Features) -> None:
        """Store the features of a tile."""
        with self._lock:
            if number not in self:
                self._keep(number, features)

    def _keep(self, number: int, features: Features) -> None:
        self._in_memory[number] = features
        self._bytes += _bytes(features)
        while self._bytes > self._limit and len(self._in_memory) > 1:
            oldest, arrays = self._in_memory.popitem(last=False)
            self._bytes -= _bytes(arrays)
            if oldest not in self._in_files:
                for i, array in enumerate(arrays):
                    np.save(self._file(oldest, i), array)
                self._in_files[oldest] = len(arrays)

    def _file(self, number: int, i: int) -> Path:
        if self._folder is None:
            import tempfile  # imported here, because tempfile loads OpenSSL

            self._folder = tempfile.TemporaryDirectory(prefix="mobilesam-tiles-", ignore_cleanup_errors=True)
        return Path(self._folder.name) / f"{number}-{i}.npy"


def _bytes(features: Features) -> int:
    return sum(array.nbytes for array in features)
