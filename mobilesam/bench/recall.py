"""Measuring how many records the faster everything-modes find, and in how much of the time.

`scripts/measure_recall.py` runs this module. The records of the exact mode are the reference. A record is found if the
other mode has a record whose mask has an IoU of at least MATCH with it. A record is extra if the exact mode has no such
record. The modes are timed in turns, from a photo in memory to its records, with the encoder.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..api.everything import HierarchicalMaskGenerator, MaskGenerator
from ..api.loading import load
from ..api.model import MobileSAM
from ..images.photo import open_rgb
from ..masks.objects import Record
from ..util.console import show
from ..util.options import add_model, positive
from .harness import PAUSE

MATCH = 0.9
EXACT = "exact"
HIGH_SCORES = (8.5, 4.0)  # values of high_score_thresh to measure


@dataclass
class Mode:
    """What a mode found on all photos so far.

    Attributes:
        found: number of the exact mode's records that it found.
        extra: number of its records that the exact mode has not.
        ratios: for each photo, its time divided by the exact mode's.
    """

    found: int = 0
    extra: int = 0
    ratios: list[float] = field(default_factory=list)


def modes(model: MobileSAM, points_per_side: int) -> dict[str, Callable[[Image.Image], list[Record]]]:
    """The modes to compare, by name. The exact mode is the first."""
    generators: dict[str, MaskGenerator] = {
        EXACT: MaskGenerator(model, points_per_side),
        "adaptive": MaskGenerator(model, points_per_side, adaptive=True),
    }
    for score in HIGH_SCORES:
        generators[f"hierarchical, {score:g}"] = HierarchicalMaskGenerator(
            model, points_per_side, high_score_thresh=score
        )
    return {name: generator.generate for name, generator in generators.items()}


def compare(records: Sequence[Record], exact: Sequence[Record]) -> tuple[int, int]:
    """The number of records of `exact` that are among `records`, and of `records` that are not among `exact`."""
    both = np.array([[_iou(one, other) >= MATCH for other in records] for one in exact]).reshape(len(exact), -1)
    return int(both.any(axis=1).sum()), int((~both.any(axis=0)).sum())


def _iou(one: Record, other: Record) -> float:
    a, b = _mask(one), _mask(other)
    return float((a & b).sum() / max(1, (a | b).sum()))


def _mask(record: Record) -> NDArray[np.bool_]:
    mask = record["segmentation"]
    assert isinstance(mask, np.ndarray)
    return mask


def main(argv: Sequence[str] | None = None) -> int:
    """The command of scripts/measure_recall.py. Returns the exit code: 0, or 2 after an error message of one line."""
    parser = argparse.ArgumentParser(description="Compare the adaptive and the hierarchical mode with the exact mode.")
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    parser.add_argument("--runs", type=positive, default=1, metavar="N", help="rounds for each photo (default: 1)")
    parser.add_argument("--points-per-side", type=positive, default=32, metavar="N", help="default: %(default)s")
    add_model(parser)
    options = parser.parse_args(argv)
    try:
        return _run(options)
    except (ImportError, MemoryError, OSError, ValueError) as error:
        print(f"measure_recall: error: {error}", file=sys.stderr)
        return 2


def _run(options: argparse.Namespace) -> int:
    model = load(options.weights, threads=options.threads, precision=options.precision)
    generate, count = modes(model, options.points_per_side), 0
    totals = {name: Mode() for name in generate}
    for path in options.images:
        photo = open_rgb(path)
        samples: dict[str, list[float]] = {name: [] for name in generate}
        records: dict[str, list[Record]] = {}
        for i in range(options.runs):
            for name, call in generate.items():
                show(f"{path.name}: {name}, round {i + 1} of {options.runs}")
                time.sleep(PAUSE)
                start = time.perf_counter()
                records[name] = call(photo)
                samples[name].append(time.perf_counter() - start)
        count += len(records[EXACT])
        medians = {name: statistics.median(times) for name, times in samples.items()}
        for name, total in totals.items():
            found, extra = compare(records[name], records[EXACT])
            total.found, total.extra = total.found + found, total.extra + extra
            total.ratios.append(medians[name] / medians[EXACT])
            show("")
            times = f"{min(samples[name]):.2f} / {medians[name]:.2f} s, {total.ratios[-1]:.2f}"
            counts = f"{len(records[name]):4} records, {found} found, {extra} extra"
            print(f"{path.name:26}  {name:18}  {counts}, {times}", flush=True)
    _print_totals(totals, count)
    return 0


def _print_totals(totals: Mapping[str, Mode], count: int) -> None:
    print(f"{'all photos':26}  {'mode':18}  found of {count}, extra, median ratio of the times, worst ratio")
    for name, total in totals.items():
        ratios = f"{statistics.median(total.ratios):.2f}, {max(total.ratios):.2f}"
        print(f"{'':26}  {name:18}  {total.found} ({total.found / max(1, count):.1%}), {total.extra}, {ratios}")
