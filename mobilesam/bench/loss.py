"""Measuring the accuracy loss of a precision: its embeddings and masks against those of fp32.

`scripts/measure_loss.py` runs this module. For each photo it prints the relative error (L2) of the embedding. For each
click of a grid it compares all the model's masks, not only the best, with the fp32 masks of the same tokens by their
IoU. LiteMedSAM and Light HQ-SAM have one mask, other models have three. Two empty masks have an IoU of 1.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..api.loading import load
from ..api.model import MobileSAM
from ..images.photo import open_rgb
from ..images.pictures import check_output, save_image
from ..network.precision import PRECISIONS
from ..util.console import describe
from ..util.files import check_distinct

GRID = 5  # clicks along each axis of the photo
LOST, GAINED, BOTH = (230, 60, 60), (60, 200, 90), (90, 140, 255)  # RGB colours of the overlay


@dataclass(frozen=True)
class Worst:
    """The pair of masks with the lowest IoU.

    Attributes:
        iou: IoU of the two masks.
        photo: the photo.
        click: (x, y) in pixels of the photo.
        index: index of the mask among the C masks of the click.
        masks: the mask in fp32, and the mask in bf16 or int8.
    """

    iou: float
    photo: Image.Image
    click: tuple[float, float]
    index: int
    masks: tuple[NDArray[np.bool_], NDArray[np.bool_]]

    def overlay(self) -> Image.Image:
        """The photo with both masks: blue in both, red only in fp32, green only in bf16 or int8. The click is white."""
        exact, narrow = self.masks
        pixels = np.asarray(self.photo, np.float32).copy()
        for region, colour in ((exact & narrow, BOTH), (exact & ~narrow, LOST), (narrow & ~exact, GAINED)):
            pixels[region] = 0.4 * pixels[region] + 0.6 * np.array(colour, np.float32)
        x, y = (round(value) for value in self.click)
        pixels[max(0, y - 3) : y + 4, max(0, x - 3) : x + 4] = 255
        return Image.fromarray(pixels.astype(np.uint8))


@dataclass(frozen=True)
class Loss:
    """The accuracy loss on one photo.

    Attributes:
        embedding: relative error (L2) of the embedding.
        ious: IoU of each mask, (clicks, C).
        worst: the pair of masks with the lowest IoU.
    """

    embedding: float
    ious: NDArray[np.float64]
    worst: Worst


def measure(photo: Image.Image, exact: MobileSAM, narrow: MobileSAM, grid: int = GRID) -> Loss:
    """Compare two models on an RGB photo. The clicks are the centres of `grid` × `grid` cells."""
    expected, got = exact.encode(photo), narrow.encode(photo)
    error = float(np.linalg.norm(got.features - expected.features) / np.linalg.norm(expected.features))
    ious, worst = [], None
    for click in _clicks(photo.size, grid):
        pairs = list(zip(expected.segment([click]).masks, got.segment([click]).masks))
        ious.append([iou(*pair) for pair in pairs])
        index = int(np.argmin(ious[-1]))
        if worst is None or ious[-1][index] < worst.iou:
            worst = Worst(ious[-1][index], photo, click, index, pairs[index])
    assert worst is not None
    return Loss(error, np.array(ious), worst)


def _clicks(size: tuple[int, int], grid: int) -> Iterator[tuple[float, float]]:
    width, height = size
    for row in range(grid):
        for column in range(grid):
            yield (column + 0.5) * width / grid, (row + 0.5) * height / grid


def iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """The IoU of two masks, 1 for two empty masks."""
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 1.0


def summary(ious: NDArray[np.float64]) -> str:
    """The numbers for the columns of `HEADER`: mean, median, 5th percentile and minimum of the IoUs."""
    values = ious.ravel()
    figures = (values.mean(), np.median(values), np.percentile(values, 5), values.min())
    return "  ".join(f"{value:8.5f}" for value in figures)


HEADER = "  ".join(f"{name:>8}" for name in ("mean", "median", "5th pc", "worst"))


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE", help="a photo; repeatable")
    parser.add_argument("--precision", choices=PRECISIONS[1:], default="bf16", help="default: %(default)s")
    parser.add_argument("--weights", metavar="FILE", help="a converted checkpoint (default: the packaged one)")
    parser.add_argument("--threads", type=int, metavar="N")
    parser.add_argument(
        "--grid", type=int, default=GRID, metavar="N", help="N × N clicks on each photo (default: %(default)s)"
    )
    parser.add_argument("--overlay", type=Path, metavar="FILE", help="write a picture of the mask that changes most")
    try:
        return _run(parser.parse_args(arguments))
    except (OSError, TypeError, ValueError) as error:
        parser.exit(2, f"{parser.prog}: error: {describe(error)}\n")


def _run(options: argparse.Namespace) -> int:
    if options.grid < 1:
        raise ValueError(f"--grid must be at least 1, got {options.grid}")
    if options.overlay:
        check_distinct([*options.images, options.overlay])
        check_output(options.overlay, "RGB")
    exact = load(options.weights, threads=options.threads, precision="fp32")
    narrow = load(options.weights, threads=options.threads, precision=options.precision)
    losses: list[Loss] = []
    width = max(len(path.name) for path in options.images)
    for path in options.images:
        losses.append(measure(open_rgb(path), exact, narrow, options.grid))
        if len(losses) == 1:
            print(f"{options.precision} against fp32, IoU of {losses[0].ious.size} masks a photo")
            print(f"{'':{width}}  embedding  {HEADER}")
        print(f"{path.name:{width}}  {losses[-1].embedding:9.2e}  {summary(losses[-1].ious)}", flush=True)
    worst = min((loss.worst for loss in losses), key=lambda worst: worst.iou)
    total = max(loss.embedding for loss in losses)
    print(f"{'all':{width}}  {total:9.2e}  {summary(np.concatenate([loss.ious for loss in losses]))}")
    if options.overlay:
        save_image(worst.overlay(), options.overlay)
        x, y = worst.click
        what = f"worst: mask {worst.index + 1} of the click {x:g},{y:g}, IoU {worst.iou:.5f}"
        print(f"{what}: {options.overlay}", file=sys.stderr)
    return 0
