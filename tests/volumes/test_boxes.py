"""Boxes: as text, in CSV and JSON lines files with line numbers in errors, and against the image."""

import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobilesam.volumes.boxes import checked_boxes, parse_box, read_boxes

BOXES = {"CT_001": [(10, 20, 5, 60, 80, 9), (1, 2, 3, 4.5, 6, 7)], "MR 2": [(0, 0, 0, 9, 9, 9)]}
CSV = """case,x0,y0,z0,x1,y1,z1
CT_001,10,20,5,60,80,9
MR 2, 0, 0, 0, 9, 9, 9

CT_001,1,2,3,4.5,6,7
"""
SHAPE = (10, 80, 100)  # D, H, W


def test_a_box_as_text():
    assert parse_box("10,20,5,60,80,9") == (10, 20, 5, 60, 80, 9)
    assert parse_box(" 10 20, 5.5;60 ") == (10, 20, 5.5, 60)


@pytest.mark.parametrize("text", ["", "1,2,3", "1,2,3,4,5", "1,2,3,4,5,6,7", "1,2,x,4", "1,2,nan,4", "1,2,3,inf"])
def test_a_text_that_is_no_box(text):
    expected = f"expected x0 y0 z0 x1 y1 z1, or x0 y0 x1 y1 for a picture, got {text!r}"
    with pytest.raises(ValueError, match=re.escape(expected)):
        parse_box(text)


FORMS = ["csv", "csv with a byte order mark", "csv in UTF-16", "csv with semicolons", "csv with tabs", "jsonl"]


@pytest.mark.parametrize("form", FORMS)
def test_csv_and_json_lines_give_the_same_boxes(tmp_path, form):
    file = tmp_path / f"boxes.{form.split()[0].upper()}"
    separator = {"csv with semicolons": ";", "csv with tabs": "\t"}.get(form, ",")
    lines = [json.dumps({"case": case, "box": box}) for case, boxes in BOXES.items() for box in boxes]
    text = "\n\n".join(lines) if form == "jsonl" else CSV.replace(",", separator)
    encoding = {"csv with a byte order mark": "utf-8-sig", "csv in UTF-16": "utf-16"}.get(form, "utf-8")
    file.write_text(text, encoding)
    assert read_boxes(file) == BOXES


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("boxes.csv", "x0,y0,x1,y1\n1,2,3,4\n5,6,7,8"),
        ("boxes.csv", "case,x0,y0,z0,x1,y1,z1\n,1,2,,3,4,\n,5,6,,7,8,"),
        ("boxes.jsonl", '{"box": [1, 2, 3, 4]}\n{"case": null, "box": [5, 6, 7, 8]}'),
    ],
)
def test_boxes_of_a_picture_without_a_case(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    assert read_boxes(tmp_path / name) == {"": [(1, 2, 3, 4), (5, 6, 7, 8)]}


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("boxes.csv", "", ": holds no boxes"),
        ("boxes.csv", "case,x0,y0,x1,y1\n", ": holds no boxes"),
        ("boxes.csv", "x0,y0,x1,y1\n1,2,3,4\n1,2,3\n", ", line 3: expected x0 y0 z0 x1 y1 z1, or x0 y0 x1 y1 for a p"),
        ("boxes.csv", "x0,y0,z0,x1,y1\n1,2,3,4,5\n", "picture, got '1,2,3,4,5,'"),
        ("boxes.csv", "x0,y0,x1,y1\n1,2,3,four\n", "got '1,2,3,four'"),
        ("boxes.csv", "x0,y0,x1,y1\n1,2,3,4,5\n", ", line 2: more cells than the header"),
        ("boxes.csv", "x0,y0,w,h\n1,2,3,4\n", ", line 2: unknown field 'w', accepted are case, x0, y0, z0, x1, y1, z1"),
        ("boxes.csv", 'x0,y0,x1,y1\n"1,2,3,4\n', ", line 2: unexpected end of data"),
        ("boxes.csv", "case,x0,y0,x1,y1\na,1,2,3,4\n,1,2,3,4\n", ", line 3: expected a case on every line, or on none"),
        ("boxes.jsonl", "\n", ": holds no boxes"),
        ("boxes.jsonl", "\n{\n", ", line 2: not JSON: Expecting property name"),
        ("boxes.jsonl", "[" * 100_000, ", line 1: not JSON: brackets are nested too deeply"),
        ("boxes.jsonl", "[1, 2, 3, 4]", ", line 1: expected an object, such as {"),
        ("boxes.jsonl", '{"image": "a"}', ", line 1: unknown field 'image', accepted are case, box"),
        ("boxes.jsonl", '{"case": 7, "box": [1, 2, 3, 4]}', ", line 1: case: expected a case's name, got 7"),
        ("boxes.jsonl", '{"case": "", "box": [1, 2, 3, 4]}', ", line 1: case: expected a case's name, got ''"),
        ("boxes.jsonl", '{"case": "a"}', ", line 1: box: expected x0 y0 z0 x1 y1 z1, or x0 y0 x1 y1 for a picture, "),
        ("boxes.jsonl", '{"box": "1,2,3,4"}', "got '1,2,3,4'"),
        ("boxes.jsonl", '{"box": [1, 2, true, 4]}', "got [1, 2, True, 4]"),
        ("boxes.jsonl", '{"box": [1, 2, 3, [4]]}', "got [1, 2, 3, [4]]"),
        ("boxes.jsonl", '{"box": [1, 2, 3, NaN]}', "got [1, 2, 3, nan]"),
        ("boxes.jsonl", f'{{"box": [1, 2, 3, {"9" * 400}]}}', "got [1, 2, 3, 9999"),
        (
            "boxes.jsonl",
            '{"box": [1, 2, 3, 4]}\n{"case": "a", "box": [1, 2, 3, 4]}',
            ", line 2: expected a case on eve",
        ),
        ("boxes.txt", "1,2,3,4", ": expected a file of boxes with the extension .csv or .jsonl"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, name, text, problem):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError) as raised:
        read_boxes(tmp_path / name)
    assert str(raised.value).startswith(str(tmp_path / name))
    assert problem in str(raised.value)
    assert "\n" not in str(raised.value)


def test_other_encodings_and_missing_files(tmp_path):
    (tmp_path / "boxes.csv").write_bytes(b"case,x0,y0,x1,y1\n\xff,1,2,3,4\n")
    with pytest.raises(ValueError, match="not a text file in UTF-8 or UTF-16"):
        read_boxes(tmp_path / "boxes.csv")
    with pytest.raises(FileNotFoundError):
        read_boxes(tmp_path / "none.csv")


def test_checked_boxes_are_widened_and_clipped():
    boxes = [(10, 20, 5, 60, 80, 9), (9.9, 0.5, 0, 10.1, 1.5, 1), (-5, -7, -1, 500, 300, 40)]
    checked = checked_boxes(boxes, SHAPE)
    assert checked.dtype == np.int64
    assert checked.tolist() == [[10, 20, 5, 60, 80, 9], [9, 0, 0, 11, 2, 1], [0, 0, 0, 100, 80, 10]]
    assert checked_boxes(np.array([[1, 2, 300, 4]]), (50, 60)).tolist() == [[1, 2, 60, 4]]


@pytest.mark.parametrize(
    ("box", "problem"),
    [
        ((60, 20, 5, 60, 80, 9), "box 2 (60, 20, 5, 60, 80, 9): expected x0 < x1"),
        ((10, 81, 5, 60, 80, 9), "expected y0 < y1"),
        ((10, 20, 9, 60, 80, 9), "expected z0 < z1"),
        ((100, 20, 5, 160, 80, 9), "box 2 (100, 20, 5, 160, 80, 9): outside the image, which has 100x80x10 voxels"),
        ((10, -20, 5, 60, 0, 9), "outside the image, which has 100x80x10 voxels"),
        ((10, 20, 10, 60, 80, 12), "outside the image, which has 100x80x10 voxels"),
        ((10, 20, 5, float("nan"), 80, 9), "box 2 (10, 20, 5, nan, 80, 9): expected finite numbers"),
        ((10, 20, 60, 80), "box 2 (10, 20, 60, 80): expected x0 y0 z0 x1 y1 z1, because the image is a volume"),
    ],
)
def test_boxes_that_are_invalid(box, problem):
    with pytest.raises(ValueError, match=re.escape(problem)):
        checked_boxes([(0, 0, 0, 5, 5, 5), box], SHAPE)


def test_boxes_of_a_picture_that_are_invalid():
    expected = "box 1 (0, 0, 0, 5, 5, 5): expected x0 y0 x1 y1, because the image is a picture"
    with pytest.raises(ValueError, match=re.escape(expected)):
        checked_boxes([(0, 0, 0, 5, 5, 5)], (50, 60))
    with pytest.raises(ValueError, match="outside the image, which has 60x50 pixels"):
        checked_boxes([(60, 0, 70, 5)], (50, 60))
    with pytest.raises(ValueError, match="no boxes; expected at least one box with x0 y0 x1 y1"):
        checked_boxes(np.zeros((0, 4), np.int64), (50, 60))


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=6, max_size=6))
def test_a_checked_box_lies_in_the_image_and_is_not_empty(numbers):
    try:
        (x0, y0, z0, x1, y1, z1), *_ = checked_boxes([numbers], SHAPE)
    except ValueError:
        sides = (100, 80, 10)
        assert any(high <= low or low >= side or high <= 0 for low, high, side in zip(numbers, numbers[3:], sides))
    else:
        assert 0 <= x0 < x1 <= 100
        assert 0 <= y0 < y1 <= 80
        assert 0 <= z0 < z1 <= 10
