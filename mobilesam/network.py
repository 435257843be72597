"""The network's three parts, loaded from a checkpoint."""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any, TypeVar

from . import kernels
from .checkpoint import Checkpoint, ConvertedCheckpoint, open_checkpoint
from .encoder import ImageEncoder
from .precision import decoder_precision, resolve

if TYPE_CHECKING:
    from .decoder import MaskDecoder
    from .prompt import PromptEncoder

Part = TypeVar("Part")


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
        encoder = loading.submit(ImageEncoder, checkpoint, threads, precision)
        others = loading.submit(self._load_others)
        self._image_encoder: ImageEncoder | Future[ImageEncoder] = encoder
        self._others: tuple[PromptEncoder, MaskDecoder] | Future[tuple[PromptEncoder, MaskDecoder]] = others
        self._let_go: Future[None] | None = loading.submit(self._unmap, encoder, others)
        loading.shutdown(wait=False)

    def _load_others(self) -> tuple[PromptEncoder, MaskDecoder]:
        from .decoder import MaskDecoder  # loaded beside the first image's encoding, where that has begun
        from .prompt import PromptEncoder

        decoder = MaskDecoder(self.checkpoint, self.threads, decoder_precision(self.precision))
        return PromptEncoder(self.checkpoint, self.threads), decoder

    def _unmap(self, *parts: Future[Any]) -> None:
        wait(parts)
        if isinstance(self.checkpoint, Checkpoint):
            self.checkpoint.unmap()

    @property
    def image_encoder(self) -> ImageEncoder:
        return _waited_for(self._image_encoder)

    @property
    def prompt_encoder(self) -> PromptEncoder:
        return _waited_for(self._others)[0]

    @property
    def mask_decoder(self) -> MaskDecoder:
        return _waited_for(self._others)[1]

    def loaded(self) -> Network:
        """The network, once it is whole: it can be copied then. Raises what loading a part raised."""
        self._image_encoder, self._others = _waited_for(self._image_encoder), _waited_for(self._others)
        if self._let_go is not None:
            self._let_go.result()
            self._let_go = None
        return self


def _waited_for(part: Part | Future[Part]) -> Part:
    return part.result() if isinstance(part, Future) else part


def load_network(
    weights: str | os.PathLike[str] | None, threads: int | None, precision: str | None, *, in_order: bool = False
) -> Network:
    """What `mobilesam.load` loads, still being loaded; its arguments and, but for MemoryError, its errors."""
    threads = kernels.threads.default_threads() if threads is None else kernels.threads.checked(threads)
    precision = resolve(precision)
    return Network(open_checkpoint(weights), threads, precision, in_order=in_order)
