"""The reference's SamPredictor on NumPy. A script written for MobileSAM needs only another import line.

Source: the reference's predictor.py. Names, arguments, shapes, dtypes and errors are the reference's. Arrays replace
tensors, but a script that passes PyTorch tensors gets tensors back.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import kernels
from ..api import decoding
from ..api.crop_search import MASK_THRESHOLD
from ..api.embedding import Embedding
from ..api.model import MobileSAM, encode_canvas
from ..architecture import EMBED_DIM, EMBED_SIZE, LOW_RES, PIXEL_MEAN, PIXEL_STD
from ..images.arrays import ImageLike
from ..images.geometry import Size, to_canvas
from ..images.photo import IMAGE_FORMATS
from ..images.value_range import Bands, ValueRange
from ..kernels.core.check import F32
from ..network.prompt_encoder import NOT_A_POINT, PromptEncoder
from .utils.transforms import ResizeLongestSide, tensors_for

Answers = tuple[NDArray[Any], F32, F32]
_NO_IMAGE = "An image must be set with .set_image(...) before mask prediction."


class SamPredictor:
    """Predicts masks for prompts on the image that `set_image` encoded last.

    Threads may predict while another thread sets the next image. Each prediction then uses either the old image or the
    new image.
    """

    def __init__(self, sam_model: MobileSAM) -> None:
        if not isinstance(sam_model, MobileSAM):
            raise TypeError(f"sam_model must be a MobileSAM from mobilesam.load(), got {type(sam_model).__name__}")
        self.model = sam_model
        self.transform = ResizeLongestSide(sam_model.canvas_size[0])
        self._image = _NOTHING

    def set_image(
        self,
        image: ImageLike,
        image_format: str = "RGB",
        *,
        value_range: ValueRange | None = None,
        bands: Bands | None = None,
    ) -> None:
        """Encode an image for the predictions that follow. After an error, the previous image remains set.

        Args:
            image: (H, W, 3) uint8, or any other image that `MobileSAM.encode` accepts.
            image_format: "RGB" or "BGR".
            value_range: See `MobileSAM.encode`.
            bands: See `MobileSAM.encode`.

        Raises:
            AssertionError: `image_format` is neither "RGB" nor "BGR".
            OSError, TypeError, ValueError: See `MobileSAM.encode`.
        """
        if image_format not in IMAGE_FORMATS:
            raise AssertionError(f"image_format must be in {list(IMAGE_FORMATS)}, is {image_format}.")
        self._set(self.model.encode(image, image_format=image_format, value_range=value_range, bands=bands))

    def set_torch_image(self, transformed_image: Any, original_image_size: Sequence[int]) -> None:
        """Encode an image that `transform` has resized.

        Args:
            transformed_image: (1, 3, h, w), values from 0 to 255, with a longer side of 1024, or 256 for LiteMedSAM.
            original_image_size: (H, W) of the image before resizing.

        Raises:
            AssertionError: The shape of `transformed_image` is not (1, 3, h, w) with this longer side.
        """
        shape, side = tuple(transformed_image.shape), self.transform.target_length
        if len(shape) != 4 or shape[:2] != (1, 3) or max(shape[2:]) != side:
            raise AssertionError(f"set_torch_image input must be 1CHW with long side {side}, is {shape}.")
        height, width = shape[2:]
        rgb = np.asarray(transformed_image, np.float32)[0].transpose(1, 2, 0)
        if self.model.kind.architecture.preprocessing == "min_max":
            shift, scale = rgb.min(), max(np.ptp(rgb), np.float32(1e-8))
        else:
            shift, scale = np.array(PIXEL_MEAN, np.float32), np.array(PIXEL_STD, np.float32)
        x = np.zeros((side, side, 3), np.float32)
        x[:height, :width] = (rgb - shift) / scale
        features, hq_features = encode_canvas(self.model.network, x, (height, width))
        old_h, old_w = original_image_size
        size = int(old_h), int(old_w)
        self._set(Embedding(features, size, (height, width), self.model, hq_features=hq_features))

    def _set(self, embedding: Embedding) -> None:
        self._image = _Image(True, embedding.features, embedding.original_size, embedding.input_size, embedding)

    def predict(
        self,
        point_coords: ArrayLike | None = None,
        point_labels: ArrayLike | None = None,
        box: ArrayLike | None = None,
        mask_input: ArrayLike | None = None,
        multimask_output: bool | None = None,
        return_logits: bool = False,
        hq_token_only: bool = False,
    ) -> Answers:
        """Predict the masks for one prompt. As in the reference, the prompt may be empty.

        Args:
            point_coords: (N, 2), one (x, y) per row in pixels of the image. Points may lie outside the image.
            point_labels: (N,), 1 for a point on the object, 0 for a point not on it, -1 for a padding point.
            box: (4,) or (1, 4), (x0, y0, x1, y1) in pixels of the image.
            mask_input: (1, 256, 256) logits of an earlier prediction.
            multimask_output: Predict three masks. If false, predict one. None for the mode that the model was trained
                for: three masks, as in the reference, but one for LiteMedSAM. Light HQ-SAM predicts one mask either
                way, see `Embedding.segment`.
            return_logits: Return mask logits instead of masks.
            hq_token_only: For Light HQ-SAM, predict the HQ token's mask alone.

        Returns:
            masks: (C, H, W) bool, or float32 logits with `return_logits`.
            scores: (C,) float32, the model's estimate of each mask's IoU with the object.
            low_res: (C, 256, 256) float32 mask logits.

        Raises:
            AssertionError: `point_coords` is given without `point_labels`.
            RuntimeError: No image is set.
            TypeError, ValueError: An argument has an invalid type or shape, or is not finite.
        """
        embedding = self._require_embedding(_NO_IMAGE)
        size, architecture = embedding.original_size, self.model.kind.architecture
        if point_coords is not None:
            point_coords = to_canvas(_numbers(point_coords, "point_coords", "N", 2), size, architecture)[None]
            if point_labels is not None:
                point_labels = _numbers(point_labels, "point_labels", point_coords.shape[1])[None]
        if box is not None:
            box = _numbers(np.reshape(box, -1) if np.shape(box) == (1, 4) else box, "box", 4)
            box = to_canvas(box.reshape(2, 2), size, architecture, corners=True).reshape(1, 4)
        if mask_input is not None:
            mask_input = _numbers(mask_input, "mask_input", 1, LOW_RES, LOW_RES)[None]
        prompts, masks = _checked_batch(point_coords, point_labels, box, mask_input)
        answers = _predict(embedding, prompts, masks, multimask_output, return_logits, hq_token_only)
        return answers[0][0], answers[1][0], answers[2][0]

    def predict_torch(
        self,
        point_coords: Any = None,
        point_labels: Any = None,
        boxes: Any = None,
        mask_input: Any = None,
        multimask_output: bool | None = None,
        return_logits: bool = False,
        hq_token_only: bool = False,
    ) -> tuple[Any, Any, Any]:
        """Predict the masks for a batch of B prompts, given as arrays or tensors.

        Args:
            point_coords: (B, N, 2), in pixels of the resized image (see `transform`).
            point_labels: (B, N).
            boxes: (B, 4), in pixels of the resized image.
            mask_input: (B, 1, 256, 256), or (1, 1, 256, 256) for all prompts.
            multimask_output: See `predict`.
            return_logits: See `predict`.
            hq_token_only: See `predict`.

        Returns:
            Masks (B, C, H, W), scores (B, C) and mask logits (B, C, 256, 256). They are tensors if any argument is a
            tensor, else arrays.

        Raises:
            AssertionError, RuntimeError, TypeError, ValueError: See `predict`.
        """
        embedding = self._require_embedding(_NO_IMAGE)
        given = (point_coords, point_labels, boxes, mask_input)
        prompts, masks = _checked_batch(*given)
        answers = _predict(embedding, prompts, masks, multimask_output, return_logits, hq_token_only)
        one, two, three = tensors_for(given, *answers)
        return one, two, three

    def get_image_embedding(self) -> F32:
        """The embedding (1, 256, 64, 64) of the image. Raises RuntimeError if no image is set."""
        embedding = self._require_embedding("An image must be set with .set_image(...) to generate an embedding.")
        return _channels_first(embedding.features)

    def reset_image(self) -> None:
        """Forget the image."""
        self._image = _NOTHING

    @property
    def embedding(self) -> Embedding:
        """The image as an `Embedding` of this package. Raises RuntimeError if no image is set."""
        return self._require_embedding(_NO_IMAGE)

    @property
    def is_image_set(self) -> bool:
        """Whether an image is set. Can be set, as in the reference."""
        return self._image.is_set

    @is_image_set.setter
    def is_image_set(self, is_set: bool) -> None:
        self._image = replace(self._image, is_set=bool(is_set))

    @property
    def features(self) -> F32 | None:
        """The embedding (1, 256, 64, 64) of the image, or None if there is none.

        Can be set to a stored embedding: an array or a tensor (1, 256, 64, 64). `original_size`, `input_size` and
        `is_image_set` must be set too, in any order.

        Raises:
            ValueError: The value that is set has another shape, or is not finite.
        """
        features = self._image.features
        return None if features is None else _channels_first(features)

    @features.setter
    def features(self, features: Any) -> None:
        kept = None
        if features is not None:
            shape = 1, EMBED_DIM, EMBED_SIZE, EMBED_SIZE
            kept = np.ascontiguousarray(_numbers(features, "features", *shape)[0].transpose(1, 2, 0), np.float32)
            kept.flags.writeable = False
        self._image = replace(self._image, features=kept, embedding=None)

    @property
    def original_size(self) -> Size:
        """(H, W) of the image. Can be set, see `features`. Raises RuntimeError if there is no image."""
        return _known(self._image.original_size)

    @original_size.setter
    def original_size(self, size: Sequence[int] | None) -> None:
        self._image = replace(self._image, original_size=_size(size, "original_size"), embedding=None)

    @property
    def input_size(self) -> Size:
        """(h, w) of the resized image. Can be set, see `features`. Raises RuntimeError if there is no image."""
        return _known(self._image.input_size)

    @input_size.setter
    def input_size(self, size: Sequence[int] | None) -> None:
        self._image = replace(
            self._image, input_size=_size(size, "input_size", self.transform.target_length), embedding=None
        )

    @property
    def device(self) -> str:
        """Always "cpu"."""
        return "cpu"

    def _require_embedding(self, message: str) -> Embedding:
        image = self._image  # read once, because another thread may set the next image
        if not image.is_set:
            raise RuntimeError(message)
        if image.embedding is not None:
            return image.embedding
        if image.features is None or image.original_size is None or image.input_size is None:
            raise RuntimeError("is_image_set is true: set features, original_size and input_size too")
        embedding = Embedding(image.features, image.original_size, image.input_size, self.model)
        if self._image is image:
            self._image = replace(image, embedding=embedding)
        return embedding


@dataclass(frozen=True, eq=False)
class _Image:
    """The state of a predictor. A new state replaces the old one at once, for other threads that predict.

    `embedding` holds the other values as an `Embedding`, or is None if one of them was set on its own.
    """

    is_set: bool
    features: F32 | None
    original_size: Size | None
    input_size: Size | None
    embedding: Embedding | None


_NOTHING = _Image(False, None, None, None, None)


def _channels_first(features: F32) -> F32:
    return np.ascontiguousarray(features.transpose(2, 0, 1)[None])


def _known(size: Size | None) -> Size:
    if size is None:
        raise RuntimeError(_NO_IMAGE)
    return size


def _size(size: Sequence[int] | None, name: str, most: int | None = None) -> Size | None:
    if size is None:
        return None
    try:
        height, width = map(operator.index, size)
    except (TypeError, ValueError):
        height = width = 0
    if min(height, width) < 1 or (most is not None and max(height, width) > most):
        limit = "" if most is None else f" of at most {most}"
        raise ValueError(f"{name} must be (height, width), whole numbers{limit}, got {size!r}")
    return height, width


@dataclass(frozen=True, eq=False)
class _OnePrompt:
    """One prompt of a batch, in pixels of the canvas: points (N, 2) or None, labels (N,), box (4,) or None."""

    points: F32 | None
    labels: NDArray[np.int32]
    box: F32 | None

    def tokens(self, encoder: PromptEncoder) -> F32:
        """The prompt's tokens (T, 256)."""
        if self.points is None:
            return encoder.sparse(np.empty((0, 2), np.float32), self.labels, self.box)
        if not len(self.points) and self.box is None:  # the reference adds a padding point to an empty array of points
            return encoder.sparse(np.zeros((1, 2), np.float32), np.array([NOT_A_POINT]), None)[:1]
        return encoder.sparse(self.points, self.labels, self.box)


def _predict(
    embedding: Embedding,
    prompts: list[_OnePrompt],
    mask_input: F32 | None,
    multimask_output: bool | None,
    return_logits: bool,
    hq_token_only: bool,
) -> Answers:
    """Predict masks for a batch of prompts. `mask_input` is (B, 256, 256), or (1, 256, 256) for all prompts."""
    model, network = embedding.model, embedding.model.network
    mode = decoding.mode(model.kind, multimask_output, hq_token_only)
    count = 3 if mode["multimask"] and not model.kind.architecture.hq else 1
    masks = np.empty((len(prompts), count, *embedding.original_size), np.float32 if return_logits else np.bool_)
    scores = np.empty((len(prompts), count), np.float32)
    low_res = np.empty((len(prompts), count, LOW_RES, LOW_RES), np.float32)
    tokens = [prompt.tokens(network.prompt_encoder) for prompt in prompts]
    every_mask = [None] if mask_input is None else mask_input
    # Prompts with the same mask input are decoded together.
    groups = [tokens] if len(every_mask) == 1 else [[prompt_tokens] for prompt_tokens in tokens]
    answers = (
        answer
        for mask, group in zip(every_mask, groups, strict=True)
        for answer in network.mask_decoder.masks(decoding.decoder_image(network, embedding, mask), group, **mode)
    )
    for i, answer in enumerate(answers):
        scores[i], low_res[i] = answer
        kernels.resize_logits(
            low_res[i],
            padded=model.canvas_size,
            crop=embedding.input_size,
            size=embedding.original_size,
            threshold=None if return_logits else MASK_THRESHOLD,
            out=masks[i],
            threads=model.threads,
        )
    return masks, scores, low_res


def _checked_batch(
    point_coords: Any, point_labels: Any, boxes: Any, mask_input: Any
) -> tuple[list[_OnePrompt], F32 | None]:
    """The prompts and the mask inputs (B or 1, 256, 256). B is the arguments' first axis, or 1 if all are None."""
    points = labels = corners = masks = None
    sizes = {}
    if point_coords is not None:
        if point_labels is None:
            raise AssertionError("point_labels must be supplied if point_coords is supplied.")
        points = _numbers(point_coords, "point_coords", "B", "N", 2).astype(np.float32)
        labels = _checked_labels(_numbers(point_labels, "point_labels", *points.shape[:2]))
        sizes["point_coords"] = len(points)
    if boxes is not None:
        corners = _numbers(boxes, "boxes", "B", 4).astype(np.float32)
        sizes["boxes"] = len(corners)
    if mask_input is not None:
        masks = _numbers(mask_input, "mask_input", "B", 1, LOW_RES, LOW_RES).astype(np.float32)[:, 0]
        if len(masks) != 1 or not sizes:
            sizes["mask_input"] = len(masks)
    if len(set(sizes.values())) > 1:
        counts = ", ".join(f"{size} {name}" for name, size in sizes.items())
        raise ValueError(f"a batch needs the same number of each kind of prompt, got {counts}")
    none = np.empty(0, np.int32)
    return [
        _OnePrompt(
            None if points is None else points[i],
            none if labels is None else labels[i],
            None if corners is None else corners[i],
        )
        for i in range(max(sizes.values(), default=1))
    ], masks


def _checked_labels(labels: NDArray[np.float64]) -> NDArray[np.int32]:
    wrong = labels[~np.isin(labels, (1, 0, NOT_A_POINT))]
    if wrong.size:
        raise ValueError(f"a label is 1 (on the object), 0 (not on it) or -1 (padding), got {wrong[0]:g}")
    return labels.astype(np.int32)


def _numbers(values: Any, name: str, *shape: int | str) -> NDArray[np.float64]:
    """Check that `values` are finite numbers of this shape. A letter in the shape matches any length."""
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} must be numbers, got dtype {array.dtype}")
    fits = [isinstance(want, str) or want == got for want, got in zip(shape, array.shape)]
    if array.ndim != len(shape) or not all(fits):
        raise ValueError(f"{name} must be of shape ({', '.join(map(str, shape))}), got {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, got NaN or infinity")
    return array.astype(np.float64)
