"""Targets that read checkpoints and embeddings."""

import io
import json
import pickle
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from checkpoint_files import (
    A_CONV,
    A_NORM,
    TWELVE,
    Call,
    Global,
    Storage,
    Tensors,
    dump,
    rebuild,
    write_legacy,
    write_torch,
    write_zip,
)

from mobilesam import architecture
from mobilesam.api import embedding_file
from mobilesam.checkpoints import reader
from mobilesam.checkpoints.errors import CheckpointError
from mobilesam.checkpoints.fused import TensorFile, open_checkpoint
from mobilesam.checkpoints.torch_file import read_torch

from .mutation import INTEGERS, TEXTS, mutate, with_zip_checksums
from .pickles import hostile_value, random_opcodes, with_hostile_value
from .target import Target, from_files

EXPECTED = (CheckpointError, FileNotFoundError)
SMALL: Tensors = {A_CONV: TWELVE.reshape(2, 2, 3), A_NORM: TWELVE[:5], "model.x": TWELVE.astype(np.float16)}
PLACEHOLDER = "a value that no file has"


def read_tensors(path: Path) -> None:
    """Read every tensor of a `.pt` file, or raise the error of the last tensor that cannot be read."""
    error = None
    for mapping in read_torch(path):
        shapes = mapping.shapes()
        for name in mapping:
            try:
                assert mapping[name].shape == shapes[name]
            except CheckpointError as failed:
                error = failed
    if error:
        raise error


def read_tensor_file(path: Path) -> None:
    file, error = TensorFile(path), None
    for name, shape in file.shapes().items():
        try:
            assert file[name].shape == shape
        except CheckpointError as failed:
            error = failed
    if error:
        raise error


# `.pt` files


def torch_files(folder: Path) -> list[tuple[str, bytes]]:
    path, files = folder / "made.pt", []
    wraps: list[Callable[[Any], Any]] = [
        lambda state: state,
        lambda state: {"model": state, "epoch": 3, "args": ["--lr", 0.1]},
        lambda state: Call(Global("collections", "OrderedDict"), [[name, value] for name, value in state.items()]),
    ]
    for write in (write_torch, write_legacy):
        files += [
            write(path, SMALL, wrap, dtype).read_bytes() for wrap in wraps for dtype in ("", "bfloat16", "float64")
        ]
    return [(".pt", data) for data in files]


def with_pickle(pickled: bytes, rng: Random) -> bytes:
    """A `.pt` file, of either format, with this pickle and two storages."""
    if rng.random() < 0.5:
        return zipped(pickled)
    keys = pickle.dumps(["0"], 2)
    if rng.random() < 0.3:
        keys = b"\x80\x02](" + hostile_value(rng) + b"e."
    head = [pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    return b"".join([*head, pickled, keys, struct.pack("<q", TWELVE.size), TWELVE.tobytes()])


def zipped(pickled: bytes) -> bytes:
    file = io.BytesIO()
    write_zip(file, pickled, {"0": TWELVE.tobytes()})  # type: ignore[arg-type]  # zipfile takes a file too
    return file.getvalue()


def damaged_state(rng: Random) -> bytes:
    """A `.pt` file whose state dict has a hostile value at one place."""
    places: list[Any] = ["FloatStorage", "0", "cpu", 12, 0, (2, 3), (3, 1), None]
    names = [A_CONV, "x"]
    where = rng.randrange(len(places) + len(names) + 2)
    if where < len(places):
        places[where] = PLACEHOLDER
    elif where < len(places) + len(names):
        names[where - len(places)] = PLACEHOLDER
    kind, key, device, count, offset, size, stride, view = places
    storage = Storage(key, TWELVE, kind="FloatStorage", count=count)
    kind_name = kind if kind == PLACEHOLDER else Global("torch", kind)
    storage.id = ("storage", kind_name, key, device, count, *([] if view is None else [view]))
    tensor = rebuild(storage, offset, size, stride)
    state: Any = dict.fromkeys(names, tensor)
    if where == len(places) + len(names):
        state = {"model": state, "other": PLACEHOLDER}
    elif where > len(places) + len(names):
        state = Call(Global("collections", "OrderedDict"), [[names[0], tensor], PLACEHOLDER])
    return with_pickle(with_hostile_value(dump(state), PLACEHOLDER, rng), rng)


def random_pickle(rng: Random) -> bytes:
    return with_pickle(random_opcodes(rng), rng)


def mutated_pickle(rng: Random) -> bytes:
    tensor = rebuild(Storage("0", TWELVE), 0, (2, 3), (3, 1))
    return with_pickle(mutate(dump({"model": {A_CONV: tensor, "x": tensor}}), [], rng), rng)


def finish_zip(data: bytes, rng: Random) -> bytes:
    return with_zip_checksums(data) if rng.random() < 0.7 else data


# safetensors


def random_json(rng: Random, depth: int = 3) -> Any:
    kinds = ["integer", "text", "float", "literal"] + ["list", "object"] * (depth > 0)
    match rng.choice(kinds):
        case "integer":
            return rng.choice(INTEGERS)
        case "text":
            return rng.choice(("", "F32", "a\nb", "\x1b[31m", "\u00e9", "x" * 1000, *TEXTS))
        case "float":
            return rng.choice((0.5, -1e308, float("inf"), float("nan")))
        case "literal":
            return rng.choice((None, True, False))
        case "list":
            return [random_json(rng, depth - 1) for _ in range(rng.randrange(5))]
    return {str(random_json(rng, 0)): random_json(rng, depth - 1) for _ in range(rng.randrange(5))}


def replaced(value: Any, rng: Random) -> Any:
    """A JSON value in which one part, at a random place, is random."""
    if rng.random() < 0.3 or not isinstance(value, (dict, list)) or not value:
        return random_json(rng)
    if isinstance(value, list):
        place = rng.randrange(len(value))
        return [*value[:place], replaced(value[place], rng), *value[place + 1 :]]
    name = rng.choice(list(value))
    if rng.random() < 0.2:
        return {**{key: old for key, old in value.items() if key != name}, rng.choice(TEXTS): value[name]}
    return {**value, name: replaced(value[name], rng)}


def with_header(header: Any, payload: bytes) -> bytes:
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + payload


def small_header() -> dict[str, Any]:
    return {
        "__metadata__": {"format_version": "1", "dtype": "fp32"},
        A_CONV: {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
        A_NORM: {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]},
        "x": {"dtype": "I64", "shape": [], "data_offsets": [32, 40]},
    }


def damaged_header(rng: Random) -> bytes:
    header: Any = small_header()
    for _ in range(rng.choice((1, 1, 2, 4))):
        header = replaced(header, rng)
    return with_header(header, bytes(40))


def safetensors_files(_: Path) -> list[tuple[str, bytes]]:
    return [(".safetensors", with_header(small_header(), bytes(40))), (".safetensors", with_header({}, b""))]


def shard_files(folder: Path) -> list[tuple[str, bytes]]:
    (folder / "a.safetensors").write_bytes(with_header(small_header(), bytes(40)))
    return [(".safetensors.index.json", json.dumps(shard_index()).encode())]


def shard_index() -> dict[str, Any]:
    return {"metadata": {"total_size": 40}, "weight_map": {A_CONV: "a.safetensors", A_NORM: "a.safetensors"}}


def damaged_index(rng: Random) -> bytes:
    return json.dumps(replaced(shard_index(), rng)).encode()


# ONNX


def onnx_files(folder: Path) -> list[tuple[str, bytes]]:
    """A small encoder and a small decoder, with the nodes whose operands are parameters."""
    import onnx
    from onnx import helper, numpy_helper

    def graph(
        inputs: Sequence[str], arrays: dict[str, np.ndarray], nodes: Sequence[tuple[str, str, list[str]]]
    ) -> bytes:
        made = [helper.make_node(op, names, [f"{name}_0"], name=name) for op, name, names in nodes]
        table = np.zeros((2, 4, 4), np.float32)
        made.append(helper.make_node("Constant", [], ["biases"], value=numpy_helper.from_array(table)))
        made.append(helper.make_node("Add", ["scores", "biases"], ["y"], name="/layers.1/blocks.0/attn/Add"))
        values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in inputs]
        initializers = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()]
        return bytes(helper.make_model(helper.make_graph(made, "main", values, [], initializers)).SerializeToString())

    conv, mul = (
        ("Conv", "/patch_embed/seq/seq.0/c/Conv", ["x", "onnx::Conv_1"]),
        ("Mul", "/neck/neck.1/Mul", ["x", "m"]),
    )
    arrays = {"onnx::Conv_1": np.ones((2, 3)), "m": np.ones((4, 1, 1)), "neck.0.weight": np.ones((2, 1))}
    encoder = graph(["input"], arrays, [conv, mul])
    expand, matmul = (
        ("Expand", "/Expand_1", ["onnx::Expand_1", "n"]),
        ("MatMul", "/transformer/lin1/MatMul", ["x", "w"]),
    )
    arrays = {"onnx::Expand_1": np.ones((1, 5, 256)), "w": np.ones((2, 3))}
    decoder = graph(["image_embeddings"], arrays, [expand, matmul])
    (folder / "encoder.onnx").write_bytes(encoder)
    (folder / "decoder.onnx").write_bytes(decoder)
    return [(".onnx", encoder), (".onnx", decoder)]


def read_as_encoder(path: Path) -> None:
    reader.read([path, path.with_name("decoder.onnx")])


def read_as_decoder(path: Path) -> None:
    reader.read([path, path.with_name("encoder.onnx")])


# embeddings

MAKER = embedding_file.Maker("0" * 64, "fp32", architecture.MOBILE_SAM)
EMBEDDING = {"features": {"dtype": "F32", "shape": [64, 64, 256], "data_offsets": [0, 4 << 20]}}
EMBEDDED = {
    "format": embedding_file.FORMAT, "format_version": "2", "original_size": "30,40", "input_size": "768,1024",
    "name": "cat.jpg", "value_range": "dtype", "checkpoint_sha256": "0" * 64, "precision": "fp32",
    "architecture": "mobile_sam",
}  # fmt: skip
SIZES = ("0,0", "1,2,3", "-1,5", f"{'9' * 5000},1", "minmax", "nan,1", "1,0", "\u0663,4")


def embedding_files(folder: Path) -> list[tuple[str, bytes]]:
    data = with_header({"__metadata__": EMBEDDED, **EMBEDDING}, bytes(4 << 20))
    valid = folder / "valid"
    valid.write_bytes(data)
    read_embedding(valid)
    return [(".embedding", data)]


def damaged_embedding(rng: Random) -> bytes:
    """An embedding whose header has random values."""
    names = dict(EMBEDDED)
    if rng.random() < 0.6:
        names[rng.choice(list(names))] = rng.choice((*TEXTS, *SIZES))
    header: Any = {"__metadata__": names, **EMBEDDING}
    return with_header(replaced(header, rng) if rng.random() < 0.5 else header, bytes(4 << 20))


def read_embedding(path: Path) -> None:
    features, source = embedding_file.read(path, MAKER)
    assert features.image.shape == (64, 64, 256)
    assert min(*source.original_size, *source.input_size) >= 1


TARGETS = (
    Target(
        "pt",
        4000,
        from_files(
            torch_files,
            [read_tensors, read_tensors, reader.read],
            [damaged_state, damaged_state, random_pickle, mutated_pickle],
            finish_zip,
        ),
        EXPECTED,
    ),
    Target(
        "safetensors",
        4000,
        from_files(safetensors_files, [read_tensor_file, open_checkpoint, reader.read], [damaged_header]),
        EXPECTED,
    ),
    Target("shards", 1500, from_files(shard_files, [reader.read], [damaged_index]), EXPECTED),
    Target("onnx", 1500, from_files(onnx_files, [read_as_encoder, read_as_decoder]), EXPECTED, ("onnx",)),
    Target(
        "embedding",
        300,
        from_files(embedding_files, [read_embedding], [damaged_embedding]),
        (ValueError, FileNotFoundError),
    ),
)
