"""Prompts as text: coordinates in pixels and per cent, prompt files (CSV, JSON lines), errors with line numbers."""

import csv
import json

import pytest

from mobilesam.cli.written_prompt import WrittenPrompt, coordinates, read_prompts

# The same prompts as a CSV file and as a JSON lines file.
CSV = """image,points,labels,box,output
a.jpg,220 140 420 40,1 0,,cat.png
a.jpg,"50%,25.5%",,60 20 430 290,

"b, c.jpg",,,0% 0% 100% 50%,
d.jpg,,,,
"""
JSON = [
    {"image": "a.jpg", "points": [[220, 140], [420, 40]], "labels": [1, 0], "output": "cat.png"},
    {"image": "a.jpg", "points": [["50%", "25.5%"]], "box": [60, 20, 430, 290], "labels": None},
    {"image": "b, c.jpg", "box": ["0%", "0%", "100%", "50%"]},
    {"image": "d.jpg"},
]


FORMS = ["csv", "csv with a byte order mark", "csv in UTF-16", "csv with semicolons", "csv with tabs", "jsonl"]


@pytest.mark.parametrize("form", FORMS)
def test_csv_and_json_lines_give_the_same_rows(tmp_path, form):
    text = "\n\n".join(map(json.dumps, JSON)) if form == "jsonl" else CSV
    path = tmp_path / f"prompts.{form[:5].split()[0]}"
    encoding = {"csv with a byte order mark": "utf-8-sig", "csv in UTF-16": "utf-16"}.get(form, "utf-8")
    if "semicolons" in form or "tabs" in form:
        rows = csv.reader(text.splitlines())
        text = "\n".join((";" if "semicolons" in form else "\t").join(cells) for cells in rows)
    path.write_text(text, encoding=encoding)
    rows = read_prompts(path)
    assert [row.line for row in rows] == ([1, 3, 5, 7] if form == "jsonl" else [2, 3, 5, 6])
    assert [(row.image, row.output) for row in rows] == [
        ("a.jpg", "cat.png"), ("a.jpg", None), ("b, c.jpg", None), ("d.jpg", None),
    ]  # fmt: skip
    assert [row.prompt and row.prompt.on(200, 100) for row in rows] == [
        {"points": [(220, 140), (420, 40)], "labels": (1, 0), "box": None},
        {"points": [(100, 25.5)], "labels": (1,), "box": [60, 20, 430, 290]},
        {"box": [0, 0, 200, 50]},
        None,
    ]


def test_per_cent_of_each_side():
    prompt = WrittenPrompt((coordinates("50%,100%", 2, "X,Y"),), (1,), coordinates("0,10%,7.5,20%", 4, "box"))
    assert prompt.on(451, 300) == {"points": [(225.5, 300)], "labels": (1,), "box": [0, 30, 7.5, 60]}


REFUSED = {
    "p.csv: holds no prompts": "image,points\n",
    "line 1: points: expected x y of each point, got [inf, 2]": '{"image": "a", "points": [[Infinity, 2]]}',
    "line 1: points: expected x y of each point, got [nan, 2]": '{"image": "a", "points": [[NaN, 2]]}',
    "line 2: points: expected x y of each point, got 'inf 2'": "image,points\na,inf 2\n",
    "line 1: points: expected x y of each point, got [9999": f'{{"image": "a", "points": [[{"9" * 400}, 2]]}}',
    "line 1: not JSON": f'{{"image": "a", "points": [[{"9" * 5000}, 2]]}}',
    "line 1: not JSON: brackets are nested too deeply": '{"image": ' + "[" * 100_000,
    "line 2: points: write decimals with a point, got '220,5 140,5'": "image;points\na;220,5 140,5\n",
    "line 2: more cells than the header; quote a cell that holds semicolons": "image;points\na;1;2\n",
    "p.csv, line 2: no image": "image,points\n,1 2\n",
    "line 1: unknown field 'picture'": '{"picture": "a.jpg"}',
    "line 2: unknown field 'cat.jpg'": "cat.jpg,1 2\ndog.jpg,3 4\n",
    "line 3: points: expected x y of each point, got '1 2 3'": "image,points\na,1 2\nb,1 2 3\n",
    "points: expected x y of each point, got '1 x'": "image,points\na,1 x\n",
    "points: expected [[x, y], ...], got [1, 2]": '{"image": "a", "points": [1, 2]}',
    "points: expected x y of each point, got [True, 2]": '{"image": "a", "points": [[true, 2]]}',
    "points: expected x y of each point, got []": '{"image": "a", "points": []}',
    "points: expected 0% to 100% of the image's side, got 101%": "image,points\na,50% 101%\n",
    "labels: expected 1 (on the object) or 0 (not on it) for each point, got '2'": "image,points,labels\na,1 2,2\n",
    "labels: expected one for each of 1 points, got 2": "image,points,labels\na,1 2,1 1\n",
    "labels: expected one for each of 0 points, got 1": "image,labels\na,1\n",
    "box: expected x0 y0 x1 y1, got '1 2 3'": "image,box\na,1 2 3\n",
    "box: expected x0 y0 x1 y1, got {'x': 1}": '{"image": "a", "box": {"x": 1}}',
    "output: expected a file name, got 3": '{"image": "a", "box": [1, 2, 3, 4], "output": 3}',
    "line 2: more cells than the header; quote": "image,points\na,1,2\n",
    "line 2: not JSON": '{"image": "a"}\n{"image": \n',
    "line 1: expected an object": "[1, 2]",
    "p.csv: not a text file in UTF-8": b"image\n\xff\xfe.jpg\n",
    "p.csv, line 2: unexpected end of data": 'image\n"a\n',
}


@pytest.mark.parametrize("message", REFUSED)
def test_errors_name_the_line(tmp_path, message):
    content = REFUSED[message]
    data = content if isinstance(content, bytes) else content.encode()
    path = tmp_path / ("p.jsonl" if data[:1] in b"{[" else "p.csv")
    path.write_bytes(data)
    with pytest.raises(ValueError) as error:
        read_prompts(path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400
