"""The network's three parts, loaded from a checkpoint."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING

from . import kernels
from .checkpoint import Checkpoint, ConvertedCheckpoint, open_checkpoint
from .encoder import ImageEncoder
from .precision import decoder_precision, resolve

if TYPE_CHECKING:
    from .decoder import MaskDecoder
    from .prompt import PromptEncoder


class Network:
    """The image encoder, the prompt encoder and the mask decoder of a checkpoint, their weights packed.

    They are loaded by threads of their own, each packing its many small weights by itself: side by side, or with
    ``in_order`` one after the other, as an image meets them. A part that is asked for is waited for.
    """

    def __init__(
        self,
        checkpoint: Checkpoint | ConvertedCheckpoint,
        threads: int,
        precision: str = "fp32",
        *,
        in_order: bool = False,
    ) -> None:
        self.checkpoint, self.threads, self.precision = checkpoint, threads, precision
        loading = ThreadPoolExecutor(1 if in_order or threads == 1 else 2)
        self._image_encoder = loading.submit(ImageEncoder, checkpoint, threads, precision)
        self._others = loading.submit(self._load_others)
        self._loaded = loading.submit(self._let_go)
        loading.shutdown(wait=False)

    def _load_others(self) -> tuple[PromptEncoder, MaskDecoder]:
        from .decoder import MaskDecoder  # loaded beside the first image's encoding, where that has begun
        from .prompt import PromptEncoder

        decoder = MaskDecoder(self.checkpoint, self.threads, decoder_precision(self.precision))
        return PromptEncoder(self.checkpoint, self.threads), decoder

    def _let_go(self) -> None:
        self._image_encoder.exception(), self._others.exception()  # both waited for
        if isinstance(self.checkpoint, Checkpoint):
            self.checkpoint.unmap()

    @cached_property
    def image_encoder(self) -> ImageEncoder:
        return self._image_encoder.result()

    @cached_property
    def prompt_encoder(self) -> PromptEncoder:
        return self._others.result()[0]

    @cached_property
    def mask_decoder(self) -> MaskDecoder:
        return self._others.result()[1]

    def loaded(self) -> Network:
        """The network, once it is whole. Raises what loading a part raised."""
        assert self.image_encoder and self.prompt_encoder and self.mask_decoder
        self._loaded.result()
        return self


def load_network(
    weights: str | os.PathLike[str] | None, threads: int | None, precision: str | None, *, in_order: bool = False
) -> Network:
    """What `mobilesam.load` loads, still being loaded; its arguments and, but for MemoryError, its errors."""
    threads = kernels.threads.default_threads() if threads is None else kernels.threads.checked(threads)
    precision = resolve(precision)
    return Network(open_checkpoint(weights), threads, precision, in_order=in_order)
