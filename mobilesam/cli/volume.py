"""mobilesam volume: segments objects in medical volumes and pictures, given boxes, and writes label volumes."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..util.console import Progress, describe, say_counts, say_failed
from ..util.files import check_distinct, check_folder_to_be, remove_leftovers
from ..util.options import add_model
from . import startup

if TYPE_CHECKING:
    from ..api.model import MobileSAM
    from ..volumes.boxes import Box

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
    if arguments.boxes and len(arguments.cases) > 1:
        raise ValueError("--box is for one case: for several cases give --boxes FILE")
    if arguments.boxes and arguments.box_file:
        raise ValueError("give --box or --boxes, but not both")
    check_folder_to_be(arguments.output)

    from ..network.loading import load_network

    network = load_network(arguments.weights or MODEL, arguments.threads, arguments.precision, in_order=True)

    # Imported here, while background threads load the network's layers.
    from ..api.model import MobileSAM
    from ..volumes import window
    from ..volumes.reading import case_name, output_suffix

    chosen: Any = window.parse_window(arguments.window) if arguments.window else None
    chosen = window.parse_percentiles(arguments.percentiles) if arguments.percentiles else chosen
    names = {path: case_name(path) for path in arguments.cases}
    given = _given_boxes(arguments, list(names.values()))
    files = {path: arguments.output / (name + output_suffix(path)) for path, name in names.items()}
    check_distinct([*files, *files.values()])
    arguments.output.mkdir(parents=True, exist_ok=True)
    remove_leftovers(files.values())

    left = [path for path in files if not (arguments.resume and files[path].is_file())]
    model, written, failed = MobileSAM(network), 0, 0
    if len(left) > 1:
        network.loaded()  # an error of the weights is reported once, and not for each case
    try:
        for path in left:
            started = time.perf_counter()
            try:
                count = _segment(path, chosen, given, names[path], files[path], model)
            except (ImportError, MemoryError, OSError, ValueError) as error:
                if len(files) == 1:
                    raise
                say_failed(path, describe(error))
                failed += 1
                continue
            written += 1
            print(f"{path}: {count} objects, {time.perf_counter() - started:.2f} s: {files[path]}", flush=True)
    finally:
        if len(files) > 1:
            say_counts(written, failed, len(files) - len(left), len(files), arguments.output)
    return 1 if failed else 0


def _given_boxes(arguments: argparse.Namespace, names: Sequence[str]) -> Mapping[str, Sequence[Box]] | None:
    """The boxes of the command line or of the file of boxes, by case. None if the cases' own boxes are used.

    The key "" holds boxes without the name of a case.
    """
    from ..volumes.boxes import parse_box, read_boxes

    if arguments.boxes:
        return {"": [parse_box(text) for text in arguments.boxes]}
    if not arguments.box_file:
        return None
    given = read_boxes(arguments.box_file)
    if "" in given and len(names) > 1:
        raise ValueError(f"{arguments.box_file}: names no cases, and there are several: add the column case")
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise ValueError(f"{arguments.box_file}: there are two cases with the name {repeated[0]}")
    return given


def _segment(
    path: Path, window: Any, given: Mapping[str, Sequence[Box]] | None, name: str, file: Path, model: MobileSAM
) -> int:
    """Segment a case, write its labels, and return the number of objects that have at least one voxel."""
    import numpy as np

    from ..volumes.boxes import checked_boxes
    from ..volumes.reading import open_case
    from ..volumes.segment import segment_picture, segment_volume

    case = open_case(path, window)
    boxes = case.boxes if given is None else given.get(name, given.get(""))
    if boxes is None:
        missing = "give --box or --boxes" if given is None else "the file of boxes has none"
        raise ValueError(f"{path}: no boxes for case {name}: {missing}")
    try:
        checked = checked_boxes(boxes, case.shape)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if case.is_volume:
        with Progress(None, "slices") as progress:
            labels = segment_volume(case.image, checked, model=model, progress=_shown(progress, case.name))
    else:
        labels = segment_picture(case.image, checked, model=model)
    case.write(labels, file)
    return int((np.bincount(labels.ravel())[1:] > 0).sum())  # np.unique would import numpy.ma


def _shown(progress: Progress, name: str) -> Callable[[int, int], None]:
    def show(done: int, total: int) -> None:
        progress.total = total
        progress.update(done, name)

    return show
