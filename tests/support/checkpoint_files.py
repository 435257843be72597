"""Writes checkpoint files for tests, including `.pt` files like those of torch.save, without PyTorch."""

from __future__ import annotations

import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mobilesam import architecture
from mobilesam.checkpoints import batch_norm

Tensors = dict[str, np.ndarray]
EXPECTED = architecture.expected_tensors()
A_CONV = "image_encoder.patch_embed.seq.0.c.weight"
A_NORM = "image_encoder.neck.1.weight"


def random_tensors(shapes: Mapping[str, tuple[int, ...]]) -> Tensors:
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}


TWELVE = np.arange(12, dtype=np.float32)


def fused_tensors() -> Tensors:
    return random_tensors(EXPECTED)


def unfused_tensors() -> Tensors:
    """Random tensors with the names and shapes of those in the published `mobile_sam.pt`, before BatchNorm is fused."""
    tensors = random_tensors(batch_norm.unfused(EXPECTED))
    for name in list(tensors):
        if name.endswith(".running_var"):
            tensors[name] = np.abs(tensors[name])
            tensors[name.replace("running_var", "num_batches_tracked")] = np.array([7])
    tensors["image_encoder.norm_head.weight"] = np.ones(320, np.float32)
    tensors["image_encoder.head.weight"] = np.ones((1000, 320), np.float32)
    return tensors


def assert_same(actual: Mapping[str, np.ndarray], expected: Mapping[str, np.ndarray]) -> None:
    assert set(actual) == set(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(actual[name], values, err_msg=name)


def one_line(error: BaseException) -> str:
    message = str(error)
    assert "\n" not in message and len(message) < 1500
    return message


class Global:
    """A reference to the Python object `module.name` in a pickle. The module need not be installed."""

    def __init__(self, module: str, name: str) -> None:
        self.path = f"{module}\n{name}\n".encode()


class Storage:
    """A reference to a tensor's storage in a pickle, written as a persistent id."""

    def __init__(self, key: str, values: np.ndarray, *, kind: str | None = None, count: int | None = None) -> None:
        kinds = {
            "float32": "FloatStorage",
            "float16": "HalfStorage",
            "float64": "DoubleStorage",
            "int64": "LongStorage",
            "uint16": "BFloat16Storage",  # the bits of bfloat16
        }
        kind = kind or kinds[values.dtype.name]
        self.id = ("storage", Global("torch", kind), key, "cpu", values.size if count is None else count)


class Call:
    """An instruction in a pickle to call `function` on loading."""

    def __init__(self, function: Global, *args: Any) -> None:
        self.function, self.args = function, args


def dump(value: Any) -> bytes:
    """A complete pickle, protocol 2, of `value`."""
    return b"\x80\x02" + encode(value) + b"."


def encode(value: Any) -> bytes:
    """Pickle opcodes that push `value` on the stack."""
    match value:
        case Global():
            return b"c" + value.path
        case Storage():
            return encode(value.id) + b"Q"
        case Call():
            return encode(value.function) + encode(value.args) + b"R"
        case dict():
            return b"}(" + b"".join(encode(item) for pair in value.items() for item in pair) + b"u"
        case tuple():
            return b"(" + b"".join(map(encode, value)) + b"t"
        case list():
            return b"](" + b"".join(map(encode, value)) + b"e"
        case _:
            return pickle.dumps(value, 2)[2:-1].replace(b"q\x00", b"")  # without header, STOP and memo opcodes


def rebuild(storage: Any, offset: Any, size: Any, stride: Any) -> Call:
    hooks = Call(Global("collections", "OrderedDict"))
    return Call(Global("torch._utils", "_rebuild_tensor_v2"), storage, offset, size, stride, False, hooks)


def write_zip(path: Path, data_pkl: bytes, storages: Mapping[str, bytes], compression: int = 0) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        members = {"data.pkl": data_pkl, "byteorder": b"little"} | {f"data/{key}": storages[key] for key in storages}
        for name, data in members.items():
            # A ZipInfo has a constant date, so the same members give the same bytes.
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), data, compression)
    return path


def write_torch(
    path: Path, tensors: Tensors, wrap: Callable[[Any], Any] = lambda state: state, dtype: str = ""
) -> Path:
    """Write a `.pt` file in the format of PyTorch >= 1.6.

    Args:
        path: The file to write.
        tensors: The state dict.
        wrap: Returns the value to save for the state dict.
        dtype: The dtype to convert the tensors to, "bfloat16" or a name of NumPy. "" for the tensors' own.
    """
    converted = _converted(tensors, dtype)
    storages = {str(key): values.tobytes("A") for key, values in enumerate(converted.values())}
    return write_zip(path, dump(wrap(_state(converted))), storages)


def write_legacy(
    path: Path, tensors: Tensors, wrap: Callable[[Any], Any] = lambda state: state, dtype: str = ""
) -> Path:
    """Write a `.pt` file in the format before PyTorch 1.6. The arguments are those of `write_torch`."""
    converted = _converted(tensors, dtype)
    sizes = {"protocol_version": 1001, "little_endian": True}
    parts = [pickle.dumps(0x1950A86A20F9469CFC6C, 2), pickle.dumps(1001, 2), pickle.dumps(sizes, 2)]
    parts += [dump(wrap(_state(converted))), pickle.dumps([str(key) for key in range(len(converted))], 2)]
    parts += [struct.pack("<q", values.size) + values.tobytes("A") for values in converted.values()]
    path.write_bytes(b"".join(parts))
    return path


def _converted(tensors: Tensors, dtype: str) -> Tensors:
    if dtype == "bfloat16":
        bits = {name: values.view(np.uint32).astype(np.uint64) for name, values in tensors.items()}
        return {name: ((b + 0x7FFF + ((b >> 16) & 1)) >> 16).astype(np.uint16) for name, b in bits.items()}
    return {name: values.astype(dtype) if dtype else values for name, values in tensors.items()}


def _state(tensors: Tensors) -> dict[str, Call]:
    state = {}
    for key, (name, values) in enumerate(tensors.items()):
        stride = tuple(step // values.itemsize for step in values.strides)
        state[name] = rebuild(Storage(str(key), values), 0, values.shape, stride)
    return state


def write_tiny(path: Path, value: Any, values: np.ndarray | None = None) -> Path:
    """Write a `.pt` file with the pickled `value` and one storage named "0". It holds `values`, by default 0 to 11."""
    values = np.arange(12, dtype=np.float32) if values is None else values
    return write_zip(path, dump(value), {"0": values.tobytes()})
