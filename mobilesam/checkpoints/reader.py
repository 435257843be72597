"""Reading a checkpoint of any accepted format, and converting it to a fused checkpoint."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import safetensors.numpy

from .. import architecture
from ..util.files import check_folder, sha256, whole_file
from .batch_norm import fuse_batch_norm, unfused
from .decoder_file import read_decoder
from .errors import CheckpointError, listed
from .fused import (
    FORMAT_VERSION,
    Checkpoint,
    check_finite,
    check_shapes,
    kind_of,
    open_checkpoint,
)
from .models import choose_model
from .onnx_pair import read_onnx_pair
from .published import is_name, published_model
from .shards import open_shards
from .state_dict import Tensors, find_state_dict, warn_of_extra
from .tensor_file import Array, PathLike, TensorFile
from .torch_file import read_torch

Source: TypeAlias = PathLike | Sequence[PathLike]


class ConvertedCheckpoint(dict[str, Array]):
    """A checkpoint of any format that `read` accepts, converted in memory: a mapping from names to float32 arrays.

    Attributes:
        path: the source.
        decoder: the file that replaced the prompt encoder and the mask decoder, or None.
        architecture: the architecture that the tensors have.
        metadata: the same entries as in a `Checkpoint`.
        sha256: SHA-256 of the source, in hexadecimal. With a decoder file, both SHA-256, joined by a comma.
    """

    def __init__(self, source: PathLike, decoder: PathLike | None = None, model: str | None = None) -> None:
        super().__init__(read(source, decoder))
        self.path, self.decoder = Path(source), None if decoder is None else Path(decoder)
        self.architecture = architecture.architecture_of({name: values.shape for name, values in self.items()})
        self.metadata = _metadata(_files(source), decoder, "fp32", self, model)
        self.sha256 = self.metadata["source_sha256"]


def open_source(
    source: PathLike | None, decoder: PathLike | None = None, model: str | None = None
) -> Checkpoint | ConvertedCheckpoint:
    """Open a fused checkpoint. A source of any other format that `read` accepts is converted in memory.

    The arguments and errors are those of `open_checkpoint` and `convert`.
    """
    if decoder is None:
        try:
            return open_checkpoint(source)
        except CheckpointError:
            if is_name(source):
                raise
    file = open_checkpoint(source).path if source is None or is_name(source) else source
    return ConvertedCheckpoint(file, decoder, model)


def read(source: Source, decoder: PathLike | None = None) -> dict[str, Array]:
    """Read a checkpoint of any accepted format.

    Args:
        source: one of
            - the official `mobile_sam.pt`, or any file of `torch.save` that holds a state dict with the same names, at
              any depth, with a common prefix such as "module.", in float16, bfloat16, float32 or float64;
            - a safetensors file with such names, with BatchNorm or fused, or the index of its shards
              (`model.safetensors.index.json`);
            - an ONNX encoder/decoder pair: a sequence of two files, or the folder that holds them. Needs `onnx`.
        decoder: a file with a prompt encoder and a mask decoder that replace those of the source, such as MobileSAMv2's
            `Prompt_guided_Mask_Decoder.pt`. Only for sources of MobileSAM's architecture.

    Returns:
        The fused float32 tensors by reference name, in the order of the network. No tensor is missing, and all have
        the expected shapes and finite values.

    Raises:
        FileNotFoundError: a file does not exist.
        CheckpointError: the source is not a checkpoint of an accepted model and format, or the decoder does not fit.
            The message names the missing modules, and the model that the source appears to hold.
        ModuleNotFoundError: `onnx` is needed and not installed.
    """
    tensors = _read(_files(source))
    return tensors if decoder is None else _with_decoder(tensors, source, Path(decoder))


def _with_decoder(tensors: dict[str, Array], source: Source, decoder: Path) -> dict[str, Array]:
    base = architecture.architecture_of({name: values.shape for name, values in tensors.items()})
    if base is not architecture.MOBILE_SAM:
        raise CheckpointError(f"{source}: a decoder file is for mobile_sam, and these tensors are of {base.name}")
    file, *others = _files(decoder)
    if others:
        raise CheckpointError(f"{decoder}: expected one file with a prompt encoder and a mask decoder")
    read = read_decoder(file, _mappings(file, kind_of(file)), architecture.expected_tensors())
    return tensors | _as_float32(file, read)


def convert(
    source: Source,
    destination: PathLike,
    *,
    dtype: Literal["fp16", "fp32"] = "fp16",
    model: str | None = None,
    decoder: PathLike | None = None,
) -> Checkpoint:
    """Convert a checkpoint to a fused checkpoint, and open the result. The file appears complete or not at all.

    Args:
        source: any source that `read` accepts.
        destination: the file to write.
        dtype: "fp16" stores the weights of convolutions and linear layers as float16, everything else as float32.
            "fp32" stores everything as float32.
        model: name of the published model that the source is, or was trained from. None to recognise the model.
        decoder: see `read`.

    Raises:
        CheckpointError: `read` raises it, a weight exceeds float16's range, or the tensors are not those of `model`.
        FileNotFoundError or ModuleNotFoundError: see `read`.
        ValueError: `dtype` is neither "fp16" nor "fp32", or there is no such model.
        OSError: `destination` cannot be written.
    """
    if dtype not in ("fp16", "fp32"):
        raise ValueError(f"dtype must be 'fp16' or 'fp32', not {dtype!r}")
    destination = Path(destination)
    check_folder(destination)
    files, tensors = _files(source), read(source, decoder)
    metadata = _metadata(files, decoder, dtype, tensors, model)
    if dtype == "fp16":
        for name, spec in architecture.tensor_specs(architecture.ARCHITECTURES[metadata["architecture"]]).items():
            if spec.is_matrix:
                with np.errstate(over="ignore"):
                    tensors[name] = tensors[name].astype(np.float16)
        check_finite(files[0], tensors, "fp16")
    with whole_file(destination) as partial:
        partial.write_bytes(safetensors.numpy.save(tensors, metadata))
    return Checkpoint(destination)


def _metadata(
    sources: Sequence[Path], decoder: PathLike | None, dtype: str, tensors: Mapping[str, Array], model: str | None
) -> dict[str, str]:
    found = architecture.architecture_of({name: values.shape for name, values in tensors.items()})
    files = [*sources, *([] if decoder is None else _files(decoder))]
    checksums = [sha256(file) for file in files]
    # The decoder decides how many masks the model predicts, so a decoder file tells the model.
    own = files[-1]
    known = published_model(own.name, checksums[-1])
    inner = TensorFile(own).metadata if kind_of(own) == "safetensors" else {}
    return {
        "format_version": FORMAT_VERSION,
        "source": ", ".join(file.name for file in files),
        "source_sha256": ", ".join(checksums),
        "dtype": dtype,
        "architecture": found.name,
        "model": choose_model(model, found, inner, known, files[0]).name,
    }


def _files(source: Source) -> list[Path]:
    """The existing file, or the two files of an ONNX pair, that `source` names."""
    paths = [Path(source)] if isinstance(source, str | os.PathLike) else [Path(path) for path in source]
    if len(paths) == 1 and paths[0].is_dir():
        folder = paths[0]
        paths = sorted(folder.glob("*.onnx"))
        if len(paths) != 2:
            raise CheckpointError(f"{folder}: expected two .onnx files, found {len(paths)}")
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"no such checkpoint: {path}")
    kinds = [kind_of(path) for path in paths]
    if kinds not in (["safetensors"], ["shards"], ["torch"], ["onnx", "onnx"]):
        names = ", ".join(str(path) for path in paths) or "no file"
        accepted = "a .pt of PyTorch, a safetensors file or the index of its shards, or an ONNX encoder and its decoder"
        raise CheckpointError(f"{names}: expected {accepted}")
    return paths


def _read(files: Sequence[Path]) -> dict[str, Array]:
    path = files[0]
    tensors: Mapping[str, Array]
    match kind_of(path):
        case "onnx":
            tensors, expected = read_onnx_pair(files), architecture.expected_tensors()
            shapes = {name: values.shape for name, values in tensors.items()}
            check_shapes(path, shapes, expected)
        case kind:
            state = find_state_dict(path, _mappings(path, kind))
            shapes = state.shapes()
            found = architecture.architecture_of(shapes)
            expected = architecture.expected_tensors(found)
            wanted = unfused(expected) if any(".bn." in name for name in shapes) else expected
            check_shapes(path, {name: shape for name, shape in shapes.items() if name in wanted}, wanted, found.title)
            warn_of_extra(path, [*(name for name in shapes if name not in wanted), *state.others()])
            tensors = {name: state[name] for name in wanted}
    if any(".bn." in name for name in tensors):
        _check_floating_point(path, tensors)
        tensors = fuse_batch_norm(tensors)
    return _as_float32(path, {name: tensors[name] for name in expected})


def _as_float32(path: Path, tensors: Mapping[str, Array]) -> dict[str, Array]:
    """The tensors in float32. Raises CheckpointError if a tensor is not floating point, or not finite in float32."""
    _check_floating_point(path, tensors)
    with np.errstate(over="ignore"):  # a float64 beyond float32's range becomes infinite, which check_finite rejects
        converted = {name: np.require(values, np.float32, ["C", "ALIGNED"]) for name, values in tensors.items()}
    check_finite(path, converted, "fp32")
    return converted


def _check_floating_point(path: Path, tensors: Mapping[str, Array]) -> None:
    integers = [name for name, values in tensors.items() if values.dtype.kind != "f"]
    if integers:
        raise CheckpointError(f"{path}: not floating point: {listed(integers)}")


def _mappings(path: Path, kind: str) -> Sequence[Tensors]:
    match kind:
        case "torch":
            return read_torch(path)
        case "shards":
            return [open_shards(path)]
    return [TensorFile(path)]
