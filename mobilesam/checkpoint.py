"""Checkpoints: opening a fused one, reading any accepted source, converting one to the other.

A fused checkpoint is a safetensors file with the reference's tensor names (see
`mobilesam.config.tensor_specs`), every BatchNorm folded into its convolution and the unused classification
head left out.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from . import config
from .files import check_folder, sha256, whole_file
from .published import PUBLISHED, cached_path

__all__ = [
    "Checkpoint",
    "CheckpointError",
    "ConvertedCheckpoint",
    "Source",
    "convert",
    "open_checkpoint",
    "open_source",
    "read",
]

FORMAT_VERSION = "1"
Array: TypeAlias = NDArray[Any]
PathLike: TypeAlias = str | os.PathLike[str]
Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
Source: TypeAlias = PathLike | Sequence[PathLike]

_CLASSIFICATION_HEAD = ("image_encoder.norm_head.", "image_encoder.head.")
_LISTED = 4  # names in an error message before "and N more"


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message is one line naming the file and what is wrong with it."""


class _TensorFile(Mapping[str, Array]):
    """A safetensors file, mapped into memory: name -> a new float16, float32 or float64 array, copied when asked for.

    Raises FileNotFoundError, or CheckpointError for a damaged file and, once asked for, another dtype.
    """

    def __init__(self, path: PathLike) -> None:
        self.path = Path(path)
        self._opened = self._identity()
        self.metadata: dict[str, str] = self._file.metadata() or {}
        tensors = {name: self._file.get_slice(name) for name in self._file.keys()}  # noqa: SIM118 (no mapping)
        self._dtypes: dict[str, str] = {name: tensor.get_dtype() for name, tensor in tensors.items()}
        self._shapes = {name: tuple(tensor.get_shape()) for name, tensor in tensors.items()}

    def _identity(self) -> tuple[int, ...]:
        """What tells the file from another one at its path."""
        try:
            status = self.path.stat()
        except FileNotFoundError:
            raise FileNotFoundError(f"no such checkpoint: {self.path}") from None
        return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns

    @cached_property
    def _file(self) -> Any:  # its methods are untyped
        if self._identity() != self._opened:
            raise CheckpointError(f"{self.path}: changed since it was opened")
        try:
            return cast(Any, safetensors.safe_open)(self.path, framework="numpy")
        except (OSError, safetensors.SafetensorError) as error:
            problem = f"not a safetensors file, or a damaged one: {str(error)!a:.200}"
            raise CheckpointError(f"{self.path}: {problem}") from None

    def unmap(self) -> None:
        """Let go of the file until a tensor is next asked for: what has been read of it stays in memory no longer."""
        self.__dict__.pop("_file", None)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor's shape, without touching its data."""
        return dict(self._shapes)

    def __getitem__(self, name: str) -> Array:
        dtype = self._dtypes[name]
        if dtype not in ("F16", "F32", "F64"):
            raise CheckpointError(f"{self.path}: {name!a:.100} is {dtype}, expected F16, F32 or F64")
        return self._file.get_tensor(name)

    def __contains__(self, name: object) -> bool:
        return name in self._shapes

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


class Checkpoint(_TensorFile):
    """A fused checkpoint, mapped into memory: name -> a new float16 or float32 array, copied when asked for.

    Opening reads and validates the header alone. `path` is the file, `metadata` what the conversion wrote:
    format_version, source, source_sha256, dtype. Threads may share it.
    """

    @cached_property
    def sha256(self) -> str:
        """The file's checksum, in hexadecimal; it is read for that when first asked for."""
        return sha256(self.path)

    def __init__(self, path: PathLike) -> None:
        super().__init__(path)
        if any(".bn." in name for name in self):
            raise CheckpointError(f"{self.path}: its BatchNorms are not fused; {_hint(self.path)}")
        _check(self.path, self.shapes(), config.expected_tensors())
        for name, dtype in self._dtypes.items():
            if dtype not in ("F16", "F32"):
                problem = f"{name} is {dtype}, expected F16 or F32"
                raise CheckpointError(f"{self.path}: {problem}; {_hint(self.path)}")
        version = self.metadata.get("format_version", FORMAT_VERSION)
        if version != FORMAT_VERSION:
            raise CheckpointError(f"{self.path}: format_version {version!a:.20}, expected {FORMAT_VERSION!r}")


class ConvertedCheckpoint(dict[str, Array]):
    """Any source that `read` takes, converted in memory: name -> float32 array.

    `path`, `metadata` and `sha256`, that of the source, are as a `Checkpoint` has them.
    """

    def __init__(self, source: PathLike) -> None:
        super().__init__(read(source))
        self.path = Path(source)
        self.metadata = _metadata(_files(source), "fp32")
        self.sha256 = self.metadata["source_sha256"]


def open_checkpoint(path: PathLike | None = None) -> Checkpoint:
    """Open a fused checkpoint: a file, a published one by its name once it is downloaded, the packaged one for None.

    Raises FileNotFoundError, or CheckpointError for a truncated or foreign file, a missing or unexpected
    tensor, a wrong shape or dtype. Quick: only the header is read.
    """
    if path is None:
        from .weights import default_path

        path = default_path()
    elif path in PUBLISHED:
        name, path = path, cached_path(str(path))
        if not path.exists():
            raise FileNotFoundError(f"no checkpoint {name} yet: get it with mobilesam download --checkpoint {name}")
    path = Path(path)
    if path.exists() and _kind(path) in ("torch", "onnx"):
        raise CheckpointError(f"{path}: not a safetensors checkpoint; {_hint(path)}")
    return Checkpoint(path)


def open_source(source: PathLike) -> Checkpoint | ConvertedCheckpoint:
    """Open a fused checkpoint, or convert in memory whatever else `read` takes. Raises as `read`."""
    try:
        return open_checkpoint(source)
    except CheckpointError:
        return ConvertedCheckpoint(source)


def read(source: Source) -> dict[str, Array]:
    """Fused float32 tensors by reference name: all of them, of the right shape, finite, in network order.

    `source` is one of
    - the official `mobile_sam.pt`, or another state dict with its names saved by PyTorch >= 1.6;
    - a safetensors file with the reference's names, with BatchNorm or fused, as float16, 32 or 64;
    - an ONNX encoder/decoder pair, as a sequence of two files or the folder that holds them (needs `onnx`).
    Raises FileNotFoundError, CheckpointError, or ModuleNotFoundError when `onnx` is needed and missing.
    """
    return _read(_files(source))


def convert(source: Source, destination: PathLike, *, dtype: Literal["fp16", "fp32"] = "fp16") -> Checkpoint:
    """Write `source` (see `read`) as a fused checkpoint and return it, opened.

    "fp16" stores the weights of convolutions and linear layers as float16 and everything else as float32;
    "fp32" all as float32. The file appears complete or not at all.
    Raises as `read`, and CheckpointError where a weight exceeds float16's range; OSError where `destination`
    cannot be written.
    """
    if dtype not in ("fp16", "fp32"):
        raise ValueError(f"dtype must be 'fp16' or 'fp32', not {dtype!r}")
    destination = Path(destination)
    check_folder(destination)
    files = _files(source)
    tensors = _read(files)
    if dtype == "fp16":
        for name, spec in config.tensor_specs().items():
            if spec.is_matrix:
                with np.errstate(over="ignore"):
                    tensors[name] = tensors[name].astype(np.float16)
        _check_finite(files[0], tensors, "fp16")
    with whole_file(destination) as partial:
        partial.write_bytes(safetensors.numpy.save(tensors, _metadata(files, dtype)))
    return Checkpoint(destination)


def _metadata(files: Sequence[Path], dtype: str) -> dict[str, str]:
    return {
        "format_version": FORMAT_VERSION,
        "source": ", ".join(file.name for file in files),
        "source_sha256": ", ".join(sha256(file) for file in files),
        "dtype": dtype,
    }


def _files(source: Source) -> list[Path]:
    """The file or the pair that `source` names; all exist."""
    paths = [Path(source)] if isinstance(source, str | os.PathLike) else [Path(path) for path in source]
    if len(paths) == 1 and paths[0].is_dir():
        folder = paths[0]
        paths = sorted(folder.glob("*.onnx"))
        if len(paths) != 2:
            raise CheckpointError(f"{folder}: expected two .onnx files, found {len(paths)}")
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"no such checkpoint: {path}")
    kinds = [_kind(path) for path in paths]
    if kinds not in (["safetensors"], ["torch"], ["onnx", "onnx"]):
        names = ", ".join(str(path) for path in paths) or "no file"
        accepted = "a .pt saved by PyTorch >= 1.6, a safetensors file, or an ONNX encoder and its decoder"
        raise CheckpointError(f"{names}: expected {accepted}")
    return paths


def _kind(path: Path) -> Literal["safetensors", "torch", "onnx", "other"]:
    with path.open("rb") as file:
        start = file.read(9)
    if start.startswith(b"PK\x03\x04"):
        return "torch"
    if start[8:] == b"{":
        return "safetensors"
    return "onnx" if path.suffix == ".onnx" else "other"


def _read(files: Sequence[Path]) -> dict[str, Array]:
    from . import conversion  # zipfile, pickle: not needed to open a checkpoint

    tensors: Mapping[str, Array]
    match _kind(files[0]):
        case "safetensors":
            tensors = _TensorFile(files[0])
        case "torch":
            tensors = conversion.read_torch(files[0])
        case _:
            tensors = conversion.read_onnx_pair(files)
    shapes = tensors.shapes() if isinstance(tensors, _TensorFile) else {name: tensors[name].shape for name in tensors}
    shapes = {
        name: shape
        for name, shape in shapes.items()
        if not name.startswith(_CLASSIFICATION_HEAD) and not name.endswith(".bn.num_batches_tracked")
    }
    expected = config.expected_tensors()
    has_batch_norm = any(".bn." in name for name in shapes)
    _check(files[0], shapes, conversion.unfused(expected) if has_batch_norm else expected)
    tensors = {name: tensors[name] for name in shapes}
    integers = [name for name, values in tensors.items() if values.dtype.kind != "f"]
    if integers:
        raise CheckpointError(f"{files[0]}: not floating point: {_listed(integers)}")
    if has_batch_norm:
        tensors = conversion.fuse_batch_norm(tensors)
    with np.errstate(over="ignore"):  # float64 out of float32's range: refused below
        fused = {name: np.ascontiguousarray(tensors[name], dtype=np.float32) for name in expected}
    _check_finite(files[0], fused, "fp32")
    return fused


def _check(path: Path, shapes: Shapes, expected: Shapes) -> None:
    """Raise CheckpointError listing the tensors that are missing, unexpected or of another shape."""
    missing = [name for name in expected if name not in shapes]
    unexpected = [f"{name!a:.100}" for name in shapes if name not in expected]
    wrong = [
        f"{name} is {shape!s:.60}, expected {expected[name]}"
        for name, shape in shapes.items()
        if expected.get(name, shape) != shape
    ]
    problems = [
        f"{len(names)} {kind} ({_listed(names)})"
        for kind, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", wrong))
        if names
    ]
    if problems:
        raise CheckpointError(f"{path}: not a MobileSAM checkpoint; tensors: {', '.join(problems)}")


def _check_finite(path: Path, tensors: Mapping[str, Array], dtype: str) -> None:
    bad = [name for name, values in tensors.items() if not np.isfinite(values).all()]
    if bad:
        raise CheckpointError(f"{path}: NaN or infinite values, as {dtype}, in {_listed(bad)}")


def _listed(names: Sequence[str]) -> str:
    more = f", and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def _hint(path: Path) -> str:
    source = path if path.suffix != ".onnx" else "ENCODER.onnx DECODER.onnx"
    return f"convert it first: mobilesam convert {source} --output FILE.safetensors"
