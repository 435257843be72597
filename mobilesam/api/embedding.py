"""Encoded images, which answer prompts, and their answers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from .. import kernels
from ..checkpoints import models
from ..checkpoints.fused import Checkpoint
from ..images.arrays import ImageLike
from ..images.geometry import Size
from ..images.value_range import Bands, ValueRange
from ..masks import rle
from ..masks.objects import UNNAMED, SegmentedObject
from ..network.loading import Network
from ..util.deferred import lazy
from . import decoding, embedding_file
from .prompts import Prompt, check_mapping, check_prompt, prompts_of_arrays

if TYPE_CHECKING:
    from ..checkpoints.reader import ConvertedCheckpoint


class Model(Protocol):
    """The model of an embedding: a `MobileSAM`, which describes the attributes."""

    network: Network
    checkpoint: Checkpoint | ConvertedCheckpoint
    precision: str
    kind: models.Model
    canvas_size: Size

    @property
    def threads(self) -> int: ...


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The masks that the model predicts for one prompt.

    C is the number of masks: 3 with `multimask` (the model's mask tokens 1 to 3), else 1 (token 0). Light HQ-SAM always
    predicts 1 mask.

    Attributes:
        scores: (C,) float32. The model's estimate of each mask's IoU with the object. It may exceed 1.
        low_res: (C, 256, 256) float32 mask logits, read-only. A mask's logits can be the next prompt's `mask_input`.
        prompt: The prompt, in pixels of the image.
        embedding: The encoded image.
    """

    scores: NDArray[np.float32]
    low_res: NDArray[np.float32]
    prompt: Prompt
    embedding: Embedding

    def __repr__(self) -> str:
        height, width = self.embedding.original_size
        scores = ", ".join(f"{score:.3f}" for score in self.scores)
        return f"<Segmentation: masks of {width}x{height} pixels, scores {scores}>"

    def __reduce__(self) -> tuple[Any, ...]:
        # A pickle leaves out the cached masks.
        return _segmentation, (self.embedding, self.prompt, self.scores, self.low_res)

    @property
    def best(self) -> int:
        """Index of the mask with the highest score."""
        return int(self.scores.argmax())

    @lazy
    def masks(self) -> NDArray[np.bool_]:
        """The masks (C, H, W) bool in the size of the image, computed on first access."""
        return self._resized(slice(None))

    @lazy
    def mask(self) -> NDArray[np.bool_]:
        """The mask (H, W) bool with the highest score, computed on first access without the other masks."""
        masks = self.__dict__.get("masks")
        mask: NDArray[np.bool_] = (
            self._resized(slice(self.best, self.best + 1))[0] if masks is None else masks[self.best]
        )
        return mask

    def _resized(self, wanted: slice) -> NDArray[np.bool_]:
        return kernels.resize_logits(
            self.low_res[wanted],
            crop=self.embedding.input_size,
            size=self.embedding.original_size,
            padded=self.embedding.model.canvas_size,
            threshold=0.0,
            threads=self.embedding.model.threads,
        )

    def refine(
        self,
        points: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        *,
        box: ArrayLike | None = None,
        multimask: bool | None = None,
        hq_token_only: bool = False,
    ) -> Segmentation:
        """Segment again with the best mask's logits and more points, as annotation tools do at each further click.

        Args:
            points: (P, 2) points to add to those of the prompt.
            labels: (P,) labels of the added points.
            box: A box that replaces the prompt's box. None keeps the prompt's box.
            multimask: Predict three masks. By default one mask is predicted, as the reference advises for a prompt with
                `mask_input`. TinySAM always predicts three.
            hq_token_only: See `Embedding.segment`.

        Raises:
            TypeError, ValueError: See `Embedding.segment`.
        """
        more = check_prompt(self.embedding.original_size, points, labels, box, self.low_res[self.best])
        prompt = Prompt(
            np.concatenate([self.prompt.points, more.points]),
            np.concatenate([self.prompt.labels, more.labels]),
            self.prompt.box if more.box is None else more.box,
            more.mask_input,
        )
        multimask = self.embedding.model.kind.always_three if multimask is None else multimask
        return answer(self.embedding, prompt, multimask, hq_token_only)

    def overlay(
        self,
        image: ImageLike,
        *,
        prompt: bool = True,
        value_range: ValueRange | None = None,
        bands: Bands | None = None,
    ) -> Image.Image:
        """Draw the best mask on the image, as a translucent colour with an outline.

        Args:
            image: The image that was segmented, in any form that `MobileSAM.encode` accepts.
            prompt: Also draw the prompt's points and box.
            value_range: See `MobileSAM.encode`. None for the range that the image was encoded with.
            bands: See `MobileSAM.encode`.

        Returns:
            An RGB image of the same size as `image`.

        Raises:
            ValueError: The image's size is not the masks' size.
            OSError, TypeError, ValueError: The image cannot be opened. See `MobileSAM.encode`.
        """
        from ..masks.draw import draw_overlay, draw_prompt  # imported here, because most answers are not drawn

        value_range = self.embedding.value_range if value_range is None else value_range
        picture = draw_overlay(image, self.mask, value_range=value_range, bands=bands)
        return draw_prompt(picture, self.prompt.points, self.prompt.labels, self.prompt.box) if prompt else picture

    def cutout(
        self,
        image: ImageLike,
        *,
        crop: bool = False,
        value_range: ValueRange | None = None,
        bands: Bands | None = None,
    ) -> Image.Image:
        """Cut the best mask's object out of the image, as an RGBA image.

        See `mobilesam.results.cutout`, and `overlay` for `value_range`.
        """
        from ..masks.draw import cutout

        value_range = self.embedding.value_range if value_range is None else value_range
        return cutout(image, [self.as_object()], crop=crop, value_range=value_range, bands=bands)

    def as_object(self, name: str = UNNAMED) -> SegmentedObject:
        """The best mask and its score as a named object, for the functions of `mobilesam.results`."""
        return SegmentedObject(self.mask, name, float(self.scores[self.best]), file_name=self.embedding.name)

    def save(self, path: str | os.PathLike[str], *, name: str = UNNAMED) -> None:
        """Write the best mask to a file. A failure leaves no partial file.

        In .json, the image's `file_name` is the name of the embedding.

        Args:
            path: The file to write. Its extension sets the format: .json (COCO), .geojson or .svg (see
                `mobilesam.results`), or a format of Pillow for an 8-bit gray picture, 255 inside the mask, 0 outside.
            name: Name of the object in .json, .geojson and .svg.

        Raises:
            ValueError: Pillow cannot write the extension.
            OSError: The folder does not exist or is not writable.
        """
        from ..images.pictures import mask_image, save_image
        from ..masks import export

        if Path(path).suffix.lower() in export.SUFFIXES:
            export.save([self.as_object(name)], path)
        else:
            save_image(mask_image(self.mask), path)


@dataclass(frozen=True)
class ScoredRLE:
    """One mask of `Embedding.segment_rle`.

    Attributes:
        index: Index of the mask among the prompt's masks.
        score: The model's estimate of the mask's IoU with the object.
        rle: COCO run lengths of the mask. See `mobilesam.rle`.
    """

    index: int
    score: float
    rle: rle.UncompressedRLE


@dataclass(frozen=True, eq=False)
class Embedding:
    """An encoded image. It is immutable, so any number of threads may use it at once.

    A pickle or a deep copy holds the features (4 MB, with HQ features 12 MB), and the SHA-256 and path of the model's
    checkpoint instead of the model. Unpickling uses a loaded model with this SHA-256 and the same precision. If no such
    model is loaded, unpickling loads the checkpoint from the package, from the download folder, or from its former
    path, and raises CheckpointError if none of these files has this SHA-256.

    Attributes:
        features: (64, 64, 256) float32, read-only.
        original_size: (h, w) of the image.
        input_size: (h, w) of the part of the model's canvas that the image fills. The canvas is 1024×1024, or 256×256
            for LiteMedSAM.
        model: The model that encoded the image.
        name: File name of the image, without folders. Empty if the image did not come from a file.
        value_range: The `value_range` that the image was opened with. See `MobileSAM.encode`.
        hq_features: (256, 256, 32) float32, read-only, the image's features for the HQ token. None if the model is not
            Light HQ-SAM.
    """

    features: NDArray[np.float32]
    original_size: Size
    input_size: Size
    model: Model
    name: str = ""
    value_range: ValueRange = "dtype"
    hq_features: NDArray[np.float32] | None = None

    def __repr__(self) -> str:
        height, width = self.original_size
        return f"<Embedding of an image of {width}x{height} pixels>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _embedding, (
            self.features, self.original_size, self.input_size, self.model, self.name, self.value_range,
            self.hq_features,
        )  # fmt: skip

    def segment(
        self,
        points: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        *,
        box: ArrayLike | None = None,
        mask_input: ArrayLike | None = None,
        multimask: bool | None = None,
        hq_token_only: bool = False,
    ) -> Segmentation:
        """Predict the masks for a prompt. A prompt is any combination of points, a box and mask logits.

        Args:
            points: (P, 2), one (x, y) per row in pixels of the image, 0 <= x <= w and 0 <= y <= h. An empty array is
                the same as None.
            labels: (P,), 1 for a point on the object, 0 for a point not on it. Default: all 1.
            box: (x0, y0, x1, y1) in pixels of the image. A box that lies partly outside the image is clipped.
            mask_input: (256, 256) or (1, 256, 256) float logits, such as `low_res[best]` of an earlier segmentation, or
                a boolean mask (H, W) of the image's size.
            multimask: Predict three masks. If false, predict one. None for the mode that the model was trained for:
                three masks, but one for LiteMedSAM. Light HQ-SAM predicts one mask either way: its mask adds the HQ
                token's mask to the best of the three, or to the one.
            hq_token_only: For Light HQ-SAM, predict the HQ token's mask alone.

        Warns:
            UserWarning: The box was clipped.

        Raises:
            TypeError: An argument does not hold numbers of the expected type.
            ValueError: The prompt is empty, an argument has an invalid shape or value, or the model does not have the
                mode that `multimask` or `hq_token_only` asks for.
        """
        prompt = check_prompt(self.original_size, points, labels, box, mask_input)
        return answer(self, prompt, multimask, hq_token_only)

    def segment_rle(
        self,
        points: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        *,
        box: ArrayLike | None = None,
        mask_input: ArrayLike | None = None,
        multimask: bool | None = None,
        hq_token_only: bool = False,
        size: Size | None = None,
        only_best: bool = False,
    ) -> list[ScoredRLE]:
        """Predict the masks of `segment` as run lengths. No array of the image's size is allocated.

        The errors, and all arguments except `size` and `only_best`, are those of `segment`.

        Args:
            size: (h, w) of the masks. None for the size of the image. The prompt is in pixels of the image either way.
            only_best: Return only the mask with the highest score.
        """
        prompt = check_prompt(self.original_size, points, labels, box, mask_input)
        scores, low_res = decoding.masks(self.model.network, self, prompt, multimask, hq_token_only)
        best = int(scores.argmax())
        wanted = range(best, best + 1) if only_best else range(len(scores))
        size = self.original_size if size is None else size
        all_runs, _ = kernels.mask_runs(
            low_res[wanted.start : wanted.stop],
            crop=self.input_size,
            size=size,
            padded=self.model.canvas_size,
            threshold=0.0,
            threads=self.model.threads,
        )
        return [
            ScoredRLE(i, float(scores[i]), {"size": list(size), "counts": rle.from_runs(runs, size).tolist()})
            for i, runs in zip(wanted, all_runs)
        ]

    def segment_many(
        self,
        prompts: Iterable[Mapping[str, ArrayLike | None]] | None = None,
        *,
        points: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        boxes: ArrayLike | None = None,
        multimask: bool | None = None,
        hq_token_only: bool = False,
    ) -> Iterator[Segmentation]:
        """Predict the masks for many prompts, in order. Masks are computed as the iterator advances.

        The prompts are mappings, or the rows of arrays. The results are bit-identical to those of `segment`.
        Consecutive prompts are faster than separate calls if they have the same number of points, and either all of
        them or none of them have a box.

        Args:
            prompts: Mappings from argument names of `segment` to their values, such as {"points": [(20, 30)]} or
                {"box": (0, 0, 40, 50)}. Different prompts may have different names.
            points: (N, K, 2), K points for each of N prompts, in place of `prompts`.
            labels: (N, K), the labels of `points`. Default: all 1.
            boxes: (N, 4), a box for each of N prompts, in place of `prompts` or beside `points`.
            multimask: See `segment`.
            hq_token_only: See `segment`.

        Raises:
            TypeError, ValueError: See `segment`. All prompts are checked before the first is segmented. The message
                begins with the index of the invalid prompt. ValueError is also raised if both mappings and arrays are
                given, or none of them, or if the arrays have different lengths.
        """
        arrays = [points, labels, boxes]
        if (prompts is None) == all(array is None for array in arrays):
            raise ValueError("give prompts, or the arrays points, labels and boxes, but not both")
        if prompts is None:
            prompts = prompts_of_arrays(points, labels, boxes)
        checked = [check_mapping(i, prompt, self.original_size) for i, prompt in enumerate(prompts)]
        mode = decoding.mode(self.model.kind, multimask, hq_token_only)  # checked before the first answer is asked for
        answers = decoding.masks_of_many(self.model.network, self, checked, mode)
        return (_segmentation(self, prompt, *masks) for prompt, masks in zip(checked, answers, strict=True))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the embedding to a safetensors file of 4 MB (12 MB with HQ features). A failure leaves no partial file.

        The file also holds the image's sizes, name and value range, the SHA-256 of the model's checkpoint, and the
        model's architecture and precision.

        Raises:
            OSError: The file cannot be written.
        """
        source = embedding_file.Source(self.original_size, self.input_size, self.name, self.value_range)
        features = embedding_file.Features(self.features, self.hq_features)
        embedding_file.write(path, features, source, _maker(self.model))

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: Model | None = None) -> Embedding:
        """Load an embedding that `save` wrote.

        Args:
            path: The file to read.
            model: A model with the checkpoint and precision that encoded the image. None for the packaged checkpoint,
                which is loaded once per process.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is not an embedding, is damaged, or comes from another checkpoint or precision.
        """
        if model is None:
            assert _default_model is not None, "the module mobilesam.api.model sets it"
            model = _default_model()
        features, source = embedding_file.read(path, _maker(model))
        return cls(
            features.image, source.original_size, source.input_size, model, source.name, source.value_range, features.hq
        )


def answer(
    embedding: Embedding,
    prompt: Prompt,
    multimask: bool | None,
    hq_token_only: bool = False,
    *,
    once: bool = False,
) -> Segmentation:
    """Segment a checked prompt. See `Embedding.segment`, and `decoding.masks` for `once`."""
    masks = decoding.masks(embedding.model.network, embedding, prompt, multimask, hq_token_only, once=once)
    return _segmentation(embedding, prompt, *masks)


def _segmentation(
    embedding: Embedding, prompt: Prompt, scores: NDArray[np.float32], low_res: NDArray[np.float32]
) -> Segmentation:
    low_res.flags.writeable = False  # because the masks are computed from low_res later
    return Segmentation(scores, low_res, prompt, embedding)


def _embedding(*fields: Any) -> Embedding:
    embedding = Embedding(*fields)
    for array in (embedding.features, embedding.hq_features):
        if array is not None:
            array.flags.writeable = False
    return embedding


def _maker(model: Model) -> embedding_file.Maker:
    return embedding_file.Maker(model.checkpoint.sha256, model.precision, model.network.architecture)


_default_model: Callable[[], Model] | None = None


def set_default_model(default_model: Callable[[], Model]) -> None:
    """Set the function that returns the model of `Embedding.load`.

    The module `model` calls this function, because it imports this module.
    """
    global _default_model
    _default_model = default_model
