"""The command `mobilesam bench`: its options, and running its sections.

The measurements are in `sections`, and those of this package alone in `layers` and `everything`. This module does not
import NumPy, because NumPy's BLAS reads its number of threads from the environment once, when it loads.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from ..util.console import show
from ..util.files import check_folder, whole_file
from ..util.options import add_model, positive
from .harness import Options

BLAS_THREADS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
DEFAULT_SECTIONS = ("encoder", "decoder", "end-to-end", "cold-start", "memory")
SECTIONS = (*DEFAULT_SECTIONS, "depthwise", "precisions")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--runs", type=positive, default=10, metavar="N", help="number of rounds, after a warm-up round (default: 10)")
    what = parser.add_mutually_exclusive_group()
    what.add_argument(
        "--only",
        type=_sections,
        default=DEFAULT_SECTIONS,
        metavar="SECTION,...",
        help=f"sections to run: {', '.join(SECTIONS)} (default: the first {len(DEFAULT_SECTIONS)})",
    )
    what.add_argument(
        "--layers", action="store_true", help="the time of each pass of the encoder, for this package alone"
    )
    what.add_argument(
        "--everything",
        action="store_true",
        help="time and memory of everything-mode, for this package alone; needs --image",
    )
    add("--image", type=Path, metavar="FILE", help="a photo (default: a generated one of 1024x683)")
    add(
        "--onnx",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="also measure the encoder.onnx and decoder.onnx in this folder; repeatable",
    )
    add(
        "--openvino-int8",
        type=Path,
        metavar="FILE",
        help="for section precisions: an encoder quantised by NNCF and saved by OpenVINO (.xml)",
    )
    add("--json", type=Path, metavar="FILE", help="write all measurements as JSON")
    add_model(parser)


def _sections(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in SECTIONS:
            raise argparse.ArgumentTypeError(f"no section {name!r}; there are {', '.join(SECTIONS)}")
    return names


def run(arguments: argparse.Namespace) -> int:
    # NumPy's BLAS gets one thread: the baseline that uses NumPy has a thread pool of its own.
    os.environ.update(dict.fromkeys(BLAS_THREADS, "1"))
    alone = "--layers" if arguments.layers else "--everything" if arguments.everything else None
    if alone and arguments.onnx:
        raise ValueError(f"--onnx cannot be used with {alone}, which measures this package alone")
    if arguments.everything and not arguments.image:
        raise ValueError("--everything needs --image, because its time depends on the objects in the photo")
    if arguments.json:
        check_folder(arguments.json)

    import tempfile

    with tempfile.TemporaryDirectory(prefix="mobilesam-", ignore_cleanup_errors=True) as folder:
        record = _measure(arguments, Path(folder))
    if arguments.json:
        with whole_file(arguments.json) as partial:
            partial.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0


def _measure(arguments: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Run the sections, print their tables, and return the record for JSON. Temporary files go into `folder`."""
    from .. import kernels
    from . import everything, layers
    from . import sections as comparisons

    threads = kernels.threads.default_threads() if arguments.threads is None else arguments.threads
    image = arguments.image.resolve() if arguments.image else made_up_photo(folder)
    weights = arguments.weights
    if weights and Path(weights).exists():
        weights = str(Path(weights).resolve())  # absolute, because the measured commands run in a temporary folder
    options = Options(
        arguments.runs,
        kernels.threads.checked(threads),
        image,
        weights,
        arguments.onnx,
        arguments.precision,
        arguments.openvino_int8,
    )
    bench: layers.LayersBench
    if arguments.layers:
        bench, sections = layers.LayersBench(options), ["layers"]
    elif arguments.everything:
        bench, sections = everything.EverythingBench(options, folder), ["everything"]
    else:
        bench, sections = comparisons.Bench(options, folder), arguments.only
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
    """Write a JPEG of blurred random colours, 1024x683, always the same. The times do not depend on its content."""
    import numpy as np
    from PIL import Image

    blots = np.random.default_rng(0).integers(0, 256, (8, 12, 3), np.uint8)
    path = folder / "photo.jpg"
    Image.fromarray(blots).resize((1024, 683), Image.Resampling.BICUBIC).save(path)
    return path
