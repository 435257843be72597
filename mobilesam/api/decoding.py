"""Decoding of prompts on an encoded image: from checked prompts to scores and low-resolution mask logits."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..checkpoints.models import Model
from ..images.geometry import Size, to_canvas
from ..network.decoder_image import DecoderImage
from ..network.loading import Network
from .prompts import Prompt

Masks = tuple[NDArray[np.float32], NDArray[np.float32]]  # scores (C,) and low-resolution mask logits (C, 256, 256)


class EncodedImage(Protocol):
    """An encoded image, such as an `Embedding`, which describes the attributes."""

    @property
    def features(self) -> NDArray[np.float32]: ...
    @property
    def original_size(self) -> Size: ...
    @property
    def hq_features(self) -> NDArray[np.float32] | None: ...


def masks(
    network: Network,
    image: EncodedImage,
    prompt: Prompt,
    multimask: bool | None,
    hq_token_only: bool = False,
    *,
    once: bool = False,
) -> Masks:
    """The scores and the low-resolution logits of a prompt's masks.

    With `once`, the decoder caches no feature maps of the image for further prompts. This is faster for a single
    prompt, and the result differs only by rounding.

    Raises:
        ValueError: The model does not have the mode, or the image lacks its HQ features.
    """
    checked_mode = mode(network.model, multimask, hq_token_only)
    decoded = decoder_image(network, image, prompt.mask_input, kept=not once)
    (answer,) = network.mask_decoder.masks(
        decoded, [prompt_tokens(network, image.original_size, prompt)], **checked_mode
    )
    return answer


def masks_of_many(
    network: Network, image: EncodedImage, prompts: Sequence[Prompt], checked_mode: dict[str, bool]
) -> Iterator[Masks]:
    """The scores and the low-resolution logits of each prompt's masks, in order.

    Prompts without a mask input share the image's feature maps.

    Args:
        network: The network.
        image: The encoded image.
        prompts: The prompts.
        checked_mode: The result of `mode`.
    """
    for shared, alike in groupby(prompts, key=lambda prompt: prompt.mask_input is None):
        group = list(alike)
        if not shared:
            yield from (masks(network, image, prompt, **checked_mode) for prompt in group)
            continue
        tokens = (prompt_tokens(network, image.original_size, prompt) for prompt in group)
        yield from network.mask_decoder.masks(decoder_image(network, image), tokens, **checked_mode)


def mode(kind: Model, multimask: bool | None, hq_token_only: bool) -> dict[str, bool]:
    """The checked arguments of the mask decoder. Raises ValueError if the model does not have the mode."""
    kind.check_hq(hq_token_only)
    return {"multimask": kind.multimask(multimask), "hq_token_only": bool(hq_token_only)}


def prompt_tokens(network: Network, size: Size, prompt: Prompt) -> NDArray[np.float32]:
    """The tokens (T, 256) of the points and the box of a prompt on an image of `size` (h, w)."""
    architecture, box = network.architecture, None
    if prompt.box is not None:
        box = to_canvas(prompt.box.reshape(2, 2), size, architecture, corners=True).reshape(4)
    return network.prompt_encoder.sparse(to_canvas(prompt.points, size, architecture), prompt.labels, box)


def decoder_image(
    network: Network, image: EncodedImage, mask_input: NDArray[np.float32] | None = None, *, kept: bool = True
) -> DecoderImage:
    """The mask decoder's input for an image.

    Args:
        network: The network.
        image: The encoded image.
        mask_input: (256, 256) mask logits of the prompt, or None.
        kept: Whether the decoder caches the image's feature maps for further prompts.

    Raises:
        ValueError: The image lacks the HQ features that Light HQ-SAM needs.
    """
    if network.model.architecture.hq and image.hq_features is None:
        raise ValueError("the embedding has no HQ features, which Light HQ-SAM needs: encode the image again")
    dense = None if mask_input is None else network.prompt_encoder.dense(mask_input)
    return DecoderImage(image.features, dense, kept, image.hq_features)
