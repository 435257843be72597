"""Rows of a text file that users write: CSV with a header, or JSON lines (one object per line).

Commas, semicolons or tabs separate the cells of a CSV file: the header tells which. The text is UTF-8, or UTF-16 with a
byte order mark.
"""

from __future__ import annotations

import codecs
import csv
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO, TypeVar

from .console import shortened

T = TypeVar("T")

SUFFIXES = (".csv", ".jsonl")
_REST = "cells beyond the header"
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}


def read_rows(
    path: Path,
    parse: Callable[[int, Mapping[str, Any]], T],
    names: Sequence[str],
    what: str,
    example: str,
    *,
    numbers: Sequence[str] = (),
) -> list[T]:
    """Read a file of rows.

    Args:
        path: The file, with the extension .csv or .jsonl.
        parse: Converts a line number and the fields of a row that are given. Its ValueErrors get the line number.
        names: Names of the accepted fields.
        what: The rows in the plural, for messages, such as "prompts".
        example: A JSON object, for messages.
        numbers: Names of the fields with several numbers. A comma must not be a decimal sign in them.

    Raises:
        OSError: The file cannot be read.
        ValueError: The file holds no rows, or a row is invalid. The message gives the file and the line number.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path}: expected a file of {what} with the extension {' or '.join(SUFFIXES)}")
    rows = []
    try:
        with path.open(encoding=_encoding(path), newline="") as file:
            is_csv = path.suffix.lower() == ".csv"
            for line, fields in _csv_rows(file, numbers) if is_csv else _json_rows(file, example):
                try:
                    unknown = [name for name in fields if name not in names]
                    if unknown:
                        raise ValueError(f"unknown field {unknown[0]!r:.80}, accepted are {', '.join(names)}")
                    rows.append(parse(line, fields))
                except ValueError as error:
                    raise ValueError(f"line {line}: {error}") from None
    except UnicodeError:
        raise ValueError(f"{path}: not a text file in UTF-8 or UTF-16") from None
    except ValueError as error:
        raise ValueError(f"{path}, {error}") from None
    if not rows:
        raise ValueError(f"{path}: holds no {what}")
    return rows


def _encoding(path: Path) -> str:
    with path.open("rb") as file:
        return "utf-16" if file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"


def _csv_rows(file: TextIO, numbers: Sequence[str]) -> Iterator[tuple[int, Mapping[str, Any]]]:
    header = file.readline()
    file.seek(0)
    separator = next((mark for mark in "\t;" if mark in header and "," not in header), ",")
    reader = csv.DictReader(file, strict=True, skipinitialspace=True, delimiter=separator, restkey=_REST, restval="")
    try:
        for cells in reader:
            if _REST in cells:
                mark = _SEPARATORS[separator]
                raise ValueError(f"line {reader.line_num}: more cells than the header; quote a cell that holds {mark}")
            row = {str(name).strip(): cell.strip() for name, cell in cells.items() if cell.strip()}
            for name in numbers:
                if separator != "," and re.search(r"\d,\d\S* +\S*\d,\d", row.get(name, "")):
                    raise ValueError(
                        f"line {reader.line_num}: {name}: write decimals with a point, got {row[name]!r:.80}"
                    )
            yield reader.line_num, row
    except csv.Error as error:
        raise ValueError(f"line {reader.reader.line_num}: {error}") from None


def _json_rows(file: TextIO, example: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except RecursionError:
            raise ValueError(f"line {number}: not JSON: brackets are nested too deeply") from None
        except ValueError as error:
            raise ValueError(f"line {number}: not JSON: {error}") from None
        if not isinstance(fields, dict):
            raise ValueError(f"line {number}: expected an object, such as {example}, got {shortened(line)}")
        yield number, {name: value for name, value in fields.items() if value is not None}
