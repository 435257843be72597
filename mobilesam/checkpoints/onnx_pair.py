"""Reading a checkpoint from an ONNX pair: the encoder and SAM's decoder, as PyTorch exports them."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Sequence, Sized
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .. import architecture
from ..util.messages import one_line
from .errors import CheckpointError
from .tensor_file import Array

if TYPE_CHECKING:
    import onnx

_MOST_PARTS = 50_000  # a part can be 2 bytes of the file, and takes microseconds; the published encoder has 4,000
_MOST_USES = 10  # of the weights by nodes, on average; the exporter writes one
_MOST_INPUTS = 3  # of a node that uses a weight: Conv's input, weight and bias


def read_onnx_pair(paths: Sequence[Path]) -> dict[str, Array]:
    """The fused float32 tensors of an ONNX pair, by their reference names.

    PyTorch's exporter renames some parameters. Their reference names are found from the nodes that use them.

    Args:
        paths: the encoder's file and the decoder's file, in any order.

    Raises:
        CheckpointError: the files are not an encoder and a decoder, or cannot be read.
        ModuleNotFoundError: the package `onnx` is not installed.
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
        except Exception as error:  # for example, a tensor whose bytes do not match its shape
            raise CheckpointError(f"{path}: not a usable ONNX file ({one_line(error)})") from None
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
    except MemoryError:
        raise MemoryError(f"no memory to read checkpoint {path}") from None
    except Exception as error:  # protobuf's DecodeError
        raise CheckpointError(f"{path}: not a readable ONNX file ({one_line(error)})") from None


def _is_decoder(graph: onnx.GraphProto) -> bool:
    return any(value.name == "image_embeddings" for value in graph.input)


def _encoder_name(name: str) -> str:
    return f"image_encoder.{name}"


def _decoder_name(name: str) -> str:
    """The name in the state dict. ONNX names of nodes lack the top module, and initializers may start with `model.`."""
    name = name.removeprefix("model.")
    if name.startswith(("mask_decoder.", "prompt_encoder.")):
        return name
    return f"{'prompt_encoder' if name.startswith('mask_downscaling.') else 'mask_decoder'}.{name}"


def _graph_tensors(graph: onnx.GraphProto, qualify: Callable[[str], str]) -> dict[str, Array]:
    values = dict(_constants(graph))
    kept = {name for name in values if not name.startswith(("onnx::", "/"))}
    tensors = {qualify(name): values[name] for name in kept}
    # One large tensor that many small nodes use would take time that is quadratic in the size of the file.
    budget = _MOST_USES * sum(value.size for value in values.values())
    for node in graph.node:
        module = _module(node.name)
        for position, operand in enumerate(node.input[:_MOST_INPUTS]):
            if operand not in values or operand in kept:
                continue
            budget -= values[operand].size
            if budget < 0:
                raise CheckpointError(f"its nodes use the weights more than {_MOST_USES} times: refused")
            for name, value in _parameters(node.op_type, module, position, values[operand]):
                name = name if name.startswith(("prompt_encoder.", "mask_decoder.")) else qualify(name)
                if not np.array_equal(tensors.setdefault(name, value), value):
                    raise CheckpointError(f"two different values for {name!a:.100}")
    return tensors


def _constants(graph: onnx.GraphProto) -> Iterator[tuple[str, Array]]:
    """The graph's float32 tensors with their names: its initializers, and Constant nodes with three axes."""
    from onnx import TensorProto, numpy_helper

    _check_tensors(graph)
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            yield tensor.name, numpy_helper.to_array(tensor)
    for node in graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.t.data_type == TensorProto.FLOAT and len(attribute.t.dims) == 3:
                    yield node.output[0], numpy_helper.to_array(attribute.t)


def _check_tensors(graph: onnx.GraphProto) -> None:
    """Raise CheckpointError if a tensor's data is in another file, or if the graph has more than `_MOST_PARTS` parts.

    `numpy_helper.to_array` would read the other file. A part can be 2 bytes of the file.
    """
    from onnx import TensorProto

    parts = 0

    def count(*lists: Sized) -> None:
        nonlocal parts
        parts += sum(map(len, lists))
        if parts > _MOST_PARTS:
            raise CheckpointError(f"its graph has more than {_MOST_PARTS} nodes, tensors and attributes: refused")

    tensors: list[onnx.TensorProto] = []
    graphs = [graph]
    for inner in graphs:  # the list grows while it is read
        count(inner.node, inner.initializer, inner.sparse_initializer)
        tensors += inner.initializer
        sparse = [*inner.sparse_initializer]
        for node in inner.node:
            count(node.attribute)
            for attribute in node.attribute:
                count(attribute.tensors, attribute.sparse_tensors, attribute.graphs)
                tensors += [attribute.t, *attribute.tensors]
                sparse += [attribute.sparse_tensor, *attribute.sparse_tensors]
                graphs += [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]
        tensors += [part for each in sparse for part in (each.values, each.indices)]
    if any(tensor.data_location == TensorProto.EXTERNAL for tensor in tensors):
        raise CheckpointError("keeps its weights in another file, which is not supported")


def _module(node_name: str) -> str:
    """The module path of a node: "/patch_embed/seq/seq.0/c/Conv" belongs to "patch_embed.seq.0.c"."""
    path: list[str] = []
    for part in node_name.strip("/").split("/")[:-1]:
        if path and part.startswith(f"{path[-1]}."):
            path.pop()  # the child of a Sequential repeats the name of the Sequential
        path.append(part)
    return ".".join(path)


def _parameters(op: str, module: str, position: int, value: Array) -> Iterator[tuple[str, Array]]:
    """Yield the name and value of each state-dict parameter that an operand of an ONNX node holds.

    Args:
        op: operator of the node.
        module: module path of the node, see `_module`.
        position: index of the operand among the node's inputs.
        value: value of the operand.
    """
    match op, position:
        case "Conv" | "ConvTranspose", 1 | 2:
            yield f"{module}.{('weight', 'bias')[position - 1]}", value
        case "MatMul", 1 if module:
            yield f"{module}.weight", value.T
        case "Add", _ if module.endswith(".attn") and value.ndim == 3:
            yield f"{module}.attention_biases", _fold_attention_bias(module, value)
        case "Mul" | "Add", _ if module and value.shape[1:] == (1, 1):  # LayerNorm2d
            yield f"{module}.{'weight' if op == 'Mul' else 'bias'}", value.ravel()
        case "Mul", _ if value.shape == (1, architecture.EMBED_DIM, 1, 1):
            yield "prompt_encoder.no_mask_embed.weight", value.reshape(1, -1)
        case "Expand", 0 if value.shape == (1, 1 + architecture.MASK_TOKENS, architecture.EMBED_DIM):
            yield "mask_decoder.iou_token.weight", value[0, :1]
            yield "mask_decoder.mask_tokens.weight", value[0, 1:]


def _fold_attention_bias(module: str, table: Array) -> Array:
    """Convert a table (heads, N, N) of attention biases to the parameter (heads, offsets) of the state dict.

    The first query is a corner of the window, so its row contains every offset once and in order.
    """
    biases = table[:, 0]
    index = architecture.attention_bias_index(math.isqrt(table.shape[1]))
    if not np.array_equal(biases[:, index], table):
        raise CheckpointError(f"the attention bias of {module} is not a function of the offsets in a window")
    return biases
