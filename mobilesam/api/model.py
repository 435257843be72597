"""The public interface: load a model, encode an image once, ask for masks."""

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
from ..checkpoints.published import PUBLISHED, cached_path
from ..images.arrays import ImageLike
from ..images.canvas import to_encoder_input
from ..images.geometry import Size, to_canvas
from ..images.photo import as_photo
from ..images.pictures import mask_image, save_image
from ..masks import export, rle
from ..masks.draw import cutout, draw_overlay, draw_prompt
from ..masks.objects import UNNAMED, SegmentedObject
from ..network.decoder_image import DecoderImage
from ..network.loading import IMAGES, Network, load_network
from ..network.precision import resolve
from ..util.deferred import ForkSafeLock, Once, lazy
from ..weights import default_path
from .prompts import Prompt, check_mapping, check_prompt

if TYPE_CHECKING:
    from ..network.image_encoder import ImageEncoder
    from ..network.mask_decoder import MaskDecoder
    from ..network.prompt_encoder import PromptEncoder


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The masks that answer one prompt.

    scores (C,) float32, each mask's IoU with the object as the model predicts it (it may exceed 1); low_res (C, 256,
    256) float32 logits, read-only, of which one may be the next prompt's `mask_input`. C is 3 (the model's mask
    tokens 1 to 3) with multimask, else 1 (token 0). prompt is what was asked, in pixels of the image, and embedding
    the image, kept in memory by its answers. Masks in the image's own size are made when they are first asked for.
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
        return _segmentation, (self.embedding, self.prompt, self.scores, self.low_res)  # masks are made again

    @property
    def best(self) -> int:
        """The index of the mask with the highest score."""
        return int(self.scores.argmax())

    @lazy
    def masks(self) -> NDArray[np.bool_]:
        """The masks (C, H, W) bool, in the image's own size."""
        return self._resized(slice(None))

    @lazy
    def mask(self) -> NDArray[np.bool_]:
        """The mask (H, W) bool with the highest score; the others are not made for it."""
        drawn = self.__dict__.get("masks")
        mask: NDArray[np.bool_] = (
            self._resized(slice(self.best, self.best + 1))[0] if drawn is None else drawn[self.best]
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
        """Ask again with the best mask's logits and more points, as annotation tools do at each further click.

        points and labels are added to those of the prompt so far; box, where given, replaces its box. One mask, the
        reference's advice beside a mask prompt, unless multimask. Raises what `Embedding.segment` raises.
        """
        more = check_prompt(self.embedding.original_size, points, labels, box, self.low_res[self.best])
        prompt = Prompt(
            np.concatenate([self.prompt.points, more.points]),
            np.concatenate([self.prompt.labels, more.labels]),
            self.prompt.box if more.box is None else more.box,
            more.mask_input,
        )
        return self.embedding.model._answer(self.embedding, prompt, multimask)

    def overlay(self, image: ImageLike, *, prompt: bool = True) -> Image.Image:
        """The image, in its own size, with the best mask as a translucent colour and an outline, and the prompt.

        prompt: draw the points and the box. Raises ValueError where the image is not of the masks' size, and what
        reading it raises.
        """
        drawn = draw_overlay(image, self.mask)
        return draw_prompt(drawn, self.prompt.points, self.prompt.labels, self.prompt.box) if prompt else drawn

    def cutout(self, image: ImageLike, *, crop: bool = False) -> Image.Image:
        """The image with nothing but the best mask's object, RGBA; see `mobilesam.results.cutout`."""
        return cutout(image, [self.as_object()], crop=crop)

    def as_object(self, name: str = UNNAMED) -> SegmentedObject:
        """The best mask and its score under a name, for the functions of `mobilesam.results`."""
        return SegmentedObject(self.mask, name, float(self.scores[self.best]))

    def save(self, path: str | os.PathLike[str], *, name: str = UNNAMED) -> None:
        """Write the best mask, as the extension says: .json (COCO), .geojson, .svg, or a picture.

        In a picture, 8-bit gray, it is 255 inside and 0 outside; for the others, see `mobilesam.results`, name is what
        the object is called. The file appears whole or not at all. Raises ValueError for an extension that Pillow does
        not write, OSError for a folder that is missing or not writable.
        """
        if Path(path).suffix.lower() in export.SUFFIXES:
            export.save([self.as_object(name)], path)
        else:
            save_image(mask_image(self.mask), path)


@dataclass(frozen=True)
class ScoredRLE:
    """One of the masks that answer a prompt: its place among them, its score, its run lengths (see `mobilesam.rle`)."""

    index: int
    score: float
    rle: rle.UncompressedRLE


@dataclass(frozen=True, eq=False)
class Embedding:
    """An encoded image. Immutable: any number of threads may segment it at once.

    features (64, 64, 256) float32, read-only; original_size (h, w) of the image; input_size (h, w) of the
    part of the model's 1024x1024 canvas that the image fills; model, which encoded it.

    A pickle or a deep copy holds the features, 4 MB, and names the model. Unpickling looks for a model with the same
    checkpoint (by its SHA-256) and precision: among the loaded models, in the package, in the folder of downloads, and
    at the checkpoint's former path. Unpickling raises CheckpointError where none of these is the checkpoint.
    """

    features: NDArray[np.float32]
    original_size: Size
    input_size: Size
    model: MobileSAM

    def __repr__(self) -> str:
        height, width = self.original_size
        return f"<Embedding of an image of {width}x{height} pixels>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _embedding, (self.features, self.original_size, self.input_size, self.model)

    def segment(
        self,
        points: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        *,
        box: ArrayLike | None = None,
        mask_input: ArrayLike | None = None,
        multimask: bool = True,
    ) -> Segmentation:
        """The masks for a prompt of points, a box, an earlier answer's logits, or any of these together.

        points: (P, 2), each (x, y) in pixels of the original image, 0 <= x <= w and 0 <= y <= h.
        labels: (P,), 1 for a point on the object (the default), 0 for one that is not.
        box: (x0, y0, x1, y1) in the same pixels.
        mask_input: (256, 256) or (1, 256, 256) float logits, such as `low_res[best]` of an earlier answer.
        multimask: three candidate masks rather than one.
        Raises ValueError or TypeError, in one line, for anything else and where no prompt is given.
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
        """The masks of `segment` as run lengths, for which no map of the image's size is made.

        size: (h, w) of the masks, such as a display's; None for the image's own. The prompt is in the image's pixels.
        only_best: the mask with the highest score alone. The rest as for `segment`.
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
        self, prompts: Iterable[Mapping[str, ArrayLike | None]], *, multimask: bool = True
    ) -> Iterator[Segmentation]:
        """The masks for many prompts of any mix, in order; drawn when taken, so that none need be held.

        prompts: mappings with the names and values that `segment` takes, such as {"points": [(20, 30)]} or
        {"box": (0, 0, 40, 50)}. All are checked before the first is answered: raises what `segment` raises, with the
        prompt's number, from 0, in the message. An answer has the same bits as `segment` gives, in less time where
        prompts in a row are alike: of as many points, and all with a box or none.
        """
        checked = [check_mapping(i, prompt, self.original_size) for i, prompt in enumerate(prompts)]
        return self.model._answers(self, checked, multimask)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the embedding to a file, 4 MB of safetensors, with its sizes and what encoded it.

        The file appears whole or not at all. Raises OSError where it cannot be written.
        """
        from ..api import embedding_file

        made_by = embedding_file.Maker(self.model.checkpoint.sha256, self.model.precision)
        embedding_file.write(path, self.features, self.original_size, self.input_size, made_by)

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: MobileSAM | None = None) -> Embedding:
        """The embedding that `save` has written: the image need not be encoded again.

        model: of the checkpoint that has encoded it; None for the packaged one, loaded once per process.
        Raises FileNotFoundError, or ValueError for a file that is no embedding or damaged, and for one that another
        checkpoint or precision has made.
        """
        from ..api import embedding_file

        model = default_model() if model is None else model
        made_by = embedding_file.Maker(model.checkpoint.sha256, model.precision)
        return cls(*embedding_file.read(path, made_by), model)


class MobileSAM:
    """A loaded model. Immutable: any number of threads may use it at once.

    `image_encoder(x)` maps x (1024, 1024, 3) float32, normalised and padded, to features (64, 64, 256)
    float32; `prompt_encoder` and `mask_decoder` are the other two parts of the network, `checkpoint` is where
    the weights come from, `threads` how many threads a call uses and `precision` what it computes in.
    A pickle or a deep copy names the model, as an Embedding's does; weights are packed for the CPU that unpickles.
    """

    def __init__(self, network: Network) -> None:
        self._network = network
        self.checkpoint, self.threads, self.precision = network.checkpoint, network.threads, network.precision
        with _loaded_lock:
            _loaded.add(self)

    def __reduce__(self) -> tuple[Any, ...]:
        checkpoint = self.checkpoint
        path = str(checkpoint.path.absolute())
        return _find_model, (checkpoint.sha256, self.precision, path, self.threads, self._network.images)

    @property
    def image_encoder(self) -> ImageEncoder:
        """Maps x (1024, 1024, 3) float32, normalised and padded, to features (64, 64, 256) float32."""
        return self._network.image_encoder

    @property
    def prompt_encoder(self) -> PromptEncoder:
        """Maps a prompt to what the mask decoder reads."""
        return self._network.prompt_encoder

    @property
    def mask_decoder(self) -> MaskDecoder:
        """Maps features and a prompt to masks' logits and scores."""
        return self._network.mask_decoder

    @property
    def device(self) -> str:
        """ "cpu"; this, `to` and `eval` are for scripts written for the reference."""
        return "cpu"

    def to(self, device: object = "cpu") -> MobileSAM:
        """The model itself. Raises ValueError for another device than the CPU."""
        if str(device) != "cpu":
            raise ValueError(f"device must be 'cpu', the only one that this package runs on, got {str(device)!r}")
        return self

    def eval(self) -> MobileSAM:
        """The model itself, which has no training mode."""
        return self

    def encode(self, image: ImageLike, *, image_format: str = "RGB") -> Embedding:
        """Encode an image: a path, bytes, a file object, a PIL image or an array.

        image: see `mobilesam.images.photo.open_rgb`.
        image_format: "BGR" for an array whose colours are in that order.
        Raises OSError for a file that cannot be opened, ValueError or TypeError for one that is no image.
        """
        photo = as_photo(image, image_format)
        x, input_size = to_encoder_input(photo, threads=self.threads)
        features = self.image_encoder(x, input_size)
        features.flags.writeable = False
        return Embedding(features, photo.original_size, input_size, self)

    def _masks(
        self, embedding: Embedding, prompt: Prompt, multimask: bool, *, once: bool = False
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """A prompt's scores and low_res. Prompts without a mask share what depends on the image alone.

        once: nothing is kept for more prompts, which costs a single one less; the same but for rounding.
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
        """What answers each prompt, in order."""
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
    low_res.flags.writeable = False  # masks are made of it later
    return Segmentation(scores, low_res, prompt, embedding)


_loaded: weakref.WeakSet[MobileSAM] = weakref.WeakSet()
_loaded_lock = ForkSafeLock()
_unpickled: MobileSAM | None = None  # keeps the last model that unpickling has loaded


def _embedding(features: NDArray[np.float32], original_size: Size, input_size: Size, model: MobileSAM) -> Embedding:
    features.flags.writeable = False
    return Embedding(features, original_size, input_size, model)


def _find_model(sha256: str, precision: str, path: str, threads: int, images: int) -> MobileSAM:
    """A model of a checkpoint in a precision: a loaded one, or from the package, the folder of downloads, or ``path``.

    Raises CheckpointError where none of these is that checkpoint.
    """
    global _unpickled
    with _loaded_lock:
        loaded = list(_loaded)
    for model in loaded:
        if model.precision == precision and model.checkpoint.sha256 == sha256:
            return model
    from ..checkpoints.reader import open_source  # rarely needed

    for source in (default_path(), *map(cached_path, PUBLISHED), Path(path)):
        try:
            checkpoint = open_source(source)
        except (CheckpointError, OSError):
            continue
        if checkpoint.sha256 == sha256:
            _unpickled = MobileSAM(Network(checkpoint, threads, resolve(precision), images=images).loaded())
            return _unpickled
    raise CheckpointError(
        f"{path}: not found, or another file now: a pickled embedding or answer needs the checkpoint of SHA-256 "
        f"{sha256[:16]}...: load it first, with mobilesam.load(<its file>, precision={precision!r})"
    )


def load(
    weights: str | os.PathLike[str] | None = None,
    *,
    threads: int | None = None,
    precision: str | None = None,
    images: int = IMAGES,
) -> MobileSAM:
    """Load a model.

    weights: a fused safetensors file, as `mobilesam convert` writes it; "mobile_sam" for the official checkpoint, which
    `mobilesam download` fetches; None for the packaged one.
    threads: how many threads a call uses; None for MOBILESAM_NUM_THREADS, else the CPUs this process may use.
    The results do not depend on it.
    precision: "fp32", "bf16", "int8" or "auto", bf16 where that is faster; None for MOBILESAM_PRECISION, else "fp32".
    What the narrow ones change in masks is in the README; `scripts/measure_loss.py` measures it.
    images: how many images the decoder keeps maps of, 27 MB each. A first prompt on an image makes its maps, further
    prompts use them. The maps of the image that was used longest ago make room for others.
    Raises FileNotFoundError for a missing file, CheckpointError (a ValueError) for one that is not such a
    checkpoint, ValueError for an impossible number of threads or a precision that this CPU lacks.
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
    model: MobileSAM | None = None,
) -> Segmentation:
    """Encode the image and answer one prompt; for several prompts on one image use `load().encode(image)`.

    image and image_format as for `MobileSAM.encode`; the prompt as for `Embedding.segment`, checked before the
    image is encoded. model: None for the packaged checkpoint, loaded once per process. The answer is that of
    `Embedding.segment` but for rounding.
    """
    photo = as_photo(image, image_format)
    prompt = check_prompt(photo.original_size, points, labels, box, mask_input)
    model = default_model() if model is None else model
    return model._answer(model.encode(photo), prompt, multimask, once=True)
