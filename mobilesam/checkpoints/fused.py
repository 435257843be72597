"""Opening a fused checkpoint, the package's own format.

A fused checkpoint is a safetensors file with the reference's tensor names (see `mobilesam.architecture.tensor_specs`).
Every BatchNorm is folded into the convolution before it, and the unused classification head is left out.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from .. import architecture
from ..util.deferred import lazy
from ..util.files import sha256
from .errors import CheckpointError, hint, listed
from .published import PUBLISHED, cached_path, is_downloaded

FORMAT_VERSION = "1"
LEGACY_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the pickled magic number of PyTorch before 1.6
Array: TypeAlias = NDArray[Any]
PathLike: TypeAlias = str | os.PathLike[str]
Shapes: TypeAlias = Mapping[str, tuple[int, ...]]


def bfloat16_to_float32(bits: Array) -> Array:
    """Convert bfloat16, given as the bits in uint16, to float32, without rounding."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


class TensorFile(Mapping[str, Array]):
    """A memory-mapped safetensors file: a mapping from names to arrays.

    Each lookup copies the tensor to a new array of float16, float32 or float64. bfloat16 becomes float32.

    Attributes:
        path: the file.
        metadata: the metadata in the file's header.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is damaged or was replaced. A lookup also raises CheckpointError if the tensor's dtype
            is not float16, bfloat16, float32 or float64.
    """

    def __init__(self, path: PathLike) -> None:
        self.path = Path(path)
        self._opened = self._identity()
        self.metadata: dict[str, str] = self._file.metadata() or {}
        tensors = {name: self._file.get_slice(name) for name in self._file.keys()}  # noqa: SIM118 (no mapping)
        self._dtypes: dict[str, str] = {name: tensor.get_dtype() for name, tensor in tensors.items()}
        self._shapes = {name: tuple(tensor.get_shape()) for name, tensor in tensors.items()}

    def _identity(self) -> tuple[int, ...]:
        """Device, inode, size and modification time, to detect that the file was replaced."""
        try:
            status = self.path.stat()
        except FileNotFoundError:
            raise FileNotFoundError(f"no such checkpoint: {self.path}") from None
        return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns

    @lazy
    def _file(self) -> Any:  # the methods of safetensors are untyped
        if self._identity() != self._opened:
            raise CheckpointError(f"{self.path}: changed since it was opened")
        try:
            return cast(Any, safetensors.safe_open)(self.path, framework="numpy")
        except (OSError, safetensors.SafetensorError) as error:
            problem = f"not a safetensors file, or a damaged one: {str(error)!a:.200}"
            raise CheckpointError(f"{self.path}: {problem}") from None

    def unmap(self) -> None:
        """Close the memory map, which frees the pages that were read. The next lookup maps the file again."""
        self.__dict__.pop("_file", None)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor, from the header alone."""
        return dict(self._shapes)

    def __getitem__(self, name: str) -> Array:
        dtype = self._dtypes[name]
        if dtype == "BF16":
            return bfloat16_to_float32(self._bits(name))
        if dtype not in ("F16", "F32", "F64"):
            raise CheckpointError(f"{self.path}: {name!a:.100} is {dtype}, expected F16, BF16, F32 or F64")
        return self._file.get_tensor(name)

    def _bits(self, name: str) -> Array:
        """The elements of a tensor of 16 bits as uint16, for which safetensors has no NumPy dtype."""
        _ = self._file  # checks that the file is the same and whole
        with self.path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            first, end = json.loads(file.read(length))[name]["data_offsets"]
            file.seek(8 + length + first)
            return np.frombuffer(file.read(end - first), "<u2").reshape(self._shapes[name])

    def __contains__(self, name: object) -> bool:
        return name in self._shapes

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)


class Checkpoint(TensorFile):
    """A memory-mapped fused checkpoint: a mapping from the reference's tensor names to arrays.

    Each lookup copies the tensor to a new array of float16 or float32. Opening a checkpoint reads and checks only the
    header. Threads may share a checkpoint.

    Attributes:
        path: the file.
        metadata: format_version, source, source_sha256, dtype, architecture and model, as the conversion wrote them.
        architecture: the architecture that the tensors have.
    """

    @lazy
    def sha256(self) -> str:
        """The file's SHA-256 in hexadecimal, computed on first use."""
        if self._identity() != self._opened:
            raise CheckpointError(f"{self.path}: changed since it was opened")
        return sha256(self.path)

    def __init__(self, path: PathLike) -> None:
        super().__init__(path)
        if any(".bn." in name for name in self):
            raise CheckpointError(f"{self.path}: its BatchNorms are not fused; {hint(self.path)}")
        self.architecture = architecture.architecture_of(self.shapes())
        check_shapes(
            self.path, self.shapes(), architecture.expected_tensors(self.architecture), self.architecture.title
        )
        for name, dtype in self._dtypes.items():
            if dtype not in ("F16", "F32"):
                problem = f"{name} is {dtype}, expected F16 or F32"
                raise CheckpointError(f"{self.path}: {problem}; {hint(self.path)}")
        version = self.metadata.get("format_version", FORMAT_VERSION)
        if version != FORMAT_VERSION:
            raise CheckpointError(f"{self.path}: format_version {version!a:.20}, expected {FORMAT_VERSION!r}")


def open_checkpoint(path: PathLike | None = None) -> Checkpoint:
    """Open a fused checkpoint. Only the file's header is read.

    Args:
        path: a file, or the name of a published checkpoint that is downloaded. None opens the packaged checkpoint.

    Raises:
        FileNotFoundError: there is no such file, or the published checkpoint is not downloaded.
        CheckpointError: the file is truncated or is no safetensors file, a tensor is missing or unexpected, or a tensor
            has a wrong shape or dtype.
    """
    if path is None:
        from ..weights import default_path

        path = default_path()
    elif path in PUBLISHED:
        name, path = path, cached_path(str(path))
        if not is_downloaded(str(name)):
            raise FileNotFoundError(f"no checkpoint {name} yet: get it with mobilesam download {name}")
        try:
            return Checkpoint(path)
        except CheckpointError as error:
            raise CheckpointError(f"{error}; download it again: mobilesam download {name}") from None
    path = Path(path)
    if path.exists() and kind_of(path) in ("torch", "onnx", "shards"):
        raise CheckpointError(f"{path}: not a safetensors checkpoint; {hint(path)}")
    return Checkpoint(path)


def kind_of(path: Path) -> Literal["safetensors", "shards", "torch", "onnx", "other"]:
    """The file's format, recognised by its first bytes, or by its extension for ONNX and for the index of shards."""
    with path.open("rb") as file:
        start = file.read(len(LEGACY_START))
    if start.startswith((b"PK\x03\x04", LEGACY_START)):
        return "torch"
    if path.name.endswith(".index.json"):
        return "shards"
    if start[8:9] == b"{":
        return "safetensors"
    return "onnx" if path.suffix == ".onnx" else "other"


def check_shapes(path: Path, shapes: Shapes, expected: Shapes, title: str = "MobileSAM") -> None:
    """Raise CheckpointError if tensors are missing, unexpected or of a wrong shape, and list these tensors.

    Args:
        path: the file, for the message.
        shapes: names and shapes of the tensors.
        expected: names and shapes that are needed.
        title: name of the model, for the message.
    """
    missing = [name for name in expected if name not in shapes]
    unexpected = [f"{name!a:.100}" for name in shapes if name not in expected]
    wrong = [
        f"{name} is {shape!s:.60}, expected {expected[name]}"
        for name, shape in shapes.items()
        if expected.get(name, shape) != shape
    ]
    problems = [
        f"{len(names)} {kind} ({listed(names)})"
        for kind, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", wrong))
        if names
    ]
    if problems:
        raise CheckpointError(f"{path}: not a {title} checkpoint; tensors: {', '.join(problems)}")


def check_finite(path: Path, tensors: Mapping[str, Array], dtype: str) -> None:
    """Raise CheckpointError if tensors hold NaN or infinity, and list them. `dtype` is for the message."""
    bad = [name for name, values in tensors.items() if not np.isfinite(values).all()]
    if bad:
        raise CheckpointError(f"{path}: NaN or infinite values, as {dtype}, in {listed(bad)}")
