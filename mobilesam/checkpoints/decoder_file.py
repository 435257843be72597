"""A file with only a prompt encoder and a mask decoder, such as MobileSAMv2's `Prompt_guided_Mask_Decoder.pt`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .errors import CheckpointError
from .fused import check_shapes
from .state_dict import StateDict, Tensors
from .tensor_file import Array, Shapes

# The end of a tensor's name that tells the module. MobileSAMv2 saves each module's state dict under a key of its own.
_ANCHORS = {"prompt_encoder.": "no_mask_embed.weight", "mask_decoder.": "iou_token.weight"}


def read_decoder(path: Path, mappings: Sequence[Tensors], expected: Shapes) -> dict[str, Array]:
    """Read the tensors of the prompt encoder and the mask decoder.

    Args:
        path: The file, for messages.
        mappings: The mappings of the file from names to tensors.
        expected: Names and shapes of a whole fused checkpoint.

    Returns:
        The tensors by their names in a whole checkpoint.

    Raises:
        CheckpointError: Tensors are missing, unexpected or of another shape.
    """
    decoder: dict[str, Array] = {}
    for module, anchor in _ANCHORS.items():
        state = _find(mappings, anchor)
        if state is None:
            needed = "a decoder file with a prompt encoder and a mask decoder"
            raise CheckpointError(f"{path}: expected {needed}; no tensor {module}{anchor}")
        wanted = {name.removeprefix(module): shape for name, shape in expected.items() if name.startswith(module)}
        check_shapes(path, state.shapes(), wanted)
        decoder.update({module + name: state[name] for name in wanted})
    return decoder


def _find(mappings: Sequence[Tensors], anchor: str) -> StateDict | None:
    for tensors in mappings:
        for name in tensors.shapes():
            if name == anchor or name.endswith(f".{anchor}"):
                return StateDict(tensors, name.removesuffix(anchor))
    return None
