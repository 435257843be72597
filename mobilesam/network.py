"""The network's three parts, loaded from a checkpoint."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor, wait

from . import kernels
from .checkpoint import Checkpoint, ConvertedCheckpoint, open_checkpoint
from .decoder import MaskDecoder
from .encoder import ImageEncoder
from .precision import decoder_precision, resolve
from .prompt import PromptEncoder


class Network:
    """The image encoder, the prompt encoder and the mask decoder of a checkpoint, their weights packed."""

    def __init__(self, checkpoint: Checkpoint | ConvertedCheckpoint, threads: int, precision: str = "fp32") -> None:
        self.checkpoint = checkpoint
        self.threads = threads
        self.precision = precision
        with ThreadPoolExecutor(
            1
        ) as beside:  # where there are threads; each part packs its many small weights by itself
            decoder = beside.submit(MaskDecoder, checkpoint, threads, decoder_precision(precision))
            if threads == 1:
                wait([decoder])
            self.image_encoder = ImageEncoder(checkpoint, threads, precision)
            self.prompt_encoder = PromptEncoder(checkpoint, threads)
            self.mask_decoder = decoder.result()
        if isinstance(checkpoint, Checkpoint):
            checkpoint.unmap()


def load_network(weights: str | os.PathLike[str] | None, threads: int | None, precision: str | None) -> Network:
    """What `mobilesam.load` loads; its arguments and errors."""
    threads = kernels.threads.default_threads() if threads is None else kernels.threads.checked(threads)
    precision = resolve(precision)
    return Network(open_checkpoint(weights), threads, precision)
