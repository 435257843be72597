"""Reading PyTorch's `.pt` files without PyTorch: the zip of PyTorch >= 1.6, and the format before.

Source: PyTorch's torch/serialization.py (`_save`, `_legacy_save`) and torch/_utils.py.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from . import pickle_records
from .errors import CheckpointError, one_line
from .fused import LEGACY_START, Array, bfloat16_to_float32
from .pickle_records import Name, PersistentId, Record

_LEGACY_PICKLES = 3  # magic number, protocol version and system, before the pickle of the data
_DTYPES = {
    "BFloat16Storage": "u2",
    "FloatStorage": "f4",
    "HalfStorage": "f2",
    "DoubleStorage": "f8",
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
_REBUILD = {  # functions of torch._utils whose first argument is another record
    "_rebuild_parameter",
    "_rebuild_parameter_with_state",
}
FEW_OPCODES, BYTES_PER_OPCODE = 250_000, 16  # a pickle may have 250,000 opcodes, or one for each 16 bytes of the file


class TorchTensors(Mapping[str, Array]):
    """The tensors of one mapping in a `.pt` file. A lookup makes a read-only array, in float32 for bfloat16.

    Attributes:
        where: The keys that lead to the mapping, such as "model_state", or "" for the file's outermost mapping.
    """

    def __init__(self, where: str, tensors: Mapping[str, _Tensor], storages: _Storages) -> None:
        self.where, self._tensors, self._storages = where, tensors, storages

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor. No tensor is read."""
        return {name: tensor.size for name, tensor in self._tensors.items()}

    def __getitem__(self, name: str) -> Array:
        return self._storages.tensor(self._tensors[name], name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def read_torch(path: Path) -> list[TorchTensors]:
    """Find all mappings from texts to tensors in a `.pt` file, at any depth. The outermost mappings come first.

    Nothing from the file is imported or called. Objects of other classes are skipped, and the values in them are
    searched too.

    Raises:
        CheckpointError: The file is damaged, or is neither of the two formats.
    """
    try:
        data = path.read_bytes()
        most_opcodes = max(FEW_OPCODES, len(data) // BYTES_PER_OPCODE)
        storages: _Storages
        if data.startswith(LEGACY_START):
            file = io.BytesIO(data)
            for _ in range(_LEGACY_PICKLES):
                pickle_records.load(file, most_opcodes)
            root = pickle_records.load(file, most_opcodes)
            keys = pickle_records.load(file, most_opcodes).value
            storages = _LegacyStorages(data, file.tell(), keys, root.persistent_ids)
        else:
            storages = _ZipStorages(zipfile.ZipFile(io.BytesIO(data)))
            root = pickle_records.load(io.BytesIO(storages.record("data.pkl")), most_opcodes)
        return [TorchTensors(where, tensors, storages) for where, tensors in _mappings(root.value)]
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except OSError:
        raise
    except Exception as error:  # damaged zips and pickles raise errors of many types
        raise CheckpointError(f"{path}: not a readable PyTorch checkpoint ({one_line(error)})") from None


class _Tensor(NamedTuple):
    """A tensor in a pickle. Element (i, j, ...) is element offset + i·stride[0] + j·stride[1] + ... of the storage."""

    storage: tuple[object, ...]
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def _tensor(value: object) -> _Tensor | None:
    """The tensor that a record would construct, or None if the value is no tensor of a supported kind."""
    while isinstance(value, Record) and isinstance(value.function, Name) and isinstance(value.arguments, tuple):
        module, name = value.function
        if module != "torch._utils" or not value.arguments:
            return None
        if name in _REBUILD:
            value = value.arguments[0]
            continue
        match name, value.arguments:
            case "_rebuild_from_type_v2", (function, _, arguments, *_):
                value = Record(function, arguments)
            case "_rebuild_tensor_v2" | "_rebuild_tensor", (
                PersistentId(tuple(storage)),
                int(offset),
                tuple(size),
                tuple(stride),
                *_,
            ) if _are_sizes(offset, *size, *stride) and len(size) == len(stride):
                return _Tensor(storage, offset, size, stride)
            case _:
                return None
    return None


def _initial_items(record: Record) -> Mapping[object, object]:
    """The items in the arguments of an OrderedDict: a list of pairs, as Python 2 writes it."""
    match record:
        case Record(Name("collections", "OrderedDict"), (list(pairs),)):
            return {key: value for key, value in pairs if isinstance(key, str)} if _are_pairs(pairs) else {}
    return {}


def _are_pairs(values: list[object]) -> bool:
    return all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in values)


def _are_sizes(*values: object) -> bool:
    return all(type(value) is int and 0 <= value < 1 << 62 for value in values)


def _mappings(root: object) -> Iterator[tuple[str, dict[str, _Tensor]]]:
    """The place and the tensors of every mapping that holds tensors, breadth first. Each object is visited once."""
    places: list[tuple[str, object]] = [("", root)]
    seen: set[int] = set()
    for where, value in places:  # the list grows while it is read
        if id(value) in seen:
            continue
        seen.add(id(value))
        children: Mapping[object, object] = {}
        if isinstance(value, Record):
            items: Mapping[object, object] = {**_initial_items(value), **value.items}
            children = {**items, "arguments": value.arguments, "state": value.state}
        elif isinstance(value, dict):
            children = items = value
        elif isinstance(value, (list, tuple)) and not isinstance(value, Name):
            children, items = dict(enumerate(value)), {}
        tensors = {}
        for key, child in children.items():
            if isinstance(child, (dict, list, tuple, Record)):
                tensor = _tensor(child) if key in items else None
                if tensor is not None and isinstance(key, str):
                    tensors[key] = tensor
                elif tensor is None:
                    shown = f"{key:.100}" if isinstance(key, str) else "?"
                    places.append((f"{where}.{shown}" if where else shown, child))
        if tensors:
            yield where, tensors


class _Storages:
    """The storages of a file. Subclasses find the bytes of a storage."""

    byteorder = "<"

    def data(self, key: str, count: int, item: int) -> memoryview:
        """The bytes of a storage of `count` elements of `item` bytes. Raises CheckpointError if the size is another."""
        raise NotImplementedError

    def tensor(self, tensor: _Tensor, name: str) -> Array:
        match tensor.storage:
            case ("storage", Name("torch", str(kind)), str(key), str(), int(count), *view) if (
                kind in _DTYPES and _are_sizes(count)
            ):
                dtype = np.dtype(self.byteorder + _DTYPES[kind])
            case _:
                raise CheckpointError(f"{name!a:.100} has a storage of an unknown kind")
        data = _part(self.data(key, count, dtype.itemsize), view, dtype.itemsize)
        item, elements = dtype.itemsize, len(data) // dtype.itemsize
        last = tensor.offset + sum((n - 1) * step for n, step in zip(tensor.size, tensor.stride))
        # A stride of 0 could make the tensor larger than the file.
        if 0 not in tensor.size and (last >= elements or math.prod(tensor.size) > elements):
            layout = f"shape {tensor.size!a:.60}, stride {tensor.stride!a:.60} and offset {tensor.offset}"
            raise CheckpointError(f"{name!a:.100} has {layout}, out of the bounds of its {elements} elements")
        offset = 0 if 0 in tensor.size else tensor.offset * item
        values: Array = np.ndarray(tensor.size, dtype, data, offset, [step * item for step in tensor.stride])
        return bfloat16_to_float32(values) if kind == "BFloat16Storage" else values


class _ZipStorages(_Storages):
    """The zip that `torch.save` writes: `<folder>/data.pkl`, and one record `<folder>/data/<key>` per storage."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl") or name == "data.pkl"]
        if len(pickles) != 1:
            raise CheckpointError("a zip, but not a PyTorch checkpoint (no data.pkl)")
        self._archive, self._folder = archive, pickles[0].removesuffix("data.pkl")
        _check_entries(archive)
        if f"{self._folder}byteorder" in archive.namelist() and self.record("byteorder") == b"big":
            self.byteorder = ">"

    def record(self, name: str) -> bytes:
        """The bytes of a record. Compressed records are refused: PyTorch writes none, and they could be zip bombs."""
        info = self._archive.getinfo(self._folder + name)
        if info.compress_type != zipfile.ZIP_STORED:
            raise CheckpointError(f"record {name!a:.100} is compressed, which PyTorch does not do")
        return self._archive.read(info)

    def data(self, key: str, count: int, item: int) -> memoryview:
        try:
            data = self.record(f"data/{key}")
        except KeyError:
            raise CheckpointError(f"there is no storage {key!a:.60} in the file") from None
        return _checked(memoryview(data), key, count * item)


def _checked(data: memoryview, key: str, size: int) -> memoryview:
    if len(data) != size:
        raise CheckpointError(f"storage {key!a:.60} has {len(data)} bytes, not {size}")
    return data


def _part(data: memoryview, view: list[object], item: int) -> memoryview:
    """The part of a storage that an old PyTorch's view of the storage refers to: key, offset and count in elements."""
    match view:
        case [] | [None]:
            return data
        case [(_, int(offset), int(count))] if _are_sizes(offset, count) and (offset + count) * item <= len(data):
            return data[offset * item : (offset + count) * item]
    raise CheckpointError("a view of a storage is out of the bounds of the storage")


def _check_entries(archive: zipfile.ZipFile) -> None:
    """Raise CheckpointError if entries overlap, because each of them could then have the size of the file."""
    entries = sorted(archive.infolist(), key=lambda info: info.header_offset)
    for info, following in pairwise(entries):
        if info.header_offset + info.compress_size > following.header_offset:
            raise CheckpointError(f"records {info.filename!a:.60} and {following.filename!a:.60} overlap")


class _LegacyStorages(_Storages):
    """The format before the zip: after the pickles, the number of elements and the bytes of each storage."""

    def __init__(self, data: bytes, place: int, keys: object, ids: Iterable[PersistentId]) -> None:
        """Find the storages.

        Args:
            data: The file.
            place: The place of the first storage.
            keys: The keys of the storages, in the order of the file.
            ids: The references to storages, which have their dtypes.
        """
        whole, self._storages = memoryview(data), dict[str, memoryview]()
        items = {}
        for reference in ids:
            match reference.value:
                case ("storage", Name("torch", str(kind)), str(key), *_) if kind in _DTYPES:
                    items[key] = np.dtype(_DTYPES[kind]).itemsize
        for key in keys if isinstance(keys, list) else ():
            if key not in items:
                raise CheckpointError(f"storage {key!a:.60} has an unknown kind")
            size = int.from_bytes(whole[place : place + 8], "little") * items[key]
            place += 8
            self._storages[key] = _checked(whole[place : place + size], key, size)
            place += size

    def data(self, key: str, count: int, item: int) -> memoryview:
        if key not in self._storages:
            raise CheckpointError(f"there is no storage {key!a:.60} in the file")
        return _checked(self._storages[key], key, count * item)
