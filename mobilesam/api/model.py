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
from ..checkpoints.published import PUBLISHED, cached_path, is_downloaded
from ..images.arrays import ImageLike
from ..images.canvas import to_encoder_input
from ..images.geometry import Size, to_canvas
from ..images.photo import as_photo
from ..images.pictures import mask_image, save_image
from ..images.value_range import Bands, ValueRange, checked_range
from ..masks import export, rle
from ..masks.draw import cutout, draw_overlay, draw_prompt
from ..masks.objects import UNNAMED, SegmentedObject
from ..network.decoder_image import DecoderImage
from ..network.loading import IMAGES, Network, load_network
from ..network.precision import resolve
from ..util.deferred import ForkSafeLock, Once, lazy
from ..weights import default_path
from .prompts import Prompt, check_mapping, check_prompt, prompts_of_arrays

if TYPE_CHECKING:
    from ..network.image_encoder import ImageEncoder
    from ..network.mask_decoder import MaskDecoder
    from ..network.prompt_encoder import PromptEncoder


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The masks that the model predicts for one prompt.

    C is the number of masks: 3 with `multimask` (the model's mask tokens 1 to 3), else 1 (token 0).

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
            threshold=0.0,
            threads=self.embedding.model.threads,
        )

    def refine(
        self,
        points: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        *,
        box: ArrayLike | None = None,
        multimask: bool = False,
    ) -> Segmentation:
        """Segment again with the best mask's logits and more points, as annotation tools do at each further click.

        Args:
            points: (P, 2) points to add to those of the prompt.
            labels: (P,) labels of the added points.
            box: A box that replaces the prompt's box. None keeps the prompt's box.
            multimask: Predict three masks. By default one mask is predicted, as the reference advises for a prompt with
                `mask_input`.

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
        return self.embedding.model._answer(self.embedding, prompt, multimask)

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

    A pickle or a deep copy holds the features (4 MB), and the SHA-256 and path of the model's checkpoint instead of the
    model. Unpickling uses a loaded model with this SHA-256 and the same precision. If no such model is loaded,
    unpickling loads the checkpoint from the package, from the download folder, or from its former path, and raises
    CheckpointError if none of these files has this SHA-256.

    Attributes:
        features: (64, 64, 256) float32, read-only.
        original_size: (h, w) of the image.
        input_size: (h, w) of the part of the model's 1024×1024 canvas that the image fills.
        model: The model that encoded the image.
        name: File name of the image, without folders. Empty if the image did not come from a file.
        value_range: The `value_range` that the image was opened with. See `MobileSAM.encode`.
    """

    features: NDArray[np.float32]
    original_size: Size
    input_size: Size
    model: MobileSAM
    name: str = ""
    value_range: ValueRange = "dtype"

    def __repr__(self) -> str:
        height, width = self.original_size
        return f"<Embedding of an image of {width}x{height} pixels>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _embedding, (
            self.features, self.original_size, self.input_size, self.model, self.name, self.value_range
        )  # fmt: skip

    def segment(
        self,
        points: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        *,
        box: ArrayLike | None = None,
        mask_input: ArrayLike | None = None,
        multimask: bool = True,
    ) -> Segmentation:
        """Predict the masks for a prompt. A prompt is any combination of points, a box and mask logits.

        Args:
            points: (P, 2), one (x, y) per row in pixels of the image, 0 <= x <= w and 0 <= y <= h. An empty array is
                the same as None.
            labels: (P,), 1 for a point on the object, 0 for a point not on it. Default: all 1.
            box: (x0, y0, x1, y1) in pixels of the image. A box that lies partly outside the image is clipped.
            mask_input: (256, 256) or (1, 256, 256) float logits, such as `low_res[best]` of an earlier segmentation, or
                a boolean mask (H, W) of the image's size.
            multimask: Predict three masks. If false, predict one.

        Warns:
            UserWarning: The box was clipped.

        Raises:
            TypeError: An argument does not hold numbers of the expected type.
            ValueError: The prompt is empty, or an argument has an invalid shape or value.
        """
        prompt = check_prompt(self.original_size, points, labels, box, mask_input)
        return self.model._answer(self, prompt, multimask)

    def segment_rle(
        self,
        points: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        *,
        box: ArrayLike | None = None,
        mask_input: ArrayLike | None = None,
        multimask: bool = True,
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
        scores, low_res = self.model._masks(self, prompt, multimask)
        best = int(scores.argmax())
        wanted = range(best, best + 1) if only_best else range(len(scores))
        size = self.original_size if size is None else size
        all_runs, _ = kernels.mask_runs(
            low_res[wanted.start : wanted.stop],
            crop=self.input_size,
            size=size,
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
        multimask: bool = True,
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
            multimask: Predict three masks per prompt. If false, predict one.

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
        return self.model._answers(self, checked, multimask)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the embedding to a safetensors file of 4 MB. A failure leaves no partial file.

        The file also holds the image's sizes, name and value range, the SHA-256 of the model's checkpoint, and the
        model's precision.

        Raises:
            OSError: The file cannot be written.
        """
        from ..api import embedding_file

        maker = embedding_file.Maker(self.model.checkpoint.sha256, self.model.precision)
        source = embedding_file.Source(self.original_size, self.input_size, self.name, self.value_range)
        embedding_file.write(path, self.features, source, maker)

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
        from ..api import embedding_file

        model = default_model() if model is None else model
        maker = embedding_file.Maker(model.checkpoint.sha256, model.precision)
        features, source = embedding_file.read(path, maker)
        return cls(features, source.original_size, source.input_size, model, source.name, source.value_range)


class MobileSAM:
    """A loaded model. It is immutable, so any number of threads may use it at once.

    A pickle or a deep copy holds the checkpoint's SHA-256 and path, not the weights. See `Embedding` for how unpickling
    finds the model.

    Attributes:
        checkpoint: The checkpoint that the weights come from.
        precision: "fp32", "bf16" or "int8".
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self.checkpoint, self.precision = network.checkpoint, network.precision
        with _loaded_lock:
            _loaded.add(self)

    def __reduce__(self) -> tuple[Any, ...]:
        checkpoint = self.checkpoint
        path = str(checkpoint.path.absolute())
        return _find_model, (checkpoint.sha256, self.precision, path, self._network.threads, self._network.images)

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
        """The image encoder: x (1024, 1024, 3) float32, normalised and padded, to features (64, 64, 256) float32."""
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
        value_range: ValueRange = "dtype",
        bands: Bands | None = None,
    ) -> Embedding:
        """Encode an image.

        Args:
            image: A path, bytes, a file object, a PIL image or an array. See `mobilesam.images.photo.open_rgb`.
            image_format: "RGB", or "BGR" for an array with channels in this order.
            value_range: The values that become black and white: "dtype" for the range of the dtype; "minmax" for the
                smallest and the largest value of the image; "minmax-channel" for those of each channel; or (low, high).
            bands: Three numbers, from 0, of the bands of a file, or channels of an array, that are red, green and blue.

        Warns:
            UserWarning: 16-bit values use less than 1/8 of their range, and no value range is given.

        Raises:
            OSError: The file cannot be opened.
            TypeError: The argument is not an image.
            ValueError: The image is damaged or empty, has too many pixels, or has values outside the accepted range.
        """
        value_range = checked_range(value_range)
        photo = as_photo(image, image_format, value_range=value_range, bands=bands)
        x, input_size = to_encoder_input(photo, threads=self._network.threads)
        features = self.image_encoder(x, input_size)
        features.flags.writeable = False
        return Embedding(features, photo.original_size, input_size, self, photo.name, value_range)

    def _masks(
        self, embedding: Embedding, prompt: Prompt, multimask: bool, *, once: bool = False
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The mask scores (C,) and the low-resolution mask logits (C, 256, 256) of a prompt.

        With `once`, the decoder caches no feature maps of the image for further prompts. This is faster for a single
        prompt, and the result differs only by rounding.
        """
        image = self._image(embedding, prompt.mask_input, kept=not once)
        (masks,) = self.mask_decoder.masks(image, [self._tokens(embedding, prompt)], multimask=multimask)
        return masks

    def _tokens(self, embedding: Embedding, prompt: Prompt) -> NDArray[np.float32]:
        size = embedding.original_size
        box = None if prompt.box is None else to_canvas(prompt.box.reshape(2, 2), size).reshape(4)
        return self.prompt_encoder.sparse(to_canvas(prompt.points, size), prompt.labels, box)

    def _answer(self, embedding: Embedding, prompt: Prompt, multimask: bool, *, once: bool = False) -> Segmentation:
        return _segmentation(embedding, prompt, *self._masks(embedding, prompt, multimask, once=once))

    def _answers(self, embedding: Embedding, prompts: Sequence[Prompt], multimask: bool) -> Iterator[Segmentation]:
        """The segmentation of each prompt, in order. Prompts without a mask input share the image's feature maps."""
        for shared, alike in groupby(prompts, key=lambda prompt: prompt.mask_input is None):
            group = list(alike)
            if not shared:
                yield from (self._answer(embedding, prompt, multimask) for prompt in group)
                continue
            sparse = (self._tokens(embedding, prompt) for prompt in group)
            answers = self.mask_decoder.masks(self._image(embedding), sparse, multimask=multimask)
            for prompt, answer in zip(group, answers, strict=True):
                yield _segmentation(embedding, prompt, *answer)

    def _image(
        self, embedding: Embedding, mask_input: NDArray[np.float32] | None = None, *, kept: bool = True
    ) -> DecoderImage:
        dense = None if mask_input is None else self.prompt_encoder.dense(mask_input)
        return DecoderImage(embedding.features, dense, kept)


def _segmentation(
    embedding: Embedding, prompt: Prompt, scores: NDArray[np.float32], low_res: NDArray[np.float32]
) -> Segmentation:
    low_res.flags.writeable = False  # because the masks are computed from low_res later
    return Segmentation(scores, low_res, prompt, embedding)


_loaded: weakref.WeakSet[MobileSAM] = weakref.WeakSet()
_loaded_lock = ForkSafeLock()
_unpickled: MobileSAM | None = None  # keeps the last unpickled model alive, because _loaded holds weak references


def _embedding(features: NDArray[np.float32], *others: Any) -> Embedding:
    features.flags.writeable = False
    return Embedding(features, *others)


def _find_model(sha256: str, precision: str, path: str, threads: int, images: int) -> MobileSAM:
    """Find a model by its checkpoint's SHA-256 and its precision, or load one.

    The checkpoint can be in the package, in the download folder or at `path`. Raises CheckpointError if none of these
    files has this SHA-256.
    """
    global _unpickled
    with _loaded_lock:
        loaded = list(_loaded)
    for model in loaded:
        if model.precision == precision and model.checkpoint.sha256 == sha256:
            return model
    from ..checkpoints.reader import open_source  # imported here, because only unpickling needs this module

    for source in (default_path(), *map(cached_path, filter(is_downloaded, PUBLISHED)), Path(path)):
        try:
            checkpoint = open_source(source)
        except (CheckpointError, OSError):
            continue
        if checkpoint.sha256 == sha256:
            _unpickled = MobileSAM(Network(checkpoint, threads, resolve(precision), images=images).loaded())
            return _unpickled
    raise CheckpointError(
        f"{path}: the file is missing or has changed, and a pickled model, embedding or segmentation needs its "
        f"checkpoint with SHA-256 {sha256[:16]}...: load this checkpoint first, with "
        f"mobilesam.load(FILE, precision={precision!r})"
    )


def load(
    weights: str | os.PathLike[str] | None = None,
    *,
    threads: int | None = None,
    precision: str | None = None,
    images: int = IMAGES,
) -> MobileSAM:
    """Load a model.

    Args:
        weights: A checkpoint: a safetensors file that `mobilesam convert` wrote, or any other file that it reads, which
            is then converted in memory. Or "mobile_sam" for the official checkpoint that `mobilesam download` fetched.
            None for the packaged checkpoint.
        threads: Number of threads that a call uses. The results do not depend on this number. None for
            MOBILESAM_NUM_THREADS or, if this variable is not set, the number of CPUs that the process may use.
        precision: "fp32", "bf16", "int8", or "auto" for bf16 if it is faster on this CPU, else fp32. None for
            MOBILESAM_PRECISION or, if this variable is not set, "fp32". docs/precision.md tells how much masks change
            in bf16 and int8, and `scripts/measure_loss.py` measures the change.
        images: Number of images whose feature maps the decoder caches, 27 MB each. The first prompt on an image
            computes the maps, and further prompts reuse them. The maps of the least recently used image are dropped
            first.

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointError: The file is not a MobileSAM checkpoint. CheckpointError is a ValueError.
        ValueError: The number of threads or of images is invalid, or the CPU does not support the precision.
    """
    return MobileSAM(load_network(weights, threads, precision, images=images).loaded())


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
    multimask: bool = True,
    image_format: str = "RGB",
    value_range: ValueRange = "dtype",
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
    photo = as_photo(image, image_format, value_range=value_range, bands=bands)
    prompt = check_prompt(photo.original_size, points, labels, box, mask_input)
    model = default_model() if model is None else model
    return model._answer(model.encode(photo, value_range=value_range), prompt, multimask, once=True)
