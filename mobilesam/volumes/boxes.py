"""Boxes written as text, on the command line or in a file, and the check of boxes against an image.

A file of boxes is CSV with a header, or JSON lines (one object per line). Coordinates are voxels or pixels.

    CSV     columns case, x0, y0, z0, x1, y1, z1; for pictures without z0 and z1
    JSON    {"case": "CT_001", "box": [x0, y0, z0, x1, y1, z1]}; for pictures [x0, y0, x1, y1]

The case is a case's name. With one case it may be left out. Commas, semicolons or tabs separate the cells of a CSV
file: the header tells which. The text is UTF-8, or UTF-16 with a byte order mark.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..util.rows import read_rows

Box: TypeAlias = tuple[float, ...]

NAMES = ("x0", "y0", "z0", "x1", "y1", "z1")
FORM = "x0 y0 z0 x1 y1 z1, or x0 y0 x1 y1 for a picture"
_FLAT = ("x0", "y0", "x1", "y1")
_EXAMPLE = '{"case": "CT_001", "box": [10, 20, 5, 60, 80, 9]}'
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
    boxes: dict[str, list[Box]] = {}
    parse, names = (_json_box, ("case", "box")) if path.suffix.lower() == ".jsonl" else (_csv_box, ("case", *NAMES))
    for line, case, box in read_rows(path, parse, names, "boxes", _EXAMPLE):
        if boxes and (case == "") != ("" in boxes):
            raise ValueError(f"{path}, line {line}: expected a case on every line, or on none")
        boxes.setdefault(case, []).append(box)
    return boxes


def _csv_box(line: int, fields: Mapping[str, Any]) -> tuple[int, str, Box]:
    names = NAMES if fields.keys() & {"z0", "z1"} else _FLAT
    numbers = [fields.get(name, "") for name in names]
    return line, fields.get("case", ""), _box(numbers, ",".join(numbers))


def _json_box(line: int, fields: Mapping[str, Any]) -> tuple[int, str, Box]:
    case, box = fields.get("case"), fields.get("box")
    if case is not None and (not isinstance(case, str) or not case):
        raise ValueError(f"case: expected a case's name, got {case!r:.80}")
    if not isinstance(box, list):
        raise ValueError(f"box: expected {FORM}, got {box!r:.80}")
    return line, case or "", _box(box, box)


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
