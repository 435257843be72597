"""Fast start of a command: the order in which modules and weights load, and settings of the Python process.

The table shows how many milliseconds `mobilesam segment` loses without each optimisation. The command takes about 1,000
to 1,300 ms. Each figure is the median of paired differences between alternating fresh processes. The ranges cover three
runs of 24 to 30 rounds on 2 shared cores of an AMD EPYC (Zen 3) with Python 3.11.

    fewer garbage collections         73 to 159
    layers loaded in order            11 to 94
    short thread switch interval       2 to 31
    one thread for NumPy's BLAS       -3 to 17
    photo read by a thread           -17 to 4 for a photo of 640x427; 256 for a photo of 4000x3000 (9 rounds)
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..checkpoints.models import Model
    from ..images.rgb_photo import Photo
    from ..network.loading import Network


def begin_process() -> None:
    """Set up a process that runs only this command.

    Garbage is collected less often, because imports create many objects and no garbage. NumPy's BLAS gets one thread,
    because further BLAS threads would spin for a while after the import and slow down the kernels' threads.
    """
    gc.set_threshold(20_000)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def end_process() -> None:
    """Skip garbage collection at exit."""
    gc.freeze()


@contextmanager
def short_switch_interval() -> Iterator[None]:
    """Let Python switch threads every 50 µs, because a loading thread that waits for the GIL leaves its CPU idle."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(50e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def read_and_load(
    read: Callable[[Model], Photo], weights: str | None, threads: int | None, precision: str | None
) -> tuple[Future[Photo], Network]:
    """Start to read the photo in a background thread, and start to load the network.

    `read` reads the photo for a model, because the model decides how images are opened and resized. The packaged
    checkpoint's model is known, so the photo is read while NumPy is imported. For other weights, reading starts when
    the file of weights is open.

    Returns:
        A future of the photo, and the network. The network's layers continue to load while the image is encoded.
    """
    from ..checkpoints.models import DEFAULT_MODEL, MODELS
    from ..util.deferred import in_background

    reading = in_background(lambda: read(MODELS[DEFAULT_MODEL])) if weights is None else None
    from ..network.loading import load_network  # imported here, while a background thread reads the photo

    network = load_network(weights, threads, precision, in_order=True)
    return reading or in_background(lambda: read(network.model)), network
