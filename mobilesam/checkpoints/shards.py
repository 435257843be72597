"""A checkpoint in several safetensors files. An index `*.safetensors.index.json` names the file of each tensor.

Source: Hugging Face's convention for sharded checkpoints.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath

from ..util.system import LONGEST_NAME, is_reserved
from .errors import CheckpointError
from .tensor_file import Array, TensorFile


class Shards(Mapping[str, Array]):
    """The tensors of all files."""

    def __init__(self, files: Mapping[str, TensorFile]) -> None:
        self._files = files  # by the tensor's name
        shapes = {path: file.shapes() for path, file in {file.path: file for file in files.values()}.items()}
        self._shapes = {name: shapes[file.path][name] for name, file in files.items()}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor."""
        return dict(self._shapes)

    def __getitem__(self, name: str) -> Array:
        return self._files[name][name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def open_shards(index: Path) -> Shards:
    """Open the files that an index names. The files are in the folder of the index.

    Raises:
        FileNotFoundError: A file does not exist.
        CheckpointError: The index or a file is damaged, or a tensor is not in the file that the index names.
    """
    try:
        places = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        names = {str(name): PurePath(place) for name, place in places.items()}
    except (AttributeError, KeyError, RecursionError, TypeError, ValueError):
        raise CheckpointError(f"{index}: not an index of safetensors files: it needs a mapping weight_map") from None
    outside = [place for place in names.values() if len(place.parts) != 1 or place.name == ".." or _is_odd(place.name)]
    if outside:
        raise CheckpointError(f"{index}: expected files in the folder of the index, got {str(outside[0])!a:.100}")
    files = {place: TensorFile(index.parent / place) for place in dict.fromkeys(names.values())}
    for name, place in names.items():
        if name not in files[place]:
            raise CheckpointError(f"{index}: {name!a:.100} is not in {place}")
    return Shards({name: files[place] for name, place in names.items()})


def _is_odd(name: str) -> bool:
    """Whether no file can have this name, or a message with the name would not be one line."""
    return len(name) > LONGEST_NAME or not name.isprintable() or is_reserved(name)
