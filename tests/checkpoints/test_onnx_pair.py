"""Reads the parameters from two ONNX files, encoder and decoder, with the names and layouts that torch exports."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import hostile_files
import numpy as np
import pytest
from checkpoint_files import (
    Tensors,
    assert_same,
    fused_tensors,
    one_line,
)

from mobilesam import architecture
from mobilesam.checkpoints import reader
from mobilesam.checkpoints.errors import CheckpointError

pytestmark = pytest.mark.extras


@pytest.fixture(scope="module")
def fused() -> Tensors:
    return fused_tensors()


class Export:
    """An ONNX graph with only those nodes of a torch export that have parameters."""

    def __init__(self, inputs: list[str]) -> None:
        onnx = pytest.importorskip("onnx", reason="the extra test-all is not installed")
        self.helper, self.numpy_helper = onnx.helper, onnx.numpy_helper
        self.inputs = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in inputs]
        self.nodes: list[Any] = []
        self.initializers: list[Any] = []

    def initializer(self, name: str, values: np.ndarray) -> str:
        self.initializers.append(self.numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def anonymous(self, op: str, values: np.ndarray) -> str:
        """Add an initializer with a generic name, which torch uses for transformed parameters."""
        return self.initializer(f"onnx::{op}_{len(self.initializers)}", values)

    def node(self, op: str, module: str, *inputs: str, suffix: str = "") -> None:
        scope = "".join(f"/{part}" for part in scopes(module)) if module else ""
        name = f"{scope}/{op}{suffix}"
        self.nodes.append(self.helper.make_node(op, list(inputs), [f"{name}_output_0"], name=name))

    def constant(self, name: str, values: np.ndarray) -> str:
        tensor = self.numpy_helper.from_array(values)
        self.nodes.append(self.helper.make_node("Constant", [], [name], name=name, value=tensor))
        return name

    def save(self, path: Path) -> None:
        graph = self.helper.make_graph(self.nodes, "main_graph", self.inputs, [], self.initializers)
        path.write_bytes(self.helper.make_model(graph).SerializeToString())


SEQUENTIAL = ("seq", "neck", "mask_downscaling", "output_upscaling")
MODULE_LIST = ("layers", "blocks", "output_hypernetworks_mlps")


def scopes(module: str) -> list[str]:
    """The scopes in a node's name. "neck.1" has the scopes "neck" and "neck.1".

    A ModuleList has no scope: "layers.1" is a single scope.
    """
    parts: list[str] = []
    for part in module.split("."):
        if part.isdigit():
            owner = parts[-1] if parts[-1] in SEQUENTIAL else parts.pop()
            part = f"{owner}.{part}"
        parts.append(part)
    return parts


def export_encoder(tensors: Tensors) -> Export:
    export = Export(["input"])
    for name, values in tensors.items():
        name = name.removeprefix("image_encoder.")
        module, _, kind = name.rpartition(".")
        if not name.startswith(("layers", "patch", "neck")) or (kind == "bias" and module.endswith(".c")):
            continue
        if kind == "attention_biases":
            window = int(values.shape[1] ** 0.5)
            table = values[:, architecture.attention_bias_index(window)]
            constant = export.constant(f"/{'/'.join(scopes(module))}/Constant_5_output_0", table)
            export.node("Add", module, "scores", constant)
        elif module.endswith(".c"):
            bias = export.anonymous("Conv", tensors[f"image_encoder.{module}.bias"])
            export.node("Conv", module, "x", export.anonymous("Conv", values), bias)
        elif values.ndim == 2:
            export.node("MatMul", module, "x", export.anonymous("MatMul", values.T))
        elif module in ("neck.1", "neck.3"):
            op, suffix = ("Mul", "") if kind == "weight" else ("Add", "_1")
            export.node(op, module, export.anonymous(op, values[:, None, None]), "x", suffix=suffix)
        else:
            export.initializer(name, values)
    return export


def export_decoder(tensors: Tensors) -> Export:
    export = Export(["image_embeddings", "point_coords"])
    tokens = [tensors[f"mask_decoder.{name}.weight"] for name in ("iou_token", "mask_tokens")]
    export.node("Expand", "", export.anonymous("Expand", np.concatenate(tokens)[None]), "shape", suffix="_1")
    no_mask = tensors["prompt_encoder.no_mask_embed.weight"].reshape(1, 256, 1, 1)
    export.node("Mul", "", "x", export.anonymous("Mul", no_mask), suffix="_9")
    for name, values in tensors.items():
        module, _, kind = name.partition(".")[2].rpartition(".")
        if name.startswith("image_encoder") or module in ("iou_token", "mask_tokens", "no_mask_embed"):
            continue
        if module.startswith(("mask_downscaling", "output_upscaling")) and module[-1] in "14":
            op, suffix = ("Mul", "") if kind == "weight" else ("Add", "_1")
            export.node(op, module, export.anonymous(op, values[:, None, None]), "x", suffix=suffix)
        elif module.startswith("transformer") and values.ndim == 2:
            export.node("MatMul", module, "x", export.anonymous("MatMul", values.T))
        else:
            export.initializer(f"model.{name}" if name.startswith("prompt_encoder") else name, values)
    return export


@pytest.fixture(scope="module")
def onnx_folder(tmp_path_factory: pytest.TempPathFactory, fused: Tensors) -> Path:
    folder = tmp_path_factory.mktemp("export")
    export_encoder(fused).save(folder / "encoder.onnx")
    export_decoder(fused).save(folder / "decoder.onnx")
    return folder


def test_onnx_pair_is_mapped_to_the_reference_names(onnx_folder: Path, fused: Tensors) -> None:
    assert_same(reader.read(onnx_folder), fused)


def test_onnx_pair_in_any_order(onnx_folder: Path, fused: Tensors) -> None:
    assert_same(reader.read([onnx_folder / "encoder.onnx", onnx_folder / "decoder.onnx"]), fused)
    assert_same(reader.read([onnx_folder / "decoder.onnx", onnx_folder / "encoder.onnx"]), fused)


def test_attention_bias_that_does_not_fold_is_refused(tmp_path: Path, onnx_folder: Path, fused: Tensors) -> None:
    export = export_encoder(fused)
    constant = next(node for node in export.nodes if node.op_type == "Constant")
    table = export.numpy_helper.to_array(constant.attribute[0].t).copy()
    table[1, 2, 3] += 1
    constant.attribute[0].t.CopyFrom(export.numpy_helper.from_array(table))
    export.save(tmp_path / "encoder.onnx")
    with pytest.raises(CheckpointError, match=r"layers\.1\.blocks\.0\.attn is not a function of the offsets"):
        reader.read([tmp_path / "encoder.onnx", onnx_folder / "decoder.onnx"])


def test_onnx_files_that_are_not_a_pair_are_refused(tmp_path: Path, onnx_folder: Path) -> None:
    encoder = onnx_folder / "encoder.onnx"
    with pytest.raises(CheckpointError, match="an ONNX encoder and its decoder"):
        reader.read(encoder)
    with pytest.raises(CheckpointError, match="an image encoder and a mask decoder"):
        reader.read([encoder, encoder])
    with pytest.raises(CheckpointError, match=r"expected two \.onnx files, found 0"):
        reader.read(tmp_path)
    (tmp_path / "decoder.onnx").write_bytes(b"\xff" * 100)
    with pytest.raises(CheckpointError, match="not a readable ONNX file") as caught:
        reader.read([encoder, tmp_path / "decoder.onnx"])
    one_line(caught.value)


def test_onnx_with_foreign_parameters_lists_them(tmp_path: Path, onnx_folder: Path) -> None:
    export = Export(["image_embeddings"])
    export.initializer("foreign.weight", np.zeros(3, np.float32))
    export.save(tmp_path / "decoder.onnx")
    with pytest.raises(CheckpointError, match=r"missing \(.*1 unexpected \('mask_decoder\.foreign\.weight'\)"):
        reader.read([onnx_folder / "encoder.onnx", tmp_path / "decoder.onnx"])


def external(export: Export, path: Path) -> Any:
    """A tensor whose data would be read from a file."""
    tensor = export.numpy_helper.from_array(np.zeros((1, 2, 3), np.float32), "external")
    tensor.ClearField("raw_data")
    tensor.data_location = 1  # EXTERNAL
    tensor.external_data.add(key="location", value=path.name)
    return tensor


def in_a_constant(export: Export, tensor: Any) -> None:
    export.nodes.append(export.helper.make_node("Constant", [], ["x"], value=tensor))


def in_an_initializer(export: Export, tensor: Any) -> None:
    export.initializers.append(tensor)


def in_a_list_of_tensors(export: Export, tensor: Any) -> None:
    export.nodes.append(export.helper.make_node("Other", [], ["x"], several=[tensor]))


def in_a_sparse_tensor(export: Export, tensor: Any) -> None:
    indices = export.numpy_helper.from_array(np.zeros(1, np.int64))
    sparse = export.helper.make_sparse_tensor(tensor, indices, [9])
    export.nodes.append(export.helper.make_node("Constant", [], ["x"], sparse_value=sparse))


def in_a_branch(export: Export, tensor: Any) -> None:
    branch = export.helper.make_graph([], "branch", [], [], [tensor])
    export.nodes.append(export.helper.make_node("If", ["c"], ["x"], then_branch=branch, else_branch=branch))


@pytest.mark.parametrize(
    "place", [in_a_constant, in_an_initializer, in_a_list_of_tensors, in_a_sparse_tensor, in_a_branch]
)
def test_data_in_another_file_is_refused(
    tmp_path: Path, onnx_folder: Path, monkeypatch: pytest.MonkeyPatch, place: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(24))
    export = Export(["image_embeddings"])
    place(export, external(export, secret))
    export.save(tmp_path / "decoder.onnx")
    with pytest.raises(CheckpointError, match=r"decoder\.onnx: keeps its weights in another file"):
        reader.read([onnx_folder / "encoder.onnx", tmp_path / "decoder.onnx"])


def shared_weight(export: Export) -> None:
    """Many nodes use one large table of attention biases."""
    table = export.anonymous("Add", np.zeros((4, 196, 196), np.float32))
    for i in range(8_000):
        export.nodes.append(export.helper.make_node("Add", [table], [], name=f"/{i:x}.attn/Add"))


def many_inputs(export: Export) -> None:
    """A node has a long name, and many inputs."""
    table = export.initializer("/", np.zeros((9, 1, 1), np.float32))
    export.nodes.append(export.helper.make_node("Mul", [table] * 100_000, [], name="/a" * 200_000))


def many_nodes(export: Export) -> None:
    export.nodes += [type(export.helper.make_node("", [], []))()] * 400_000


def many_attributes(export: Export) -> None:
    node = export.helper.make_node("Constant", [], ["x"])
    for _ in range(400_000):
        node.attribute.add()
    export.nodes.append(node)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no getrusage")
@pytest.mark.parametrize("fill", [shared_weight, many_inputs, many_nodes, many_attributes])
def test_a_hostile_graph_ends_soon_in_one_line(tmp_path: Path, fill: Any) -> None:
    """For a file of less than 1 MB: within 2 s of a CPU and 200 MB."""
    decoder, encoder = Export(["image_embeddings"]), Export([])
    fill(decoder)
    decoder.save(tmp_path / "decoder.onnx")
    encoder.save(tmp_path / "encoder.onnx")
    assert (tmp_path / "decoder.onnx").stat().st_size < 1_000_000
    message, seconds, megabytes = hostile_files.read(tmp_path / "encoder.onnx", tmp_path / "decoder.onnx", first="onnx")
    one_line(CheckpointError(message))
    assert seconds < hostile_files.SECONDS
    assert megabytes < hostile_files.MEGABYTES


def test_onnx_without_the_package(onnx_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ModuleNotFoundError, match="pip install onnx"):
        reader.read(onnx_folder)


def test_metadata_of_a_pair_and_reproducibility(tmp_path: Path, onnx_folder: Path) -> None:
    first = reader.convert(onnx_folder, tmp_path / "a.safetensors")
    second = reader.convert(onnx_folder, tmp_path / "b.safetensors")
    assert_same(first, second)
    assert first.metadata == second.metadata
    files = [onnx_folder / "decoder.onnx", onnx_folder / "encoder.onnx"]
    assert first.metadata == {
        "format_version": "1",
        "source": "decoder.onnx, encoder.onnx",
        "source_sha256": ", ".join(hashlib.sha256(file.read_bytes()).hexdigest() for file in files),
        "dtype": "fp16",
        "architecture": "mobile_sam",
        "model": "mobile_sam",
    }
