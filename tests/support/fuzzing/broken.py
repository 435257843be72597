"""A target that fails in a known way at each case, for tests of the fuzzer."""

import os
import signal
import warnings
from pathlib import Path
from random import Random

import numpy as np

from .target import Case, Maker, Target


def fine() -> None:
    raise ValueError("a documented error")


def undocumented() -> None:
    raise KeyError("name")


def several_lines() -> None:
    raise ValueError("first\nsecond")


def overflow() -> None:
    np.float32(3e38) * np.float32(10)


def unclosed() -> None:
    Path(os.devnull).open()  # noqa: SIM115 (the mistake that must be found)


def harmless_warning() -> None:
    warnings.warn("for the user", UserWarning, stacklevel=1)


def signal_11() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def exits() -> None:
    os._exit(3)


def busy() -> None:
    signal.setitimer(signal.ITIMER_PROF, 0.2)  # the worker's limit is longer
    while True:
        pass


WAYS = (fine, busy, signal_11, undocumented, several_lines, overflow, unclosed, harmless_warning, exits)


def start(_: Path) -> Maker:
    def make(rng: Random) -> Case:
        way = rng.choice(WAYS)
        return Case(way, way.__name__.encode(), way.__name__)

    return make


TARGET = Target("fuzzing.broken:TARGET", 40, start, (ValueError,))
