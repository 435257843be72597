"""Reading a safetensors file without a memory map.

If another process truncates a mapped file, reading the map kills this process. So each lookup reads the tensor's bytes.

Source: the format's description in the README of huggingface/safetensors.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .errors import CheckpointError

Array: TypeAlias = NDArray[Any]
PathLike: TypeAlias = str | os.PathLike[str]
Shapes: TypeAlias = Mapping[str, tuple[int, ...]]

MOST_AXES = 32  # NumPy 1 has no array with more axes
_MOST_HEADER = 100_000_000  # bytes, the limit of the package safetensors
_MOST_ELEMENTS = 1 << 60  # NumPy refuses larger shapes, even if an axis of size 0 makes the array empty
_DTYPES = {"F16": "<f2", "BF16": "<u2", "F32": "<f4", "F64": "<f8"}
_ITEM = {name: np.dtype(dtype).itemsize for name, dtype in _DTYPES.items()}  # bytes of an element
_DTYPE = re.compile("[A-Z0-9_]{1,20}")  # the name of any dtype


def bfloat16_to_float32(bits: Array) -> Array:
    """Convert bfloat16, given as the bits in uint16, to float32, without rounding."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


class _Tensor(NamedTuple):
    """A tensor in a header. `first` and `end` are places in the file."""

    dtype: str
    shape: tuple[int, ...]
    first: int
    end: int


class TensorFile(Mapping[str, Array]):
    """A safetensors file: a mapping from names to arrays. Opening the file reads only the header.

    Each lookup reads the tensor into a new array of float16, float32 or float64. bfloat16 becomes float32. Threads may
    share a TensorFile.

    Attributes:
        path: the file.
        metadata: the metadata in the file's header.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is damaged, or was replaced or truncated. A lookup also raises CheckpointError if the
            tensor's dtype is not float16, bfloat16, float32 or float64.
    """

    def __init__(self, path: PathLike, what: str = "safetensors file") -> None:
        """Open a file. `what` is the name of its kind, for messages."""
        self.path, self._what = Path(path), what
        with self._open() as file:
            self._opened = _identity(file)
            try:
                self.metadata, self._tensors = _read_header(file)
            except (RecursionError, TypeError, ValueError) as error:
                raise CheckpointError(f"{self.path}: not a {what}, or a damaged one: {error}") from None

    def _open(self) -> io.BufferedReader:
        try:
            return self.path.open("rb")
        except FileNotFoundError:
            raise FileNotFoundError(f"no such checkpoint: {self.path}") from None
        except (OSError, ValueError) as error:  # a name with a null byte raises ValueError
            reason = getattr(error, "strerror", None) or error
            raise CheckpointError(f"{self.path}: not a {self._what}: {reason}") from None

    def _open_again(self) -> io.BufferedReader:
        """Open the file, and check that it is still the file whose header was read."""
        file = self._open()
        if _identity(file) != self._opened:
            file.close()
            raise CheckpointError(f"{self.path}: changed since it was opened")
        return file

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor, from the header alone."""
        return {name: tensor.shape for name, tensor in self._tensors.items()}

    def dtypes(self) -> dict[str, str]:
        """The dtype of every tensor in the format's words, such as "F16", from the header alone."""
        return {name: tensor.dtype for name, tensor in self._tensors.items()}

    def __getitem__(self, name: str) -> Array:
        tensor = self._tensors[name]
        if tensor.dtype not in _DTYPES:
            raise CheckpointError(f"{self.path}: {name!a:.100} is {tensor.dtype}, expected F16, BF16, F32 or F64")
        data = np.empty(tensor.end - tensor.first, np.uint8)
        with self._open_again() as file:
            file.seek(tensor.first)
            if file.readinto(data.data) != data.size:
                raise CheckpointError(f"{self.path}: was truncated since it was opened")
        values: Array = data.view(_DTYPES[tensor.dtype]).reshape(tensor.shape)
        return bfloat16_to_float32(values) if tensor.dtype == "BF16" else values

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def _identity(file: io.BufferedReader) -> tuple[int, ...]:
    """Device, inode, size and modification time of an open file, to detect that the file was replaced."""
    status = os.fstat(file.fileno())
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _read_header(file: io.BufferedReader) -> tuple[dict[str, str], dict[str, _Tensor]]:
    """The metadata and the tensors of a header. Raises ValueError, TypeError or RecursionError if it is damaged."""
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(8), "little")
    start = 8 + length
    if start > size or length > _MOST_HEADER:
        raise ValueError(f"a file of {size} bytes, with a header of {length} bytes")
    header = json.loads(_text(file.read(length)), object_pairs_hook=_without_duplicates)
    if not isinstance(header, dict):
        raise ValueError("the header is no mapping")
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("the metadata are no texts")
    tensors = {name: _tensor(name, value, start) for name, value in header.items()}
    # As in the package safetensors, tensors follow one another without overlap or gap, to the end of the file.
    place = start
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].first, item[1].end)):
        if tensor.first != place:
            raise ValueError(f"tensor {name!a:.100} begins at byte {tensor.first}, expected {place}")
        place = tensor.end
    if place != size:
        raise ValueError(f"the tensors end at byte {place}, but the file has {size} bytes")
    return metadata, tensors


def _text(header: bytes) -> str:
    try:
        return header.decode()
    except UnicodeDecodeError:
        raise ValueError("the header is no text") from None


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError("the header has a name twice")
    return values


def _tensor(name: str, value: object, start: int) -> _Tensor:
    """The tensor of a header's entry. `start` is the place of the first tensor. Raises ValueError if it is damaged."""
    match value:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [first, end], **more} if (
            not more
            and len(shape) <= MOST_AXES
            and all(type(size) is int and 0 <= size < _MOST_ELEMENTS for size in (first, end, *shape))
            and math.prod(filter(None, shape)) < _MOST_ELEMENTS
        ):
            size = math.prod(shape) * _ITEM[dtype] if dtype in _ITEM else end - first
            if size == end - first >= 0 and _DTYPE.fullmatch(dtype):
                return _Tensor(dtype, tuple(shape), start + first, start + end)
    raise ValueError(f"the dtype, shape or bytes of tensor {name!a:.100} are damaged")
