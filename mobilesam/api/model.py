"""The public interface: load a model, encode an image once, segment any number of prompts on it."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from .. import kernels
from ..checkpoints.errors import CheckpointError
from ..checkpoints.fused import Checkpoint
from ..checkpoints.models import DEFAULT_MODEL, MODELS
from ..checkpoints.published import PUBLISHED, cached_path, is_downloaded
from ..images.arrays import ImageLike
from ..images.canvas import to_encoder_input
from ..images.geometry import Size, to_canvas
from ..images.photo import as_photo
from ..images.value_range import Bands, ValueRange, checked_range
from ..masks import rle
from ..masks.objects import UNNAMED, SegmentedObject
from ..network.decoder_image import DecoderImage
from ..network.loading import IMAGES, Network, load_network
from ..network.precision import resolve
from ..util.deferred import ForkSafeLock, Once, lazy
from ..weights import default_path
from . import embedding_file
from .prompts import Prompt, check_mapping, check_prompt, prompts_of_arrays

if TYPE_CHECKING:
    from ..network.image_encoder import ImageEncoder
    from ..network.mask_decoder import MaskDecoder
    from ..network.prompt_encoder import PromptEncoder


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
        model = self.embedding.model
        multimask = model.kind.always_three if multimask is None else multimask
        return model._answer(self.embedding, prompt, multimask, hq_token_only)

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
    model: MobileSAM
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
        return self.model._answer(self, prompt, multimask, hq_token_only)

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
        scores, low_res = self.model._masks(self, prompt, multimask, hq_token_only)
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
        return self.model._answers(self, checked, multimask, hq_token_only)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the embedding to a safetensors file of 4 MB (12 MB with HQ features). A failure leaves no partial file.

        The file also holds the image's sizes, name and value range, the SHA-256 of the model's checkpoint, and the
        model's architecture and precision.

        Raises:
            OSError: The file cannot be written.
        """
        source = embedding_file.Source(self.original_size, self.input_size, self.name, self.value_range)
        features = embedding_file.Features(self.features, self.hq_features)
        embedding_file.write(path, features, source, self.model._maker())

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: MobileSAM | None = None) -> Embedding:
        """Load an embedding that `save` wrote.

        Args:
            path: The file to read.
            model: A model with the checkpoint and precision that encoded the image. None for the packaged checkpoint,
                which is loaded once per process.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is not an embedding, is damaged, or comes from another checkpoint or precision.
        """
        model = default_model() if model is None else model
        features, source = embedding_file.read(path, model._maker())
        return cls(
            features.image, source.original_size, source.input_size, model, source.name, source.value_range, features.hq
        )


class MobileSAM:
    """A loaded model. It is immutable, so any number of threads may use it at once.

    A pickle or a deep copy holds the checkpoint's SHA-256 and path, not the weights. See `Embedding` for how unpickling
    finds the model.

    Attributes:
        checkpoint: The checkpoint that the weights come from.
        precision: "fp32", "bf16" or "int8".
        kind: The published model that the checkpoint is, or was trained from.
        architecture: Name of the architecture: "mobile_sam", "lite_medsam" or "hq_sam".
        canvas_size: (h, w) of the canvas that images are resized to, in pixels.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self.checkpoint, self.precision, self.kind = network.checkpoint, network.precision, network.model
        self.architecture = network.architecture.name
        self.canvas_size: Size = (network.architecture.img_size, network.architecture.img_size)
        with _loaded_lock:
            _loaded.add(self)

    def __reduce__(self) -> tuple[Any, ...]:
        checkpoint, network = self.checkpoint, self._network
        decoder = None if isinstance(checkpoint, Checkpoint) else checkpoint.decoder
        paths = checkpoint.path.absolute(), decoder and decoder.absolute()
        return _find_model, (
            checkpoint.sha256, self.precision, paths, network.threads, network.images, self.kind.name
        )  # fmt: skip

    @property
    def threads(self) -> int:
        """Number of threads that the next call uses.

        The number is smaller than the number given to `load` in a build without OpenMP (1), and if the operating system
        does not let this process start more threads. To find out, threads are started and ended, unless this Python
        thread has computed on as many threads before.
        """
        return kernels.threads.usable(self._network.threads)

    @property
    def image_encoder(self) -> ImageEncoder:
        """The image encoder: a canvas (S, S, 3) float32, normalised and padded, to features (64, 64, 256) float32."""
        return self._network.image_encoder

    @property
    def prompt_encoder(self) -> PromptEncoder:
        """The prompt encoder: points, boxes and mask logits to embeddings for the mask decoder."""
        return self._network.prompt_encoder

    @property
    def mask_decoder(self) -> MaskDecoder:
        """The mask decoder: image features and a prompt's embeddings to mask logits and scores."""
        return self._network.mask_decoder

    def encode(
        self,
        image: ImageLike,
        *,
        image_format: str = "RGB",
        value_range: ValueRange | None = None,
        bands: Bands | None = None,
    ) -> Embedding:
        """Encode an image.

        Args:
            image: A path, bytes, a file object, a PIL image or an array. See `mobilesam.images.photo.open_rgb`.
            image_format: "RGB", or "BGR" for an array with channels in this order.
            value_range: The values that become black and white: "dtype" for the range of the dtype; "minmax" for the
                smallest and the largest value of the image; "minmax-channel" for those of each channel; or (low, high).
                None for the model's own: "minmax-channel" for micro-sam's models, else "dtype".
            bands: Three numbers, from 0, of the bands of a file, or channels of an array, that are red, green and blue.

        Warns:
            UserWarning: 16-bit values use less than 1/8 of their range, and no value range is given.

        Raises:
            OSError: The file cannot be opened.
            TypeError: The argument is not an image.
            ValueError: The image is damaged or empty, has too many pixels, or has values outside the accepted range.
        """
        value_range = checked_range(self.kind.value_range if value_range is None else value_range)
        photo = as_photo(image, image_format, value_range=value_range, bands=bands)
        x, input_size = to_encoder_input(photo, self._network.architecture, threads=self._network.threads)
        features, hq_features = self._features(x, input_size)
        return Embedding(features, photo.original_size, input_size, self, photo.name, value_range, hq_features)

    def _features(
        self, x: NDArray[np.float32], input_size: Size
    ) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """The features of a canvas and, for Light HQ-SAM, the HQ features. Both are read-only."""
        features, after_stage_1 = self.image_encoder.encode(x, input_size)
        features.flags.writeable = False
        if after_stage_1 is None or self.mask_decoder.hq is None:
            return features, None
        hq_features = self.mask_decoder.hq.features(features, after_stage_1)
        hq_features.flags.writeable = False
        return features, hq_features

    def _maker(self) -> embedding_file.Maker:
        return embedding_file.Maker(self.checkpoint.sha256, self.precision, self._network.architecture)

    def _masks(
        self,
        embedding: Embedding,
        prompt: Prompt,
        multimask: bool | None,
        hq_token_only: bool = False,
        *,
        once: bool = False,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The mask scores (C,) and the low-resolution mask logits (C, 256, 256) of a prompt.

        With `once`, the decoder caches no feature maps of the image for further prompts. This is faster for a single
        prompt, and the result differs only by rounding.
        """
        mode = self._mode(multimask, hq_token_only)
        image = self._image(embedding, prompt.mask_input, kept=not once)
        (masks,) = self.mask_decoder.masks(image, [self._tokens(embedding, prompt)], **mode)
        return masks

    def _mode(self, multimask: bool | None, hq_token_only: bool) -> dict[str, bool]:
        """The checked arguments of the mask decoder."""
        self.kind.check_hq(hq_token_only)
        return {"multimask": self.kind.multimask(multimask), "hq_token_only": bool(hq_token_only)}

    def _tokens(self, embedding: Embedding, prompt: Prompt) -> NDArray[np.float32]:
        size, architecture, box = embedding.original_size, self._network.architecture, None
        if prompt.box is not None:
            box = to_canvas(prompt.box.reshape(2, 2), size, architecture, corners=True).reshape(4)
        return self.prompt_encoder.sparse(to_canvas(prompt.points, size, architecture), prompt.labels, box)

    def _answer(
        self,
        embedding: Embedding,
        prompt: Prompt,
        multimask: bool | None,
        hq_token_only: bool = False,
        *,
        once: bool = False,
    ) -> Segmentation:
        return _segmentation(embedding, prompt, *self._masks(embedding, prompt, multimask, hq_token_only, once=once))

    def _answers(
        self, embedding: Embedding, prompts: Sequence[Prompt], multimask: bool | None, hq_token_only: bool
    ) -> Iterator[Segmentation]:
        """The segmentation of each prompt, in order. Prompts without a mask input share the image's feature maps."""
        mode = self._mode(multimask, hq_token_only)  # checked now, before the first answer is asked for
        return self._each_answer(embedding, prompts, mode)

    def _each_answer(
        self, embedding: Embedding, prompts: Sequence[Prompt], mode: dict[str, bool]
    ) -> Iterator[Segmentation]:
        for shared, alike in groupby(prompts, key=lambda prompt: prompt.mask_input is None):
            group = list(alike)
            if not shared:
                yield from (self._answer(embedding, prompt, **mode) for prompt in group)
                continue
            sparse = (self._tokens(embedding, prompt) for prompt in group)
            answers = self.mask_decoder.masks(self._image(embedding), sparse, **mode)
            for prompt, answer in zip(group, answers, strict=True):
                yield _segmentation(embedding, prompt, *answer)

    def _image(
        self, embedding: Embedding, mask_input: NDArray[np.float32] | None = None, *, kept: bool = True
    ) -> DecoderImage:
        if self.kind.architecture.hq and embedding.hq_features is None:
            raise ValueError("the embedding has no HQ features, which Light HQ-SAM needs: encode the image again")
        dense = None if mask_input is None else self.prompt_encoder.dense(mask_input)
        return DecoderImage(embedding.features, dense, kept, embedding.hq_features)


def _segmentation(
    embedding: Embedding, prompt: Prompt, scores: NDArray[np.float32], low_res: NDArray[np.float32]
) -> Segmentation:
    low_res.flags.writeable = False  # because the masks are computed from low_res later
    return Segmentation(scores, low_res, prompt, embedding)


_loaded: weakref.WeakSet[MobileSAM] = weakref.WeakSet()
_loaded_lock = ForkSafeLock()
_unpickled: MobileSAM | None = None  # keeps the last unpickled model alive, because _loaded holds weak references


def _embedding(*fields: Any) -> Embedding:
    embedding = Embedding(*fields)
    for array in (embedding.features, embedding.hq_features):
        if array is not None:
            array.flags.writeable = False
    return embedding


def _find_model(
    sha256: str, precision: str, paths: tuple[Path, Path | None], threads: int, images: int, model: str
) -> MobileSAM:
    """Find a model by its checkpoint's SHA-256, its precision and its name, or load one.

    The checkpoint can be at `paths`, the paths of the checkpoint and of its decoder file, if it has one, or in the
    package, or in the download folder. Raises CheckpointError if none of these files has this SHA-256.
    """
    global _unpickled
    with _loaded_lock:
        loaded = list(_loaded)
    for each in loaded:
        if (each.precision, each.kind.name) == (precision, model) and each.checkpoint.sha256 == sha256:
            return each
    from ..checkpoints.reader import open_source  # imported here, because only unpickling needs this module

    others = default_path(), *map(cached_path, filter(is_downloaded, PUBLISHED))
    for source, decoder in (paths, *((path, None) for path in others)):
        try:
            checkpoint = open_source(source, decoder)
            if checkpoint.sha256 == sha256:
                network = Network(checkpoint, threads, resolve(precision), images=images, model=model)
                _unpickled = MobileSAM(network.loaded())
                return _unpickled
        except (CheckpointError, OSError):
            continue
    raise CheckpointError(
        f"{paths[0]}: the file is missing or has changed, and a pickled model, embedding or segmentation needs its "
        f"checkpoint with SHA-256 {sha256[:16]}...: load this checkpoint first, with "
        f"mobilesam.load(FILE, precision={precision!r})"
    )


def load(
    weights: str | os.PathLike[str] | None = None,
    *,
    threads: int | None = None,
    precision: str | None = None,
    images: int = IMAGES,
    model: str | None = None,
    decoder: str | os.PathLike[str] | None = None,
) -> MobileSAM:
    """Load a model: MobileSAM, or another SAM with MobileSAM's encoder (docs/models.md).

    Args:
        weights: A checkpoint: a safetensors file that `mobilesam convert` wrote, or any other file that it reads, which
            is then converted in memory. Or the name of a published model that `mobilesam download` fetched, such as
            "mobile_sam" or "lite_medsam". None for the packaged checkpoint.
        threads: Number of threads that a call uses. The results do not depend on this number. None for
            MOBILESAM_NUM_THREADS or, if this variable is not set, the number of CPUs that the process may use.
        precision: "fp32", "bf16", "int8", or "auto" for bf16 if it is faster on this CPU, else fp32. None for
            MOBILESAM_PRECISION or, if this variable is not set, "fp32". docs/precision.md tells how much masks change
            in bf16 and int8, and `scripts/measure_loss.py` measures the change.
        images: Number of images whose feature maps the decoder caches, 27 MB each. The first prompt on an image
            computes the maps, and further prompts reuse them. The maps of the least recently used image are dropped
            first.
        model: Name of the published model that the file is, or was trained from: "tinysam", "vit_t_lm",
            "vit_t_em_organelles", "mobile_sam", "mobilesamv2", "lite_medsam" or "sam_hq_vit_tiny". Some models have the
            same tensors, but another value range or number of masks. None recognises downloaded and converted files and
            published checksums, and otherwise takes the tensors' architecture.
        decoder: A file with a prompt encoder and a mask decoder that replace those of `weights`, such as MobileSAMv2's
            `Prompt_guided_Mask_Decoder.pt`.

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointError: The file is not a checkpoint of these models, has not the architecture of `model`, or does not
            fit `decoder`. CheckpointError is a ValueError.
        ValueError: The number of threads or of images is invalid, the CPU does not support the precision, or there is
            no such model.
    """
    return MobileSAM(load_network(weights, threads, precision, images=images, model=model, decoder=decoder).loaded())


_default_model = Once(lambda: load())


def default_model() -> MobileSAM:
    """The model of the packaged checkpoint, loaded once per process."""
    return _default_model()


def segment(
    image: ImageLike,
    points: ArrayLike | None = None,
    labels: ArrayLike | None = None,
    *,
    box: ArrayLike | None = None,
    mask_input: ArrayLike | None = None,
    multimask: bool | None = None,
    hq_token_only: bool = False,
    image_format: str = "RGB",
    value_range: ValueRange | None = None,
    bands: Bands | None = None,
    model: MobileSAM | None = None,
) -> Segmentation:
    """Encode an image and segment one prompt. For several prompts on one image use `load().encode(image)`.

    `image`, `image_format`, `value_range` and `bands` are those of `MobileSAM.encode`. The prompt is that of
    `Embedding.segment` and is checked before the image is encoded. The result equals that of `Embedding.segment` up to
    rounding.

    Args:
        model: The model. None for the packaged checkpoint, which is loaded once per process.
    """
    kind = MODELS[DEFAULT_MODEL] if model is None else model.kind  # the packaged checkpoint is loaded after the checks
    kind.multimask(multimask)
    kind.check_hq(hq_token_only)
    value_range = kind.value_range if value_range is None else value_range
    photo = as_photo(image, image_format, value_range=value_range, bands=bands)
    prompt = check_prompt(photo.original_size, points, labels, box, mask_input)
    model = default_model() if model is None else model
    embedding = model.encode(photo, value_range=value_range)
    return model._answer(embedding, prompt, multimask, hq_token_only, once=True)
