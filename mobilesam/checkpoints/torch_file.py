"""Reading PyTorch's `.pt` files without PyTorch."""

from __future__ import annotations

import io
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .errors import CheckpointError, one_line
from .fused import Array

_STORAGES = {"FloatStorage": "f4", "HalfStorage": "f2", "DoubleStorage": "f8", "LongStorage": "i8"}


class _Storage(NamedTuple):
    """The bytes of a `torch.Storage`, and the dtype of its elements."""

    data: bytes
    dtype: np.dtype[Any]


def read_torch(path: Path) -> dict[str, Array]:
    """The tensors of a state dict that `torch.save` wrote as a zip (PyTorch >= 1.6), as read-only arrays by name.

    The state dict may also be the value of a key "model" or "state_dict". The pickle in the zip may refer only to the
    parts of a state dict: OrderedDict, the functions that rebuild tensors, and storage types. A pickle that
    refers to any other name is refused before the name is imported, so no code from the file can run.

    Raises:
        CheckpointError: the file is damaged or is no state dict, or its pickle refers to a name that is not allowed.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            state = _Archive(archive).load()
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except OSError:
        raise
    except Exception as error:  # damaged zips and pickles raise errors of many types
        raise CheckpointError(f"{path}: not a readable PyTorch checkpoint ({one_line(error)})") from None
    for key in ("model", "state_dict"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: holds a {type(state).__name__}, not a state dict")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, np.ndarray):
            raise CheckpointError(f"{path}: {name!a:.100} is a {type(value).__name__}, not a tensor")
    return dict(state)


class _Archive:
    """The zip that `torch.save` writes: `<folder>/data.pkl`, and one record `<folder>/data/<key>` per storage."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        if len(pickles) != 1:
            raise CheckpointError("a zip, but not a PyTorch checkpoint (no data.pkl)")
        self._archive = archive
        self._folder = pickles[0].removesuffix("data.pkl")
        self._storages: dict[str, _Storage] = {}
        order = f"{self._folder}byteorder"
        self._byteorder = ">" if order in archive.namelist() and self._record("byteorder") == b"big" else "<"

    def _record(self, name: str) -> bytes:
        """The bytes of a record. Compressed records are refused: PyTorch writes none, and they could be zip bombs."""
        info = self._archive.getinfo(self._folder + name)
        if info.compress_type != zipfile.ZIP_STORED:
            raise CheckpointError(f"record {name!a:.100} is compressed, which PyTorch does not do")
        return self._archive.read(info)

    def load(self) -> object:
        data = self._record("data.pkl")
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name in ("PUT", "LONG_BINPUT") and argument is not None and argument > len(data):
                # The unpickler would allocate a memo with this number of entries.
                raise CheckpointError(f"its pickle has memo index {argument} in {len(data)} bytes: refused")
        return _StateDictUnpickler(data, self.storage).load()

    def storage(self, identity: object) -> _Storage:
        """The storage that a persistent id ("storage", type, key, device, element count) refers to."""
        match identity:
            case ("storage", str(kind), str(key), str(), int(count)) if kind in _STORAGES:
                dtype = np.dtype(self._byteorder + _STORAGES[kind])
            case _:
                raise CheckpointError(f"its pickle refers to {identity!a:.100}, which is no storage: refused")
        if key not in self._storages:
            self._storages[key] = _Storage(self._record(f"data/{key}"), dtype)
        storage = self._storages[key]
        if storage.dtype != dtype or len(storage.data) != count * dtype.itemsize:
            size = f"{len(storage.data)} bytes, not {count} elements of {dtype}"
            raise CheckpointError(f"storage {key!a:.20} has {size}")
        return storage


class _StateDictUnpickler(pickle.Unpickler):
    """An unpickler that builds arrays in place of tensors, and refuses every name that a state dict does not need."""

    def __init__(self, data: bytes, storage: Callable[[object], _Storage]) -> None:
        super().__init__(io.BytesIO(data))
        self._storage = storage

    def find_class(self, module: str, name: str) -> object:
        match module, name:
            case "collections", "OrderedDict":
                return OrderedDict
            case "torch._utils", "_rebuild_tensor_v2":
                return self._tensor
            case "torch._utils", "_rebuild_parameter":
                return self._parameter
            case "torch", storage if storage in _STORAGES:
                return storage
        asked = f"{module}.{name}"
        raise CheckpointError(f"its pickle asks for {asked!a:.100}, which no state dict needs: refused")

    def persistent_load(self, pid: object) -> _Storage:
        return self._storage(pid)

    def _tensor(self, storage: Any, offset: Any, size: Any, stride: Any, *_: object) -> Array:
        """A view of `storage`. Element (i, j, ...) is element offset + i·stride[0] + j·stride[1] + ... of `storage`."""
        if not isinstance(storage, _Storage):
            raise CheckpointError("its pickle has a tensor without a storage: refused")
        item = storage.dtype.itemsize
        try:  # np.ndarray checks the types and the bounds
            steps = [step * item for step in stride]
            tensor: Array = np.ndarray(size, storage.dtype, storage.data, offset * item, steps)
            fits = tensor.nbytes <= len(storage.data)  # a stride of 0 could make the tensor larger than the file
        except (TypeError, ValueError, OverflowError):
            fits = False
        if not fits:
            layout = f"shape {size!a:.60}, stride {stride!a:.60} and offset {offset!a:.20}"
            elements = len(storage.data) // item
            raise CheckpointError(f"a tensor of {layout} is out of the bounds of its {elements} elements")
        return tensor

    def _parameter(self, data: object, *_: object) -> object:
        return data
