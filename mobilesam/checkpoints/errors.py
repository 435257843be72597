"""The error of a checkpoint that cannot be used, and the words in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

_LISTED = 4  # names in an error message before "and N more"


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message is one line naming the file and what is wrong with it."""


def listed(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f", and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more


def hint(path: Path) -> str:
    """The command that converts the file."""
    source = path if path.suffix != ".onnx" else "ENCODER.onnx DECODER.onnx"
    return f"convert it first: mobilesam convert {source} --output FILE.safetensors"


def one_line(error: Exception) -> str:
    """An error of another package, its type and its message, in at most 200 characters."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
