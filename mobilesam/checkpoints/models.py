"""The published models, and what a model needs besides its tensors: its value range and its number of masks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from ..architecture import ARCHITECTURES, HQ_SAM, LITE_MEDSAM, MOBILE_SAM, Architecture
from ..images.value_range import ValueRange
from .errors import CheckpointError


class Model(NamedTuple):
    """A published model. A fine-tuned model counts as the model that it was trained from.

    Attributes:
        name: Name of the model, for `load`, `--weights` and `mobilesam download`.
        architecture: Architecture of the network.
        value_range: The default value range of images. See `mobilesam.images.value_range.checked_range`.
        always_three: Whether the mask decoder only ever answers with mask tokens 1 to 3.
    """

    name: str
    architecture: Architecture = MOBILE_SAM
    value_range: ValueRange = "dtype"
    always_three: bool = False

    def multimask(self, wanted: bool | None) -> bool:
        """Whether a prompt is answered with the masks of tokens 1 to 3, or else with the mask of token 0.

        Args:
            wanted: The caller's choice. None for the mode that the model was trained for.

        Raises:
            ValueError: One mask is wanted, and the model has no trained token for one mask.
        """
        if self.always_three and wanted is not None and not wanted:
            raise ValueError(
                f"one mask (multimask=False, --single) is impossible with {self.name}: its masks are three"
            )
        return self.architecture.multimask if wanted is None else bool(wanted)

    def check_hq(self, hq_token_only: bool) -> None:
        """Raise ValueError if only the HQ token's mask is wanted, and the model has no HQ token."""
        if hq_token_only and not self.architecture.hq:
            raise ValueError(f"hq_token_only is for {HQ_SAM.name}, and this model is {self.architecture.name}")


_MICRO_SAM: ValueRange = "minmax-channel"  # like `_to_image` of micro-sam's util.py
MODELS = {
    model.name: model
    for model in (
        Model("mobile_sam"),
        Model("tinysam", always_three=True),
        Model("vit_t_lm", value_range=_MICRO_SAM),
        Model("vit_t_em_organelles", value_range=_MICRO_SAM),
        Model("mobilesamv2"),
        Model("lite_medsam", LITE_MEDSAM),
        Model("sam_hq_vit_tiny", HQ_SAM),
    )
}
DEFAULT_MODEL = "mobile_sam"  # of the packaged checkpoint
# The model of each architecture, if neither the metadata nor the file names a model.
_DEFAULTS = {"mobile_sam": DEFAULT_MODEL, "lite_medsam": "lite_medsam", "hq_sam": "sam_hq_vit_tiny"}
assert _DEFAULTS.keys() == ARCHITECTURES.keys()


def model_named(name: str) -> Model:
    """The published model of this name. Raises ValueError if there is none."""
    if name not in MODELS:
        raise ValueError(f"model must be one of {', '.join(MODELS)}, got {name!r}")
    return MODELS[name]


def choose_model(
    wanted: str | None, architecture: Architecture, metadata: Mapping[str, str], known: str | None, path: object
) -> Model:
    """The model of a checkpoint.

    Args:
        wanted: Name that the caller gives, or None.
        architecture: The architecture that the checkpoint's tensors have.
        metadata: The checkpoint's metadata. A converted checkpoint tells its model under "model".
        known: Name of the published model that the file is known to be, by its download name or checksum, or None.
        path: The file, for the message.

    Raises:
        CheckpointError: The tensors have another architecture than the model `wanted`.
        ValueError: There is no model `wanted`.
    """
    if wanted is not None:
        model = model_named(wanted)
        if model.architecture is not architecture:
            needs = f"model={wanted!r} needs {model.architecture.name}"
            raise CheckpointError(f"{path}: the tensors are of {architecture.name}, and {needs}")
        return model
    for name in (metadata.get("model"), known, _DEFAULTS[architecture.name]):
        if name in MODELS and MODELS[name].architecture is architecture:
            return MODELS[name]
    raise AssertionError("each architecture has a default model")
