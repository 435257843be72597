"""Other formats: PyTorch's `.pt` without PyTorch, the ONNX encoder/decoder pair, BatchNorm fusion."""

from __future__ import annotations

import io
import math
import os
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from . import config
from .checkpoint import Array, CheckpointError

if TYPE_CHECKING:
    import onnx

_STORAGES = {"FloatStorage": "f4", "HalfStorage": "f2", "DoubleStorage": "f8", "LongStorage": "i8"}


class _Storage(NamedTuple):
    data: bytes
    dtype: np.dtype[Any]


def read_torch(path: Path) -> dict[str, Array]:
    """The tensors of a state dict saved by `torch.save` (PyTorch >= 1.6, a zip), as read-only arrays by name.

    The pickle inside may name only what a state dict is made of: OrderedDict, the rebuilding of a tensor, and
    storage types. Anything else is refused before it is resolved, so nothing of the file is ever executed. A
    state dict under the key "model" or "state_dict" is accepted too. Raises CheckpointError.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            state = _Archive(archive).load()
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except OSError:
        raise
    except Exception as error:  # a damaged zip or a malformed pickle may fail in any way
        raise CheckpointError(f"{path}: not a readable PyTorch checkpoint ({_one_line(error)})") from None
    for key in ("model", "state_dict"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: holds a {type(state).__name__}, not a state dict")
    for name, value in state.items():
        if not isinstance(name, str) or not isinstance(value, np.ndarray):
            raise CheckpointError(f"{path}: {name!a:.100} is a {type(value).__name__}, not a tensor")
    return dict(state)


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


class _Archive:
    """The zip `torch.save` writes: `<folder>/data.pkl`, and `<folder>/data/<key>`, one record a storage."""

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
        """A record's bytes; a compressed one could be a bomb, and PyTorch never writes one."""
        info = self._archive.getinfo(self._folder + name)
        if info.compress_type != zipfile.ZIP_STORED:
            raise CheckpointError(f"record {name!a:.100} is compressed, which PyTorch does not do")
        return self._archive.read(info)

    def load(self) -> object:
        data = self._record("data.pkl")
        for opcode, argument, _ in pickletools.genops(data):
            if opcode.name in ("PUT", "LONG_BINPUT") and argument is not None and argument > len(data):
                # Unpickler would allocate that many slots.
                raise CheckpointError(f"its pickle has memo index {argument} in {len(data)} bytes: refused")
        return _StateDictUnpickler(data, self.storage).load()

    def storage(self, identity: object) -> _Storage:
        """The storage of a persistent id ("storage", type, key, device, element count)."""
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
        """A view of `storage`: element (i, j, ...) is its number offset + i·stride[0] + j·stride[1] + ..."""
        if not isinstance(storage, _Storage):
            raise CheckpointError("its pickle has a tensor without a storage: refused")
        item = storage.dtype.itemsize
        try:  # NumPy checks the types and the bounds
            steps = [step * item for step in stride]
            tensor: Array = np.ndarray(size, storage.dtype, storage.data, offset * item, steps)
            fits = tensor.nbytes <= len(storage.data)  # a stride of 0 could make it larger than the file
        except (TypeError, ValueError, OverflowError):
            fits = False
        if not fits:
            layout = f"shape {size!a:.60}, stride {stride!a:.60} and offset {offset!a:.20}"
            elements = len(storage.data) // item
            raise CheckpointError(f"a tensor of {layout} is out of the bounds of its {elements} elements")
        return tensor

    def _parameter(self, data: object, *_: object) -> object:
        return data


def read_onnx_pair(paths: Sequence[Path]) -> dict[str, Array]:
    """Reference-named, fused float32 tensors of torch exports of the encoder and SAM's decoder, in any order.

    Parameters that the export renamed get their module from the name of the node that uses them. Needs the
    `onnx` package. Raises CheckpointError, or ModuleNotFoundError without `onnx`.
    """
    graphs = [(path, _load_onnx(path)) for path in paths]
    graphs.sort(key=lambda item: _is_decoder(item[1]))
    if [_is_decoder(graph) for _, graph in graphs] != [False, True]:
        names = ", ".join(str(path) for path in paths)
        raise CheckpointError(f"{names}: expected two ONNX files, an image encoder and a mask decoder")
    tensors: dict[str, Array] = {}
    for (path, graph), qualify in zip(graphs, (_encoder_name, _decoder_name), strict=True):
        try:
            tensors.update(_graph_tensors(graph, qualify))
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from None
        except Exception as error:  # tensors whose bytes do not fit their shape, and the like
            raise CheckpointError(f"{path}: not a usable ONNX file ({_one_line(error)})") from None
    return tensors


def _load_onnx(path: Path) -> onnx.GraphProto:
    try:
        import onnx
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"reading ONNX files needs a package: pip install onnx ({error})") from None
    try:
        return onnx.load(os.fspath(path), load_external_data=False).graph
    except OSError:
        raise
    except Exception as error:  # protobuf's DecodeError
        raise CheckpointError(f"{path}: not a readable ONNX file ({_one_line(error)})") from None


def _is_decoder(graph: onnx.GraphProto) -> bool:
    return any(value.name == "image_embeddings" for value in graph.input)


def _encoder_name(name: str) -> str:
    return f"image_encoder.{name}"


def _decoder_name(name: str) -> str:
    """Node names lack the top module; initializers may carry the export wrapper's `model.`."""
    name = name.removeprefix("model.")
    if name.startswith(("mask_decoder.", "prompt_encoder.")):
        return name
    return f"{'prompt_encoder' if name.startswith('mask_downscaling.') else 'mask_decoder'}.{name}"


def _graph_tensors(graph: onnx.GraphProto, qualify: Callable[[str], str]) -> dict[str, Array]:
    values = dict(_constants(graph))
    kept = {name for name in values if not name.startswith(("onnx::", "/"))}
    tensors = {qualify(name): values[name] for name in kept}
    for node in graph.node:
        for position, operand in enumerate(node.input):
            if operand not in values or operand in kept:
                continue
            for name, value in _parameters(node.op_type, _module(node.name), position, values[operand]):
                name = name if name.startswith(("prompt_encoder.", "mask_decoder.")) else qualify(name)
                if not np.array_equal(tensors.setdefault(name, value), value):
                    raise CheckpointError(f"two different values for {name!a:.100}")
    return tensors


def _constants(graph: onnx.GraphProto) -> Iterator[tuple[str, Array]]:
    """Float tensors of the graph by name: its initializers, and Constant nodes of three axes."""
    from onnx import TensorProto, numpy_helper

    for tensor in graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            raise CheckpointError("keeps its weights in another file, which is not supported")
        if tensor.data_type == TensorProto.FLOAT:
            yield tensor.name, numpy_helper.to_array(tensor)
    for node in graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.t.data_type == TensorProto.FLOAT and len(attribute.t.dims) == 3:
                    yield node.output[0], numpy_helper.to_array(attribute.t)


def _module(node_name: str) -> str:
    """The module path of a node: "/patch_embed/seq/seq.0/c/Conv" belongs to "patch_embed.seq.0.c"."""
    path: list[str] = []
    for part in node_name.strip("/").split("/")[:-1]:
        if path and part.startswith(f"{path[-1]}."):
            path.pop()  # a Sequential repeats its name in its children's
        path.append(part)
    return ".".join(path)


def _parameters(op: str, module: str, position: int, value: Array) -> Iterator[tuple[str, Array]]:
    """What `value`, input `position` of a node of `module`, is in the state dict; nothing if no parameter."""
    match op, position:
        case "Conv" | "ConvTranspose", 1 | 2:
            yield f"{module}.{('weight', 'bias')[position - 1]}", value
        case "MatMul", 1 if module:
            yield f"{module}.weight", value.T
        case "Add", _ if module.endswith(".attn") and value.ndim == 3:
            yield f"{module}.attention_biases", _fold_attention_bias(module, value)
        case "Mul" | "Add", _ if module and value.shape[1:] == (1, 1):  # LayerNorm2d
            yield f"{module}.{'weight' if op == 'Mul' else 'bias'}", value.ravel()
        case "Mul", _ if value.shape == (1, config.EMBED_DIM, 1, 1):
            yield "prompt_encoder.no_mask_embed.weight", value.reshape(1, -1)
        case "Expand", 0 if value.shape == (1, 1 + config.MASK_TOKENS, config.EMBED_DIM):
            yield "mask_decoder.iou_token.weight", value[0, :1]
            yield "mask_decoder.mask_tokens.weight", value[0, 1:]


def _fold_attention_bias(module: str, table: Array) -> Array:
    """(heads, offsets) from (heads, N, N): the first query, a corner, sees every offset once and in order."""
    biases = table[:, 0]
    index = config.attention_bias_index(math.isqrt(table.shape[1]))
    if not np.array_equal(biases[:, index], table):
        raise CheckpointError(f"the attention bias of {module} is not a function of the offsets in a window")
    return biases


_BATCH_NORM = ("weight", "bias", "running_mean", "running_var")


def unfused(expected: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Names and shapes before fusion: each convolution's `<x>.c.bias` is a BatchNorm `<x>.bn.*` instead."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in expected.items():
        if name.endswith(".c.bias"):
            shapes.update({f"{name.removesuffix('c.bias')}bn.{part}": shape for part in _BATCH_NORM})
        else:
            shapes[name] = shape
    return shapes


def fuse_batch_norm(tensors: Mapping[str, Array]) -> dict[str, Array]:
    """Fold each BatchNorm into the convolution before it, as the reference's `Conv2d_BN.fuse`, in float64.

    w' = w·γ/√(σ² + ε) and b' = β - μ·γ/√(σ² + ε) per output channel, rounded to float32.
    """
    fused = {name: values for name, values in tensors.items() if ".bn." not in name}
    for name in tensors:
        if name.endswith(".bn.weight"):
            root = name.removesuffix("bn.weight")
            gamma, beta, mean, var = (tensors[f"{root}bn.{part}"].astype(np.float64) for part in _BATCH_NORM)
            with np.errstate(all="ignore"):  # a negative variance gives NaN, which the caller refuses by name
                scale = gamma / np.sqrt(var + config.BATCH_NORM_EPS)
                weight = tensors[f"{root}c.weight"] * scale[:, None, None, None]
                fused[f"{root}c.weight"] = weight.astype(np.float32)
                fused[f"{root}c.bias"] = (beta - mean * scale).astype(np.float32)
    return fused
