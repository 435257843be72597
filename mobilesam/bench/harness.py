"""Interleaved timing of several engines, and tables of the results. This module does not import NumPy."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ..util.console import show

if TYPE_CHECKING:
    from typing import TypeAlias

    from numpy.typing import NDArray

    Answer: TypeAlias = NDArray[Any]

MEASURES_MEMORY = sys.platform != "win32"  # Windows has no getrusage
PAUSE = 0.03  # seconds between calls: OpenMP's workers spin for 10 ms after a call and would slow down the next engine
# A bare interpreter starts the command, because a child's peak memory includes its parent's memory at the fork.
LAUNCHER = """
import json, subprocess, sys, time
start = time.perf_counter()
child = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
seconds = time.perf_counter() - start
megabytes = float("nan")
if sys.platform != "win32":
    import resource
    unit = 1 << 20 if sys.platform == "darwin" else 1 << 10
    megabytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / unit
print(json.dumps([seconds * 1e3, megabytes]))
sys.exit(child.returncode)
"""


@dataclass
class Row:
    """The measurements of one engine. The first row of a table belongs to this package.

    Attributes:
        engine: name of the engine.
        samples: the measurements, in the unit of the table.
        difference: distance of the engine's result from the first row's result, or None if results are not compared.
    """

    engine: str
    samples: list[float]
    difference: float | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.samples)


@dataclass(frozen=True)
class Case:
    """A call to time.

    Attributes:
        call: the call.
        answer: converts the call's result to an array, to compare it with this package's array.
    """

    call: Callable[[], Any]
    answer: Callable[[Any], Answer]


class Printable(Protocol):
    """A table of results that can be printed, or written as JSON."""

    def lines(self) -> Iterator[str]: ...
    def as_json(self) -> dict[str, object]: ...


@dataclass
class Table:
    """One comparison of engines. A row's ratio is its median divided by the first row's median.

    A ratio above 1 means that this package is better.
    """

    title: str
    unit: str
    rows: list[Row]

    def lines(self) -> Iterator[str]:
        yield f"{self.title} [{self.unit}]"
        width = max(len(row.engine) for row in self.rows)
        compared = any(row.difference is not None for row in self.rows)
        header = f"  {'engine':<{width}}  {'min':>9}  {'median':>9}  {'ratio':>7}"
        yield header + ("  difference" if compared else "")
        for row in self.rows:
            ratio = row.median / self.rows[0].median
            line = f"  {row.engine:<{width}}  {min(row.samples):>9.2f}  {row.median:>9.2f}  {ratio:>6.2f}x"
            yield line + ("" if row.difference is None else f"  {row.difference:>10.1e}")

    def as_json(self) -> dict[str, object]:
        rows = [
            {
                "engine": row.engine,
                "min": min(row.samples),
                "median": row.median,
                "ratio": row.median / self.rows[0].median,
                "difference": row.difference,
                "samples": row.samples,
            }
            for row in self.rows
        ]
        return {"title": self.title, "unit": self.unit, "rows": rows}


@dataclass
class Options:
    """Options of `mobilesam bench`.

    Attributes:
        runs: number of rounds that are counted. A warm-up round is not counted.
        threads: number of threads of every engine.
        image: the photo.
        weights: the checkpoint, or None for the packaged one.
        onnx: folders that hold an encoder.onnx and a decoder.onnx to measure.
        precision: this package's precision, or None for the default.
        openvino_int8: path of an encoder quantised for OpenVINO, or None.
    """

    runs: int
    threads: int
    image: Path
    weights: str | None
    onnx: list[Path] = field(default_factory=list)
    precision: str | None = None
    openvino_int8: Path | None = None


def interleave(cases: dict[str, Callable[[], Any]], runs: int, title: str) -> dict[str, list[float]]:
    """Time the cases in rounds, after a warm-up. A round calls each case once. The first case differs between rounds.

    Args:
        cases: the calls by name.
        runs: number of rounds.
        title: title of the progress line.

    Returns:
        `runs` times of each case, in milliseconds.
    """
    for call in cases.values():
        call()
    names = list(cases)
    times: dict[str, list[float]] = {name: [] for name in names}
    for i in range(runs):
        show(f"{title}: round {i + 1} of {runs}")
        first = i % len(names)
        for name in names[first:] + names[:first]:
            time.sleep(PAUSE)
            start = time.perf_counter()
            cases[name]()
            times[name].append((time.perf_counter() - start) * 1e3)
    return times


def child(command: Sequence[str], folder: Path) -> tuple[float, float]:
    """Run a command in a folder, and return its time in milliseconds and its peak memory in megabytes.

    The memory is NaN without MEASURES_MEMORY.
    """
    import subprocess

    launch = [sys.executable, "-c", LAUNCHER, *command]
    process = subprocess.run(launch, cwd=folder, capture_output=True, text=True, errors="replace")
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {process.stderr.strip().splitlines()[-1:]}")
    milliseconds, megabytes = json.loads(process.stdout)
    return milliseconds, megabytes
