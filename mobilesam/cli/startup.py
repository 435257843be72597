"""What shortens the start of a command: the order in which things load, and how threads share Python meanwhile."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..images.rgb_photo import Photo
    from ..network.loading import Network


def begin_process() -> None:
    """Of a process that is the command alone.

    It looks less often for garbage, as imports make many objects and none of it. The kernels have threads of their own:
    NumPy's would spin beside them for a while after it is imported.
    """
    gc.set_threshold(20_000)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def end_process() -> None:
    """No garbage is looked for when all is let go at the end."""
    gc.freeze()


@contextmanager
def often_handed_over() -> Iterator[None]:
    """Threads that load side by side take turns at Python every 50 µs: one that waits for it leaves a CPU idle."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(50e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


def read_and_load(
    image: Path, weights: str | None, threads: int | None, precision: str | None
) -> tuple[Future[Photo], Network]:
    """The photo, read by a thread, and the network, whose layers load while the image is encoded.

    The photo comes first: it needs no NumPy (`images/photo.py`).
    """
    from ..images.photo import read_photo
    from ..util.deferred import by_the_way

    reading = by_the_way(lambda: read_photo(image))
    # While the photo is read. Not within another import: deep calls cross the end of a block of the interpreter's stack
    # (16 KB), some again and again, and each time the next block is mapped and let go; that took up to 20 ms.
    import numpy  # noqa: F401

    from ..network.loading import load_network

    return reading, load_network(weights, threads, precision, in_order=True)
