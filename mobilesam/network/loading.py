"""The network's three parts, loaded from a checkpoint."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from .. import kernels
from ..checkpoints.fused import Checkpoint, open_checkpoint
from ..util.deferred import Later
from .image_encoder import ImageEncoder
from .precision import decoder_precision, resolve

# Images whose maps the decoder keeps, 27 MB each, by default.
IMAGES = 4

if TYPE_CHECKING:
    from ..checkpoints.reader import ConvertedCheckpoint
    from .mask_decoder import MaskDecoder
    from .prompt_encoder import PromptEncoder


class Network:
    """The image encoder, the prompt encoder and the mask decoder of a checkpoint, their weights packed.

    They are loaded by threads of their own, each packing its many small weights by itself: the decoder beside the
    encoder, or with ``in_order`` after it, which is used from its first layer on meanwhile. A part that is asked for is
    waited for.
    """

    def __init__(
        self,
        checkpoint: Checkpoint | ConvertedCheckpoint,
        threads: int,
        precision: str = "fp32",
        *,
        in_order: bool = False,
        images: int = IMAGES,
    ) -> None:
        self.checkpoint, self.threads, self.precision, self.images = checkpoint, threads, precision, images
        thread = ThreadPoolExecutor(1)
        beside = ThreadPoolExecutor(1) if threads > 1 and not in_order else thread
        self.image_encoder = ImageEncoder(checkpoint, threads, precision, thread=thread)
        self._others = Later(beside, self._load_others)
        self._unmapped = Later(thread, self._unmap)
        for one in (thread, beside):
            one.shutdown(wait=False)

    def _load_others(self) -> tuple[PromptEncoder, MaskDecoder]:
        from .mask_decoder import MaskDecoder  # loaded beside the first image's encoding, where that has begun
        from .prompt_encoder import PromptEncoder

        prompts = PromptEncoder(self.checkpoint, self.threads)
        precision = decoder_precision(self.precision)
        return prompts, MaskDecoder(
            self.checkpoint, prompts.dense_pe(), prompts.no_mask_embed, self.threads, precision, images=self.images
        )

    def _unmap(self) -> None:
        """After the encoder's layers, which this thread has loaded, and whatever has become of them."""
        try:
            self._others()
            self.image_encoder.loaded()
        finally:
            if isinstance(self.checkpoint, Checkpoint):
                self.checkpoint.unmap()

    @property
    def prompt_encoder(self) -> PromptEncoder:
        return self._others()[0]

    @property
    def mask_decoder(self) -> MaskDecoder:
        return self._others()[1]

    def loaded(self) -> Network:
        """The network, once all its parts are loaded. Raises what loading a part raised."""
        self._unmapped()
        return self


def load_network(
    weights: str | os.PathLike[str] | None,
    threads: int | None,
    precision: str | None,
    *,
    in_order: bool = False,
    images: int = IMAGES,
) -> Network:
    """What `mobilesam.load` loads, still being loaded; its arguments and, but for MemoryError, its errors."""
    threads = kernels.threads.default_threads() if threads is None else kernels.threads.checked(threads)
    precision = resolve(precision)
    if isinstance(images, bool) or not isinstance(images, int) or images < 1:
        raise ValueError(f"images: expected a whole number of at least 1, got {images!r}")
    return Network(open_checkpoint(weights), threads, precision, in_order=in_order, images=images)
