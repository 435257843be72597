"""The error for a checkpoint that cannot be used, and helpers for its messages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

_LISTED = 4  # most names that an error message lists before "and N more"


class CheckpointError(ValueError):
    """A checkpoint that cannot be used. The message is one line that names the file and the problem."""


def listed(names: Sequence[str]) -> str:
    """The first few names, joined by commas, and the number of the remaining names."""
    more = f", and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def hint(path: Path) -> str:
    """Advice to convert the file, with the command that converts it."""
    source = path if path.suffix != ".onnx" else "ENCODER.onnx DECODER.onnx"
    return f"convert it first: mobilesam convert {source} --output FILE.safetensors"
