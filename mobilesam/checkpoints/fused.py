"""Opening a fused checkpoint, the package's own format.

A fused checkpoint is a safetensors file with the reference's tensor names (see `mobilesam.architecture.tensor_specs`).
Every BatchNorm is folded into the convolution before it, and the unused classification head is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from .. import architecture
from ..util.deferred import lazy
from ..util.files import sha256
from .errors import CheckpointError, hint, listed
from .published import PUBLISHED, cached_path, is_downloaded
from .tensor_file import Array, PathLike, Shapes, TensorFile

FORMAT_VERSION = "1"
LEGACY_START = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the pickled magic number of PyTorch before 1.6


class Checkpoint(TensorFile):
    """A fused checkpoint: a mapping from the reference's tensor names to arrays.

    Each lookup reads the tensor into a new array of float16 or float32. Opening a checkpoint reads and checks only the
    header. Threads may share a checkpoint.

    Attributes:
        path: the file.
        metadata: format_version, source, source_sha256, dtype, architecture and model, as the conversion wrote them.
        architecture: the architecture that the tensors have.
    """

    @lazy
    def sha256(self) -> str:
        """The file's SHA-256 in hexadecimal, computed on first use."""
        self._open_again().close()
        return sha256(self.path)

    def __init__(self, path: PathLike) -> None:
        super().__init__(path)
        if any(".bn." in name for name in self):
            raise CheckpointError(f"{self.path}: its BatchNorms are not fused; {hint(self.path)}")
        self.architecture = architecture.architecture_of(self.shapes())
        check_shapes(
            self.path, self.shapes(), architecture.expected_tensors(self.architecture), self.architecture.title
        )
        for name, dtype in self.dtypes().items():
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
