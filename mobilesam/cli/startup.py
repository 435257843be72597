"""How a command starts quickly: the order in which things load, and how often threads take turns at Python.

The time that `mobilesam segment` loses without each part, in milliseconds of about 1,000 to 1,300: the median of paired
differences, in turns in fresh processes. Three runs of 24 to 30 rounds on 2 shared cores of an AMD EPYC (Zen 3), Python
3.11; the range is that of the runs.

    fewer collections of garbage     73 to 159
    layers loaded in order           11 to 94
    frequent turns of threads         2 to 31
    one thread for NumPy's BLAS      -3 to 17
    the photo read by a thread      -17 to 4 for a photo of 640x427; 256 for one of 4000x3000 (9 rounds)
"""

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
    from ..network.loading import load_network  # while the photo is read

    return reading, load_network(weights, threads, precision, in_order=True)
