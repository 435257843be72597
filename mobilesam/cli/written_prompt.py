"""Prompts written as text, on the command line or in a file, with coordinates in pixels or in per cent of the image.

A file of prompts is CSV with a header, or JSON lines (one object per line). Its fields:

    image    path of the picture, relative to the folder of the file of prompts, or absolute; the only required field
    points   x y of each point: "220 140 420 40" in CSV, [[220, 140], [420, 40]] in JSON
    labels   a number for each point, 1 on the object, 0 not on it: "1 0" or [1, 0]; default: all 1
    box      x0 y0 x1 y1: "60 20 430 290" or [60, 20, 430, 290]
    output   the file to write in the output folder; its extension sets the format

A coordinate in per cent is written as 50% in CSV and as "50%" in JSON. Spaces or commas separate the numbers in a CSV
cell. Commas, semicolons or tabs separate the cells: the header tells which. The text is UTF-8, or UTF-16 with a byte
order mark.
"""

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ..util.rows import read_rows

FIELDS = ("image", "points", "labels", "box", "output")
_LABELS = {"0": 0, "1": 1}


class Coordinate(NamedTuple):
    """A position along a side of the image.

    Attributes:
        value: Position in pixels, or in per cent of the side.
        per_cent: Whether `value` is in per cent.
    """

    value: float
    per_cent: bool

    def pixels(self, side: int) -> float:
        return self.value * side / 100 if self.per_cent else self.value


class WrittenPrompt(NamedTuple):
    """A prompt with coordinates in pixels or in per cent, as the user wrote it.

    Attributes:
        points: One (x, y) per point.
        labels: One label per point.
        box: (x0, y0, x1, y1), or None.
    """

    points: tuple[tuple[Coordinate, Coordinate], ...]
    labels: tuple[int, ...]
    box: tuple[Coordinate, ...] | None

    def on(self, width: int, height: int) -> dict[str, Any]:
        """The arguments points, labels and box of `segment`, in pixels of an image of this width and height."""
        box = self.box and [place.pixels(side) for place, side in zip(self.box, (width, height) * 2)]
        if not self.points:
            return {"box": box}
        points = [(x.pixels(width), y.pixels(height)) for x, y in self.points]
        return {"points": points, "labels": self.labels, "box": box}


class Row(NamedTuple):
    """A row of a file of prompts.

    Attributes:
        line: Line number in the file, from 1.
        image: Path of the image, as written.
        prompt: The prompt, or None if the row has none.
        output: Output file, as written, or None if the row has none.
    """

    line: int
    image: str
    prompt: WrittenPrompt | None
    output: str | None


def coordinates(value: object, count: int | None, form: str) -> tuple[Coordinate, ...]:
    """Parse a text or a list of numbers as coordinates.

    Args:
        value: A text such as "10,50%", or a list of numbers and texts.
        count: Expected number of coordinates. None for any even number above 0.
        form: The expected form, for the error message.

    Raises:
        ValueError: `value` does not have the expected form, or a percentage is not within 0% to 100%.
    """
    try:
        places = tuple(_coordinate(number) for number in _list(value))
    except (OverflowError, TypeError, ValueError):  # a whole number of 400 digits overflows
        places = ()
    if not places or len(places) != (count or len(places) // 2 * 2):
        raise ValueError(f"expected {form}, got {value!r:.80}")
    outside = [place for place in places if place.per_cent and not 0 <= place.value <= 100]
    if outside:
        raise ValueError(f"expected 0% to 100% of the image's side, got {outside[0].value:g}%")
    return places


def _coordinate(text: object) -> Coordinate:
    if isinstance(text, str):
        per_cent = text.strip().endswith("%")
        return Coordinate(_finite(text.strip().removesuffix("%")), per_cent)
    if isinstance(text, bool) or not isinstance(text, int | float):
        raise TypeError
    return Coordinate(_finite(text), False)


def _finite(number: str | float) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError
    return value


def read_prompts(path: Path) -> list[Row]:
    """Read a file of prompts.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file holds no prompts, or a line is invalid. The message gives the line number.
    """
    return read_rows(path, _row, FIELDS, "prompts", '{"image": "cat.jpg"}', numbers=("points", "box"))


def _row(line: int, fields: Mapping[str, object]) -> Row:
    image, output = fields.get("image"), fields.get("output")
    if not isinstance(image, str) or not image:
        raise ValueError("no image: give the path of the picture in field 'image'")
    if output is not None and not isinstance(output, str):
        raise ValueError(f"output: expected a file name, got {output!r:.80}")
    return Row(line, image, _prompt(fields), output)


def _prompt(fields: Mapping[str, object]) -> WrittenPrompt | None:
    if not fields.keys() & {"points", "labels", "box"}:
        return None
    numbers = _named("points", _pairs, fields)
    points = tuple(zip(numbers[::2], numbers[1::2]))
    labels = _named("labels", _labels, fields) if "labels" in fields else (1,) * len(points)
    if len(labels) != len(points):
        raise ValueError(f"labels: expected one for each of {len(points)} points, got {len(labels)}")
    box = _named("box", lambda value: coordinates(value, 4, "x0 y0 x1 y1"), fields) if "box" in fields else None
    return WrittenPrompt(points, labels, box)


def _named(name: str, read: Callable[[object], Any], fields: Mapping[str, object]) -> Any:
    """Parse field `name` with `read`. Returns () if there is no such field. Error messages begin with `name`."""
    if name not in fields:
        return ()
    try:
        return read(fields[name])
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _pairs(value: object) -> tuple[Coordinate, ...]:
    if isinstance(value, list):
        if not all(isinstance(pair, list) and len(pair) == 2 for pair in value):
            raise ValueError(f"expected [[x, y], ...], got {value!r:.80}")
        value = [number for pair in value for number in pair]
    return coordinates(value, None, "x y of each point")


def _labels(value: object) -> tuple[int, ...]:
    labels = tuple(_LABELS.get(str(label), -1) for label in _list(value))
    if -1 in labels:
        raise ValueError(f"expected 1 (on the object) or 0 (not on it) for each point, got {value!r:.80}")
    return labels


def _list(value: object) -> list[object]:
    """The elements of a JSON list, or the numbers of a CSV cell as texts."""
    if isinstance(value, str):
        return [text for text in re.split(r"[\s,;]+", value) if text]
    return value if isinstance(value, list) else [value]
