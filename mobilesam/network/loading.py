"""Loading the network's three parts from a checkpoint."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from .. import kernels
from ..architecture import Architecture
from ..checkpoints.errors import CheckpointError
from ..checkpoints.fused import Checkpoint, open_checkpoint
from ..checkpoints.models import Model, choose_model, model_named
from ..checkpoints.published import is_name
from ..util.deferred import Deferred
from .image_encoder import ImageEncoder
from .precision import decoder_precision, resolve

# The default number of images whose maps (channel-major projections) the decoder keeps. An image's maps take 27 MB.
IMAGES = 4

if TYPE_CHECKING:
    from ..checkpoints.reader import ConvertedCheckpoint
    from .mask_decoder import MaskDecoder
    from .prompt_encoder import PromptEncoder


class Network:
    """The image encoder, the prompt encoder and the mask decoder of a checkpoint, with their weights packed.

    Background threads load the three parts. Reading an attribute waits until its part is loaded. One thread loads the
    image encoder, and a second thread loads the prompt encoder and the mask decoder. If ``in_order`` is true or
    ``threads`` is 1, a single thread loads all parts, the image encoder's layers first. The image encoder can then
    start before all parts are loaded.

    Attributes:
        checkpoint: the checkpoint.
        threads: number of threads of each kernel call.
        precision: the image encoder's precision, one of `precision.PRECISIONS`.
        images: number of images whose maps (channel-major projections) the decoder keeps.
        architecture: the architecture of the checkpoint.
        model: the published model that the checkpoint is, or was trained from.
    """

    def __init__(
        self,
        checkpoint: Checkpoint | ConvertedCheckpoint,
        threads: int,
        precision: str = "fp32",
        *,
        in_order: bool = False,
        images: int = IMAGES,
        model: str | None = None,
    ) -> None:
        self.checkpoint, self.threads, self.precision, self.images = checkpoint, threads, precision, images
        self.architecture: Architecture = checkpoint.architecture
        self.model: Model = choose_model(model, self.architecture, checkpoint.metadata, None, checkpoint.path)
        encoder_thread = ThreadPoolExecutor(1)
        decoder_thread = ThreadPoolExecutor(1) if threads > 1 and not in_order else encoder_thread
        self.image_encoder = ImageEncoder(
            checkpoint, threads, precision, thread=encoder_thread, architecture=self.architecture
        )
        self._others = Deferred(decoder_thread, self._load_others)
        for thread in (encoder_thread, decoder_thread):
            thread.shutdown(wait=False)

    def _load_others(self) -> tuple[PromptEncoder, MaskDecoder]:
        # Imported here, so that the image encoder can start before these modules are imported.
        from .mask_decoder import MaskDecoder
        from .prompt_encoder import PromptEncoder

        prompts = PromptEncoder(self.checkpoint, self.threads, self.architecture.img_size)
        precision = decoder_precision(self.precision)
        return prompts, MaskDecoder(
            self.checkpoint,
            prompts.dense_pe(),
            prompts.no_mask_embed,
            self.threads,
            precision,
            images=self.images,
            architecture=self.architecture,
        )

    @property
    def prompt_encoder(self) -> PromptEncoder:
        return self._others()[0]

    @property
    def mask_decoder(self) -> MaskDecoder:
        return self._others()[1]

    def loaded(self) -> Network:
        """Wait until all parts are loaded, and return the network. Raises the error of a part that failed to load."""
        self._others()
        self.image_encoder.loaded()
        return self


def load_network(
    weights: str | os.PathLike[str] | None,
    threads: int | None,
    precision: str | None,
    *,
    in_order: bool = False,
    images: int = IMAGES,
    model: str | None = None,
    decoder: str | os.PathLike[str] | None = None,
) -> Network:
    """Begin to load a network, and return the network at once.

    Arguments and errors are the same as for `mobilesam.load`, except that MemoryError is not raised here. `Network`
    describes ``in_order``.
    """
    threads = kernels.threads.default_threads() if threads is None else kernels.threads.checked(threads)
    precision = resolve(precision)
    if isinstance(images, bool) or not isinstance(images, int) or images < 1:
        raise ValueError(f"images: expected a whole number of at least 1, got {images!r}")
    checkpoint = _open(weights, model, decoder)
    return Network(checkpoint, threads, precision, in_order=in_order, images=images, model=model)


def _open(
    weights: str | os.PathLike[str] | None, model: str | None, decoder: str | os.PathLike[str] | None
) -> Checkpoint | ConvertedCheckpoint:
    """Like `open_source`, but a fused checkpoint is opened without importing the reader of other formats."""
    if model is not None:
        model_named(model)
    if decoder is None:
        try:
            return open_checkpoint(weights)
        except CheckpointError:
            if is_name(weights):
                raise
    from ..checkpoints.reader import open_source

    return open_source(weights, decoder, model)
