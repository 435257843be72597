"""Timing this package against ONNX Runtime (and OpenVINO, where installed): options, rounds, tables, JSON.

What is measured is in `benchmark_sections`, and for this package alone in `benchmark_layers`, pass by pass, and in
`benchmark_everything`. This module loads no NumPy: its BLAS reads the number of threads from the environment, once,
when it loads.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from .arguments import add_model
from .console import show
from .files import check_folder, whole_file

PAUSE = 0.03  # seconds: OpenMP's workers spin for 10 ms after a region, and would slow the next engine
BLAS_THREADS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
DEFAULT_SECTIONS = ("encoder", "decoder", "end-to-end", "cold-start", "memory")
SECTIONS = (*DEFAULT_SECTIONS, "depthwise", "precisions")

# A child's peak memory includes what its parent held when it forked, so a bare interpreter starts it.
LAUNCHER = """
import json, resource, subprocess, sys, time
start = time.perf_counter()
child = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
seconds = time.perf_counter() - start
print(json.dumps([seconds * 1e3, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024]))
sys.exit(child.returncode)
"""


@dataclass
class Row:
    """One engine's measurements, in its table's unit, and how far its answer is from the table's first row's.

    A table's first row is this package.
    """

    engine: str
    samples: list[float]
    difference: float | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.samples)


class Printable(Protocol):
    """A table of results, as text and as what JSON can hold."""

    def lines(self) -> Iterator[str]: ...
    def as_json(self) -> dict[str, object]: ...


@dataclass
class Table:
    """One comparison. A row's ratio is its median over the first row's: above 1, this package does better."""

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
    """What the command line asked for."""

    runs: int
    threads: int
    image: Path
    weights: str | None
    onnx: list[Path] = field(default_factory=list)
    precision: str | None = None
    openvino_int8: Path | None = None


def interleave(cases: dict[str, Callable[[], Any]], runs: int, title: str) -> dict[str, list[float]]:
    """Milliseconds of `runs` calls of each case, after a warm-up; every round begins with another case."""
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
    """Milliseconds that the command takes, and the megabytes it holds at its peak."""
    import subprocess

    launch = [sys.executable, "-c", LAUNCHER, *command]
    process = subprocess.run(launch, cwd=folder, capture_output=True, text=True)
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {process.stderr.strip().splitlines()[-1:]}")
    milliseconds, megabytes = json.loads(process.stdout)
    return milliseconds, megabytes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--runs", type=positive, default=10, metavar="N", help="rounds, after one of warm-up (default: 10)")
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--only",
        type=_sections,
        default=DEFAULT_SECTIONS,
        metavar="SECTION,...",
        help=f"{', '.join(SECTIONS)} (default: the first {len(DEFAULT_SECTIONS)})",
    )
    what.add_argument(
        "--layers", action="store_true", help="where the encoder's time goes, pass by pass, this package alone"
    )
    what.add_argument(
        "--everything",
        action="store_true",
        help="everything-mode by points a side, and its memory, this package alone; needs --image",
    )
    add("--image", type=Path, metavar="FILE", help="a photo (default: a made-up one of 1024x683)")
    add(
        "--onnx",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="also time the encoder.onnx and decoder.onnx in this folder; repeatable",
    )
    add(
        "--openvino-int8",
        type=Path,
        metavar="FILE",
        help="in section precisions: an encoder that NNCF has quantised, as OpenVINO saves it (.xml)",
    )
    add("--json", type=Path, metavar="FILE", help="write everything measured as JSON")
    add_model(parser)


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")
    return int(text)


def _sections(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in SECTIONS:
            raise argparse.ArgumentTypeError(f"no section {name!r}; there are {', '.join(SECTIONS)}")
    return names


def run(arguments: argparse.Namespace) -> int:
    # NumPy's own threads stay out of it: the one baseline that is NumPy's has a pool of `threads`.
    os.environ.update(dict.fromkeys(BLAS_THREADS, "1"))
    alone = "--layers" if arguments.layers else "--everything" if arguments.everything else None
    if alone and arguments.onnx:
        raise ValueError(f"--onnx is not for {alone}, which runs this package alone")
    if arguments.everything and not arguments.image:
        raise ValueError("--everything needs --image: its time depends on how many objects the photo shows")
    if arguments.json:
        check_folder(arguments.json)

    import tempfile

    with tempfile.TemporaryDirectory(prefix="mobilesam-") as folder:
        record = _measure(arguments, Path(folder))
    if arguments.json:
        with whole_file(arguments.json) as partial:
            partial.write_text(json.dumps(record, indent=1) + "\n")
    return 0


def _measure(arguments: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Print everything as it is measured; returns what JSON is to hold. `folder` is for files of its own."""
    from . import benchmark_everything, benchmark_layers, benchmark_sections, kernels

    threads = kernels.threads.default_threads() if arguments.threads is None else arguments.threads
    image = arguments.image.resolve() if arguments.image else made_up_photo(folder)
    weights = arguments.weights
    if weights and Path(weights).exists():
        weights = str(Path(weights).resolve())  # the commands run in a folder of their own
    options = Options(
        arguments.runs,
        kernels.threads.checked(threads),
        image,
        weights,
        arguments.onnx,
        arguments.precision,
        arguments.openvino_int8,
    )
    bench: benchmark_layers.LayersBench
    if arguments.layers:
        bench, sections = benchmark_layers.LayersBench(options), ["layers"]
    elif arguments.everything:
        bench, sections = benchmark_everything.EverythingBench(options, folder), ["everything"]
    else:
        bench, sections = benchmark_sections.Bench(options, folder), arguments.only
    environment = bench.environment()
    for name, value in environment.items():
        print(f"{name:<13}{value}")
    tables = []
    for name in sections:
        for table in bench.section(name):
            show("")
            print(*["", *table.lines()], sep="\n", flush=True)
            tables.append(table)
    return {"environment": environment, "tables": [table.as_json() for table in tables]}


def made_up_photo(folder: Path) -> Path:
    """A JPEG of soft blots of colour, 1024x683, always the same: what it shows does not matter for the time."""
    import numpy as np
    from PIL import Image

    blots = np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)
    path = folder / "photo.jpg"
    Image.fromarray(blots).resize((1024, 683), Image.Resampling.BICUBIC).save(path)
    return path
