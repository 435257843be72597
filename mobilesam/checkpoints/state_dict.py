"""Finding the state dict of a model among the mappings of a file, and naming other models by their tensors."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Protocol

from ..architecture import architecture_of, expected_tensors
from .errors import CheckpointError, listed
from .tensor_file import Array, Shapes

# Tensors that every SAM with a TinyViT encoder has. The text before such a name is the prefix of all names.
_ANCHORS = (
    "image_encoder.patch_embed.seq.0.c.weight",
    "image_encoder.neck.0.weight",
    "prompt_encoder.no_mask_embed.weight",
    "mask_decoder.iou_token.weight",
)
_IGNORED = re.compile(r"image_encoder\.(norm_head|head)\..*|.*\.bn\.num_batches_tracked")  # unused by the mask models
_VIT = {768: "SAM ViT-B", 1024: "SAM ViT-L", 1280: "SAM ViT-H"}  # by the width of the image encoder
_OTHERS = {  # a tensor's name, or its beginning, and the model that has the tensor
    "image_encoder.trunk.": "SAM 2",
    "memory_encoder.": "SAM 2",
    "image_encoder.backbone.": "EfficientViT-SAM",
    "image_encoder.features.": "RepViT-SAM",
    "image_encoder.stem.": "EdgeSAM",
    "image_encoder.blocks.": "a SAM with a ViT encoder",
    "layers.0.blocks.0.conv1.c.weight": "a TinyViT encoder alone, without prompt encoder and mask decoder",
    "patch_embed.seq.0.c.weight": "a TinyViT encoder alone, without prompt encoder and mask decoder",
    "iou_token.weight": "a mask decoder alone",
    "model.0.conv.weight": "a YOLO model, such as FastSAM",
}


_MOST_PREFIXES = 8  # a checkpoint holds at most a few copies of the model, such as the averaged weights


class Tensors(Protocol):
    """A mapping from names to tensors whose shapes are known before a tensor is read."""

    def shapes(self) -> Shapes: ...
    def __getitem__(self, name: str) -> Array: ...


class StateDict(Mapping[str, Array]):
    """The tensors of a mapping whose names begin with a prefix, by the names without the prefix.

    The classification head and the counters of BatchNorm are left out.
    """

    def __init__(self, tensors: Tensors, prefix: str) -> None:
        self._tensors, self.prefix = tensors, prefix
        names = (name for name in tensors.shapes() if name.startswith(prefix))
        self._names = {name.removeprefix(prefix): name for name in names}
        self._names = {name: full for name, full in self._names.items() if not _IGNORED.fullmatch(name)}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor."""
        shapes = self._tensors.shapes()
        return {name: shapes[full] for name, full in self._names.items()}

    def others(self) -> list[str]:
        """The full names of the mapping's tensors that do not begin with the prefix."""
        return [name for name in self._tensors.shapes() if not name.startswith(self.prefix)]

    def __getitem__(self, name: str) -> Array:
        return self._tensors[self._names[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def find_state_dict(path: Path, mappings: Sequence[Tensors]) -> StateDict:
    """Find the mapping whose names are those of a model after a common prefix.

    If several mappings fit, the first counts. A mapping with more than `_MOST_PREFIXES` models is searched for the
    first of them.

    Args:
        path: The file, for messages.
        mappings: The mappings of the file, the outermost first.

    Raises:
        CheckpointError: No mapping has tensors of a SAM with a TinyViT encoder. The message tells which model the file
            appears to hold.
    """
    best: tuple[int, Tensors, str] | None = None
    expected = cache(expected_tensors)
    for tensors in mappings:
        found = tensors.shapes()
        for prefix in islice(dict.fromkeys(_prefixes(found)), _MOST_PREFIXES):
            inner = {name[len(prefix) :]: shape for name, shape in found.items() if name.startswith(prefix)}
            wanted = expected(architecture_of(inner))
            missing = len(wanted) - sum(name in wanted for name in inner)
            if best is None or missing < best[0]:
                best = missing, tensors, prefix
    if best is None:
        shapes = {name: shape for tensors in mappings for name, shape in tensors.shapes().items()}
        reason = f"it looks like {appearance(shapes)}" if shapes else "it holds no mapping from names to tensors"
        raise CheckpointError(f"{path}: not a MobileSAM checkpoint: {reason}")
    return StateDict(*best[1:])


def warn_of_extra(path: Path, names: Sequence[str]) -> None:
    """Warn that tensors of the file are not used."""
    if names:
        shown = listed([f"{name!a:.100}" for name in names])
        warnings.warn(f"{path}: {len(names)} tensors are not used: {shown}", UserWarning, stacklevel=2)


def appearance(shapes: Shapes) -> str:
    """The model that has tensors of these names and shapes, in words."""
    for name, shape in shapes.items():
        if name.endswith("image_encoder.blocks.0.attn.proj.weight"):
            return _VIT.get(shape[0], "a SAM with a ViT encoder")
    for start, model in _OTHERS.items():
        if any(re.search(rf"(^|\.){re.escape(start)}", name) for name in shapes):
            return model
    return f"another model, with tensors such as {listed([f'{name!a:.100}' for name in shapes])}"


def _prefixes(shapes: Shapes) -> Iterator[str]:
    for name in shapes:
        for anchor in _ANCHORS:
            if name == anchor or name.endswith(f".{anchor}"):
                yield name.removesuffix(anchor)
