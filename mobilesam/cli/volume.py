"""mobilesam volume: segments objects in medical volumes and pictures, given boxes, and writes label volumes."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..util.console import Progress, describe, say_failed
from ..util.files import check_distinct, check_folder_to_be, remove_leftovers
from ..util.options import add_model
from . import startup

if TYPE_CHECKING:
    from ..api.model import MobileSAM
    from ..volumes.case import Case

MODEL = "lite_medsam"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run)
    add = parser.add_argument
    add(
        "cases",
        nargs="+",
        type=Path,
        metavar="CASE",
        help="an .npz file of the CVPR 2024 challenge, a NIfTI file (.nii, .nii.gz), a DICOM file, or a folder with a "
        "DICOM series; NIfTI and DICOM need mobilesam[medical]",
    )
    add("--output", type=Path, required=True, metavar="DIR", help="the folder to write CASE.npz or CASE.nii.gz into")
    add(
        "--box",
        dest="boxes",
        action="append",
        default=[],
        metavar="X0,Y0,Z0,X1,Y1,Z1",
        help="a box around an object, in voxels (pictures: X0,Y0,X1,Y1); repeatable; only for one case",
    )
    add(
        "--boxes",
        dest="box_file",
        type=Path,
        metavar="FILE",
        help="a file of boxes: .csv with the columns case,x0,y0,z0,x1,y1,z1, or .jsonl with case and box",
    )
    window = parser.add_mutually_exclusive_group()
    window.add_argument(
        "--window",
        metavar="LEVEL,WIDTH",
        help="intensities that become black to white, such as 40,400 for soft tissue in CT; or file, for the window "
        "that a DICOM file gives",
    )
    window.add_argument(
        "--percentiles",
        metavar="LOW,HIGH",
        help="percentiles of the intensities that become black and white (default: 0.5,99.5; 8-bit values stay)",
    )
    add("--resume", action="store_true", help="skip cases whose output files exist already")
    add_model(parser, default=f"{MODEL}, downloaded")


@startup.short_switch_interval()
def run(arguments: argparse.Namespace) -> int:
    """Returns the exit code: 0, or 1 if one of several cases failed."""
    from ..network.loading import load_network

    if arguments.boxes and len(arguments.cases) > 1:
        raise ValueError("--box is for one case: for several cases give --boxes FILE")
    if arguments.boxes and arguments.box_file:
        raise ValueError("give --box or --boxes, but not both")
    check_folder_to_be(arguments.output)
    network = load_network(arguments.weights or MODEL, arguments.threads, arguments.precision, in_order=True)

    # Imported here, while background threads load the network's layers.
    from ..api.model import MobileSAM
    from ..volumes import boxes, window
    from ..volumes.reading import case_name, open_case, output_suffix

    given = boxes.read_boxes(arguments.box_file) if arguments.box_file else {}
    if arguments.boxes:
        given = {"": [boxes.parse_box(text) for text in arguments.boxes]}
    names = [case_name(path) for path in arguments.cases]
    _check_names(given, names)
    chosen: Any = window.parse_window(arguments.window) if arguments.window else None
    chosen = window.parse_percentiles(arguments.percentiles) if arguments.percentiles else chosen
    files = [arguments.output / (name + output_suffix(path)) for name, path in zip(names, arguments.cases)]
    check_distinct([*arguments.cases, *files])
    arguments.output.mkdir(parents=True, exist_ok=True)
    remove_leftovers(files)

    model, failed, skipped = MobileSAM(network), 0, 0
    for path, name, file in zip(arguments.cases, names, files):
        if arguments.resume and file.is_file():
            skipped += 1
            continue
        started = time.perf_counter()
        try:
            case = open_case(path, chosen)
            wanted = given.get(name, given.get("", case.boxes))
            if wanted is None:
                raise ValueError(f"{path}: no boxes for case {name}: give --box or --boxes")
            try:
                checked = boxes.checked_boxes(wanted, case.shape)
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from None
            count = _segment(case, checked, file, model)
        except (ImportError, MemoryError, OSError, ValueError) as error:
            if len(arguments.cases) == 1:
                raise
            say_failed(path, describe(error))
            failed += 1
            continue
        print(f"{path}: {count} objects, {time.perf_counter() - started:.2f} s: {file}", flush=True)
    if skipped:
        print(f"{skipped} there already: {arguments.output}", flush=True)
    return 1 if failed else 0


def _segment(case: Case, boxes: Any, file: Path, model: MobileSAM) -> int:
    """Segment a case, write its labels, and return the number of objects that have at least one voxel."""
    import numpy as np

    from ..volumes.segment import segment_picture, segment_volume

    if case.is_volume:
        with Progress(None, "slices") as progress:
            labels = segment_volume(case.image, boxes, model=model, progress=_shown(progress, case.name))
    else:
        labels = segment_picture(case.image, boxes, model=model)
    case.write(labels, file)
    return len(np.unique(labels[labels > 0]))


def _shown(progress: Progress, name: str) -> Callable[[int, int], None]:
    def show(done: int, total: int) -> None:
        progress.total = total
        progress.update(done, name)

    return show


def _check_names(given: Mapping[str, Sequence[Any]], names: Sequence[str]) -> None:
    if "" in given and len(names) > 1:
        raise ValueError("the file of boxes names no cases, and there are several: add the column case")
    unknown = [name for name in given if name and name not in names]
    if unknown:
        raise ValueError(f"the file of boxes names a case that is not given: {unknown[0]}")
