"""Reading PyTorch's `.pt` files without PyTorch: the zip of PyTorch >= 1.6, and the format before.

Source: PyTorch's torch/serialization.py (`_save`, `_legacy_save`) and torch/_utils.py.
"""

from __future__ import annotations

import io
import math
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..util.messages import one_line
from . import pickle_records
from .errors import CheckpointError
from .fused import LEGACY_START
from .pickle_records import Name, PersistentId, Record
from .tensor_file import MOST_AXES, Array, bfloat16_to_float32

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
_LEGACY_OPCODES = 100  # PyTorch writes at most 30 opcodes in each of them
_MOST_REBUILDS = 8  # calls around a tensor, such as _rebuild_parameter; PyTorch writes at most two
_LONGEST_NAME = 400  # characters of a tensor's name
_LOCAL_HEADER = struct.Struct("<26x2H")  # of a zip's entry: the lengths of its name and of its extra field
FEW_OPCODES, BYTES_PER_OPCODE = 100_000, 16  # a pickle may have 100,000 opcodes, or one for each 16 bytes of the file


class TorchTensors(Mapping[str, Array]):
    """The tensors of one mapping in a `.pt` file. A lookup makes a read-only array, in float32 for bfloat16."""

    def __init__(self, path: Path, tensors: Mapping[str, _Tensor], storages: _Storages) -> None:
        self._path, self._tensors, self._storages = path, tensors, storages

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor. No tensor is read."""
        return {name: tensor.size for name, tensor in self._tensors.items()}

    def __getitem__(self, name: str) -> Array:
        tensor = self._tensors[name]
        try:
            return self._storages.tensor(tensor, name)
        except CheckpointError as error:
            raise CheckpointError(f"{self._path}: {error}") from None

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
            place = 0
            for _ in range(_LEGACY_PICKLES):
                place = pickle_records.load(data, place, _LEGACY_OPCODES).end
            root = pickle_records.load(data, place, most_opcodes)
            keys = pickle_records.load(data, root.end, most_opcodes - root.opcodes)
            storages = _LegacyStorages(data, keys.end, keys.value, root.persistent_ids)
        else:
            storages = _ZipStorages(data)
            root = pickle_records.load(bytes(storages.record("data.pkl")), 0, most_opcodes)
        return [TorchTensors(path, tensors, storages) for tensors in _mappings(root.value)]
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except MemoryError:
        raise MemoryError(f"no memory to read checkpoint {path}") from None
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
    for _ in range(_MOST_REBUILDS):
        if not isinstance(value, Record) or not isinstance(value.function, Name):
            return None
        (module, name), arguments = value.function, value.arguments
        if module != "torch._utils" or not isinstance(arguments, tuple):
            return None
        match name, arguments:
            case (("_rebuild_parameter" | "_rebuild_parameter_with_state"), (inner, *_)):
                value = inner
            case "_rebuild_from_type_v2", (function, _, inner, *_):
                value = Record(function, inner)
            case (
                ("_rebuild_tensor_v2" | "_rebuild_tensor"),
                (
                    PersistentId(tuple(storage)),
                    int(offset),
                    tuple(size),
                    tuple(stride),
                    *_,
                ),
            ) if len(size) == len(stride) <= MOST_AXES and _are_sizes(offset, *size, *stride):
                return _Tensor(storage, offset, size, stride)
            case _:
                return None
    return None


def _are_sizes(*values: object) -> bool:
    return all(type(value) is int and 0 <= value < 1 << 62 for value in values)


def _mappings(root: object) -> Iterator[dict[str, _Tensor]]:
    """The tensors of every mapping that holds tensors, breadth first. Each object is visited once."""
    values = [root]
    seen, seen_pairs = set[int](), set[int]()
    for value in values:  # the list grows while it is read
        if id(value) in seen:
            continue
        seen.add(id(value))
        items: list[tuple[object, object]] = []
        others: Iterable[object] = ()
        if isinstance(value, dict):
            items = list(value.items())
        elif isinstance(value, Record):
            items, others = [*_initial_items(value, seen_pairs), *value.items.items()], (value.arguments, value.state)
        elif isinstance(value, (list, tuple)) and not isinstance(value, Name):
            others = value
        tensors = {}
        for key, child in items:
            if isinstance(child, Record) and isinstance(key, str) and len(key) <= _LONGEST_NAME:
                tensor = _tensor(child)
                if tensor is not None:
                    tensors[key] = tensor
                    continue
            values.append(child)
        values += others
        if tensors:
            yield tensors


def _initial_items(record: Record, seen: set[int]) -> list[tuple[object, object]]:
    """The items in the arguments of an OrderedDict: a list of pairs, as Python 2 writes it.

    The items of a list that several records share are those of the first record, because all other work is bounded by
    the length of the pickle.
    """
    match record:
        case Record(Name("collections", "OrderedDict"), (list(pairs),)) if id(pairs) not in seen:
            seen.add(id(pairs))
            return [(key, value) for key, value in pairs if isinstance(key, str)] if _are_pairs(pairs) else []
    return []


def _are_pairs(values: list[object]) -> bool:
    return all(isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in values)


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
        if math.prod(tensor.size) > elements or (last >= elements and 0 not in tensor.size):
            layout = f"shape {tensor.size!a:.60}, stride {tensor.stride!a:.60} and offset {tensor.offset}"
            raise CheckpointError(f"{name!a:.100} has {layout}, out of the bounds of its {elements} elements")
        offset = 0 if 0 in tensor.size else tensor.offset * item
        strides = [step * item if n > 1 else 0 for n, step in zip(tensor.size, tensor.stride)]  # others may be huge
        values: Array = np.ndarray(tensor.size, dtype, data, offset, strides)
        return bfloat16_to_float32(values) if kind == "BFloat16Storage" else values


class _ZipStorages(_Storages):
    """The zip that `torch.save` writes: `<folder>/data.pkl`, and one record `<folder>/data/<key>` per storage.

    A record is a view of the file's bytes. So records take no memory, whatever sizes the zip states.
    """

    def __init__(self, data: bytes) -> None:
        archive = zipfile.ZipFile(io.BytesIO(data))
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl") or name == "data.pkl"]
        if len(pickles) != 1:
            raise CheckpointError("a zip, but not a PyTorch checkpoint (no data.pkl)")
        self._folder = pickles[0].removesuffix("data.pkl")
        self._entries, self._places = archive.NameToInfo, _places(data, archive)
        self._whole, self._records = memoryview(data), dict[str, memoryview]()
        if f"{self._folder}byteorder" in self._entries and bytes(self.record("byteorder")) == b"big":
            self.byteorder = ">"

    def record(self, name: str) -> memoryview:
        """The bytes of a record. Compressed records are refused: PyTorch writes none, and they could be zip bombs."""
        if name not in self._records:
            entry = self._entries[self._folder + name]
            if entry.compress_type != zipfile.ZIP_STORED:
                raise CheckpointError(f"record {name!a:.100} is compressed, which PyTorch does not do")
            place = self._places[entry.header_offset]
            data = self._whole[place : place + entry.compress_size]
            if zlib.crc32(data) != entry.CRC:
                raise CheckpointError(f"record {name!a:.100} is damaged: its CRC-32 is wrong")
            self._records[name] = data
        return self._records[name]

    def data(self, key: str, count: int, item: int) -> memoryview:
        try:
            data = self.record(f"data/{key}")
        except KeyError:
            raise CheckpointError(f"there is no storage {key!a:.60} in the file") from None
        return _checked(data, key, count * item)


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


def _places(data: bytes, archive: zipfile.ZipFile) -> dict[int, int]:
    """The place of each entry's data, by the place of the entry's header.

    Raises CheckpointError if entries overlap, or reach beyond the directory that follows them.
    """
    places = {}
    entries = sorted(archive.infolist(), key=lambda entry: entry.header_offset)
    ends = [*(entry.header_offset for entry in entries[1:]), archive.start_dir]
    for entry, end in zip(entries, ends, strict=True):
        start = entry.header_offset
        header = data[start : start + _LOCAL_HEADER.size] if start >= 0 else b""
        if len(header) != _LOCAL_HEADER.size or not header.startswith(b"PK\x03\x04"):
            raise CheckpointError(f"record {entry.filename!a:.60} has no header")
        places[start] = start + _LOCAL_HEADER.size + sum(_LOCAL_HEADER.unpack(header))
        if places[start] + entry.compress_size > end:
            raise CheckpointError(f"records overlap: {entry.filename!a:.60} reaches beyond byte {end}")
    return places


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
            if not isinstance(key, str) or key not in items:
                raise CheckpointError(f"storage {f'{key!a:.60}' if isinstance(key, str) else '?'} has an unknown kind")
            size = int.from_bytes(_checked(whole[place : place + 8], key, 8), "little") * items[key]
            place += 8
            self._storages[key] = _checked(whole[place : place + size], key, size)
            place += size

    def data(self, key: str, count: int, item: int) -> memoryview:
        if key not in self._storages:
            raise CheckpointError(f"there is no storage {key!a:.60} in the file")
        return _checked(self._storages[key], key, count * item)
