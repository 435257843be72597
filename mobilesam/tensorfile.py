"""The safetensors format (https://huggingface.co/docs/safetensors), memory-mapped, with NumPy alone.

A file is a little-endian u64, the length of the header; the header, JSON padded with spaces to 8 bytes,
`{"__metadata__": {str: str}, name: {"dtype": str, "shape": [int], "data_offsets": [begin, end]}, ...}`;
and the tensors' bytes, little-endian and C-contiguous, without gaps.
"""

from __future__ import annotations

import json
import math
import mmap
import os
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeGuard

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_MAX_HEADER = 100_000_000  # the format's own limit
_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8"}
_CODES = {np.dtype(np.float32): "F32", np.dtype(np.float16): "F16"}


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message is one line naming the file and what is wrong with it."""


class Entry(NamedTuple):
    """A tensor in the file: its dtype code, shape, and bytes [begin, end) counted from the header's end."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


class TensorFile(Mapping[str, Array]):
    """Read-only arrays of a safetensors file by name, mapped into memory and read when touched.

    F16, F32, F64 and I64 tensors are views of the mapping; BF16 comes as float32 (exact).
    Raises FileNotFoundError, or CheckpointError for a truncated file, a bad header or another dtype.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if not self.path.exists():
            raise FileNotFoundError(f"no such checkpoint: {self.path}")
        with self.path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            prefix = file.read(8)
            length = int.from_bytes(prefix, "little")
            if len(prefix) < 8 or not 2 <= length <= _MAX_HEADER:
                raise CheckpointError(f"{self.path}: not a safetensors file")
            if 8 + length > size:
                raise CheckpointError(f"{self.path}: truncated, or not a safetensors file")
            header = file.read(length)
            self._map = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
        self._start = 8 + length
        try:
            self.metadata, self.entries = _parse_header(header, size - self._start)
        except CheckpointError as error:
            raise CheckpointError(f"{self.path}: {error}") from None
        except (ValueError, RecursionError):
            raise CheckpointError(f"{self.path}: not a safetensors file (its header is not JSON)") from None

    def __getitem__(self, name: str) -> Array:
        entry = self.entries[name]
        values = np.frombuffer(
            self._map, _DTYPES[entry.dtype], count=math.prod(entry.shape), offset=self._start + entry.begin
        )
        if entry.dtype == "BF16":
            values = (values.astype(np.uint32) << 16).view(np.float32)
        return np.require(values, requirements="A").reshape(entry.shape)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor's shape, without touching its data."""
        return {name: entry.shape for name, entry in self.entries.items()}

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)


def _parse_header(header: bytes, data_size: int) -> tuple[dict[str, str], dict[str, Entry]]:
    document = json.loads(header)
    if not isinstance(document, dict):
        raise CheckpointError("not a safetensors file (its header is not a JSON object)")
    metadata = document.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise CheckpointError("its __metadata__ is not a map of strings")
    entries = {name: _parse_entry(name, fields) for name, fields in document.items()}
    position = 0
    for entry in sorted(entries.values(), key=lambda entry: (entry.begin, entry.end)):
        if entry.begin != position:
            raise CheckpointError(f"its tensors overlap or leave a gap at byte {position} of the data")
        position = entry.end
    if position != data_size:
        state = "truncated" if position > data_size else "longer than its header says"
        raise CheckpointError(f"{state}: {data_size} bytes of tensors, expected {position}")
    return metadata, entries


def _parse_entry(name: str, fields: object) -> Entry:
    if not isinstance(fields, dict) or not {"dtype", "shape", "data_offsets"} <= fields.keys():
        raise CheckpointError(f"bad header entry for {name!a:.100}")
    dtype, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise CheckpointError(f"{name!a:.100} has dtype {dtype!a:.20}; accepted: {', '.join(_DTYPES)}")
    if not _is_sizes(shape) or not _is_sizes(offsets) or len(offsets) != 2:
        raise CheckpointError(f"bad shape or data_offsets for {name!a:.100}")
    begin, end = offsets
    if end - begin != math.prod(shape) * np.dtype(_DTYPES[dtype]).itemsize:
        raise CheckpointError(f"{name!a:.100}: {end - begin} bytes for {dtype} of shape {tuple(shape)}")
    return Entry(dtype, tuple(shape), begin, end)


def _is_sizes(values: object) -> TypeGuard[list[int]]:
    if not isinstance(values, list) or len(values) > 8:
        return False
    return all(type(value) is int and 0 <= value < 2**63 for value in values)


def write(path: str | os.PathLike[str], tensors: Mapping[str, Array], metadata: Mapping[str, str]) -> None:
    """Write float32 and float16 arrays as safetensors, beside `path` and then renamed: all or nothing.

    The bytes depend only on the arguments. Wider dtypes come first, so that every tensor is aligned.
    """
    path = Path(path)
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    arrays: list[Array] = []
    position = 0
    for name, values in sorted(tensors.items(), key=lambda item: (-item[1].dtype.itemsize, item[0])):
        end = position + values.nbytes
        header[name] = {
            "dtype": _CODES[values.dtype],
            "shape": list(values.shape),
            "data_offsets": [position, end],
        }
        arrays.append(np.ascontiguousarray(values, values.dtype.newbyteorder("<")))
        position = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(struct.pack("<Q", len(text)))
            file.write(text)
            for values in arrays:
                file.write(values.data)
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
