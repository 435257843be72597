"""Boxes written as text, on the command line or in a file, and the check of boxes against an image.

A file of boxes is CSV with a header, or JSON lines (one object per line). Coordinates are voxels or pixels.

    CSV     columns case, x0, y0, z0, x1, y1, z1; for pictures without z0 and z1
    JSON    {"case": "CT_001", "box": [x0, y0, z0, x1, y1, z1]}; for pictures [x0, y0, x1, y1]

The case is a case's name. With one case it may be left out. Commas, semicolons or tabs separate the cells of a CSV
file: the header tells which. The text is UTF-8, or UTF-16 with a byte order mark.
"""

from __future__ import annotations

import codecs
import csv
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..util.console import shortened

Box: TypeAlias = tuple[float, ...]

NAMES = ("x0", "y0", "z0", "x1", "y1", "z1")
FORM = "x0 y0 z0 x1 y1 z1, or x0 y0 x1 y1 for a picture"
_FLAT = ("x0", "y0", "x1", "y1")
_REST = "cells beyond the header"
MOST_BOXES = 65535  # numbers of boxes are written in 16 bits


def parse_box(text: str) -> Box:
    """Parse a box that was written as text: "X0,Y0,Z0,X1,Y1,Z1", or "X0,Y0,X1,Y1" for a picture.

    Raises:
        ValueError: The text has another form, or a number is not finite.
    """
    return _box([number for number in re.split(r"[\s,;]+", text) if number], text)


def _box(numbers: Sequence[object], written: object) -> Box:
    try:
        if any(isinstance(number, bool) or not isinstance(number, int | float | str) for number in numbers):
            raise TypeError
        box = tuple(float(number) for number in numbers)  # type: ignore[arg-type]
    except (OverflowError, TypeError, ValueError):  # a whole number of 400 digits overflows
        box = ()
    if len(box) not in (4, 6) or not all(map(math.isfinite, box)):
        raise ValueError(f"expected {FORM}, got {written!r:.80}")
    return box


def read_boxes(path: Path) -> dict[str, list[Box]]:
    """Read a file of boxes.

    Returns:
        The boxes of each case, in the file's order. The key is "" if the file names no cases.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file holds no boxes, or a line is invalid. The message gives the line number.
    """
    read = _READERS.get(path.suffix.lower())
    if read is None:
        raise ValueError(f"{path}: expected a file of boxes with the extension .csv or .jsonl")
    boxes: dict[str, list[Box]] = {}
    try:
        with path.open(encoding=_encoding(path), newline="") as file:
            for line, case, box in read(file):
                if boxes and (case == "") != ("" in boxes):
                    raise ValueError(f"line {line}: expected a case on every line, or on none")
                boxes.setdefault(case, []).append(box)
    except UnicodeError:
        raise ValueError(f"{path}: not a text file in UTF-8 or UTF-16") from None
    except ValueError as error:
        raise ValueError(f"{path}, {error}") from None
    if not boxes:
        raise ValueError(f"{path}: holds no boxes")
    return boxes


def _encoding(path: Path) -> str:
    with path.open("rb") as file:
        return "utf-16" if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"


def _csv_boxes(file: TextIO) -> Iterator[tuple[int, str, Box]]:
    header = file.readline()
    file.seek(0)
    separator = next((mark for mark in "\t;" if mark in header and "," not in header), ",")
    reader = csv.DictReader(file, strict=True, skipinitialspace=True, delimiter=separator, restkey=_REST, restval="")
    try:
        for cells in reader:
            try:
                if _REST in cells:
                    raise ValueError("more cells than the header")
                row = {str(name).strip(): cell.strip() for name, cell in cells.items() if cell.strip()}
                _check_names(row, ("case", *NAMES))
                names = NAMES if row.keys() & {"z0", "z1"} else _FLAT
                numbers = [row.get(name, "") for name in names]
                yield reader.line_num, row.get("case", ""), _box(numbers, ",".join(numbers))
            except ValueError as error:
                raise ValueError(f"line {reader.line_num}: {error}") from None
    except csv.Error as error:
        raise ValueError(f"line {reader.reader.line_num}: {error}") from None


def _json_boxes(file: TextIO) -> Iterator[tuple[int, str, Box]]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except RecursionError:
            raise ValueError(f"line {number}: not JSON for a box: brackets are nested too deeply") from None
        except ValueError as error:
            raise ValueError(f"line {number}: not JSON: {error}") from None
        if not isinstance(fields, dict):
            example = '{"case": "CT_001", "box": [10, 20, 5, 60, 80, 9]}'
            raise ValueError(f"line {number}: expected an object, such as {example}, got {shortened(line)}")
        case, box = fields.get("case"), fields.get("box")
        try:
            _check_names(fields, ("case", "box"))
            if case is not None and (not isinstance(case, str) or not case):
                raise ValueError(f"case: expected a case's name, got {case!r:.80}")
            if not isinstance(box, list):
                raise ValueError(f"box: expected {FORM}, got {box!r:.80}")
            yield number, case or "", _box(box, box)
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None


_READERS: dict[str, Callable[[TextIO], Iterator[tuple[int, str, Box]]]] = {".csv": _csv_boxes, ".jsonl": _json_boxes}


def _check_names(fields: Mapping[str, object], accepted: Sequence[str]) -> None:
    unknown = [name for name in fields if name not in accepted]
    if unknown:
        raise ValueError(f"unknown field {unknown[0]!r:.80}, accepted are {', '.join(accepted)}")


def checked_boxes(boxes: Any, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Check boxes against the image, and clip them to it. Fractions are widened to whole voxels or pixels.

    Args:
        boxes: An array, or sequences: x0 y0 z0 x1 y1 z1 of each box, or x0 y0 x1 y1 for a picture. Ends may equal the
            side of the image.
        shape: `Case.shape`: (D, H, W) for a volume, (H, W) for a picture. A volume of one slice takes both forms.

    Returns:
        (N, 6), or (N, 4) for a picture.

    Raises:
        ValueError: There are no boxes, or a box is invalid or outside the image. The message names the box.
    """
    axes, sides = len(shape), np.array(shape[::-1], np.float64)
    names = NAMES if axes == 3 else _FLAT
    try:
        boxes = list(boxes)
    except TypeError:  # not iterable
        boxes = []
    if not boxes:
        raise ValueError(f"no boxes; expected at least one box with {' '.join(names)}")
    if np.ndim(boxes[0]) == 0:
        boxes = [boxes]
    if len(boxes) > MOST_BOXES:
        raise ValueError(f"expected at most {MOST_BOXES} boxes, got {len(boxes)}")
    checked = np.zeros((len(boxes), 2 * axes), np.int64)
    for number, box in enumerate(boxes):
        try:
            values = np.asarray(box, np.float64)
        except (TypeError, ValueError):
            raise ValueError(f"box {number + 1}: expected numbers, got {box!r:.80}") from None
        written = f"box {number + 1} ({', '.join(f'{value:g}' for value in values.ravel())})"
        if axes == 3 and shape[0] == 1 and values.shape == (4,):
            values = np.array([*values[:2], 0, *values[2:], 1])
        if values.shape != (2 * axes,):
            kind = "volume" if axes == 3 else "picture"
            raise ValueError(f"{written}: expected {' '.join(names)}, because the image is a {kind}")
        if not np.isfinite(values).all():
            raise ValueError(f"{written}: expected finite numbers")
        low, high = values[:axes], values[axes:]
        for axis in np.flatnonzero(high <= low):
            raise ValueError(f"{written}: expected {names[axis]} < {names[axis + axes]}")
        if (low >= sides).any() or (high <= 0).any():
            size = "x".join(str(side) for side in shape[::-1])
            raise ValueError(f"{written}: outside the image, which has {size} {'voxels' if axes == 3 else 'pixels'}")
        checked[number] = np.concatenate([np.clip(np.floor(low), 0, sides), np.clip(np.ceil(high), 0, sides)])
    return checked
