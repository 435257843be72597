"""`mobilesam everything`: output files, errors, interrupted and resumed runs."""

import inspect
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import grids
import numpy as np
import pytest
from golden import PHOTOS
from PIL import Image

from mobilesam import SamAutomaticMaskGenerator, results
from mobilesam.cli import everything_options
from mobilesam.cli.main import main

PARAMETERS = {"points_per_side": 3, "pred_iou_thresh": 0.5, "stability_score_thresh": 0.6, "min_mask_region_area": 50}
FLAGS = [text for name, value in PARAMETERS.items() for text in ("--" + name.replace("_", "-"), str(value))]
COMMAND = ["everything", "photos", "-o", "out", *FLAGS]
ENDS = (".json", "_labels.png", "_overlay.png")
NAMES = ("a", "b", "c")


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Run `mobilesam everything` on a folder with three photos.

    Returns:
        The folder, the finished process, and the written files.
    """
    folder = tmp_path_factory.mktemp("everything")
    (folder / "photos").mkdir()
    with Image.open(PHOTOS["rocket"]) as photo:
        for i, name in enumerate(NAMES):  # a wide image is quick to encode, because it fills little of the canvas
            photo.crop((0, 200 + i, 640 - i, 400)).save(folder / "photos" / f"{name}.png")
    command = [sys.executable, "-m", "mobilesam", *COMMAND]
    shown = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return folder, shown, files(folder / "out")


@pytest.fixture
def folder(finished, tmp_path, monkeypatch):
    """A new current directory with the three photos and no results."""
    shutil.copytree(finished[0] / "photos", tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_files_hold_the_masks_of_the_generator(finished, model):
    folder, shown, written = finished
    assert (shown.returncode, shown.stderr) == (0, "")  # progress is only shown on a terminal
    assert sorted(written) == sorted(name + end for name in NAMES for end in ENDS)
    lines = shown.stdout.splitlines()
    assert len(lines) == 4
    assert lines[3] == "3 written: out"
    for name, line in zip(NAMES, lines):
        with Image.open(folder / "photos" / f"{name}.png") as photo:
            records = SamAutomaticMaskGenerator(model, **PARAMETERS).generate(photo)
            objects = [results.SegmentedObject.from_record(record) for record in records]
            expected = results.overlay(photo, objects, smallest_on_top=True)
            with Image.open(folder / "out" / f"{name}_overlay.png") as overlay:
                np.testing.assert_array_equal(np.asarray(overlay), np.asarray(expected))
        with Image.open(folder / "out" / f"{name}_labels.png") as image:
            assert image.mode == "I;16"
            np.testing.assert_array_equal(np.asarray(image), results.label_map(objects, smallest_on_top=True))
        data = json.loads(written[f"{name}.json"])
        assert data["info"]["parameters"].items() >= PARAMETERS.items()
        assert data == results.coco(objects, file_name=f"{name}.png", info=data["info"])
        assert len(records) > 2
        assert line.startswith(f"photos/{name}.png: {len(records)} masks, ")
        assert line.endswith(f" s: out/{name}_overlay.png, out/{name}_labels.png, out/{name}.json")


def test_the_options_are_the_generators_parameters():
    signature = inspect.signature(SamAutomaticMaskGenerator).parameters
    defaults = {name: default for name, (_, default, _) in everything_options.PARAMETERS.items()}
    left_out = {"model", "point_grids", "output_mode", "adaptive"}
    assert defaults == {name: p.default for name, p in signature.items() if name not in left_out}


def test_every_option_reaches_the_generator(folder, monkeypatch):
    given = {}

    class Generator:
        def __init__(self, model, **parameters):
            given.update(parameters)

        def generate_iter(self, photo, *, value_range, progress):
            return iter([])

    monkeypatch.setattr("mobilesam.api.everything.MaskGenerator", Generator)
    values = {name: kind(i + 1) for i, (name, (kind, _, _)) in enumerate(everything_options.PARAMETERS.items())}
    flags = [text for name, value in values.items() for text in ("--" + name.replace("_", "-"), str(value))]
    assert main(["everything", "photos/a.png", "-o", "new/out", "--adaptive", *flags]) == 0
    assert given == values | {"output_mode": "coco_rle", "adaptive": True}
    assert sorted(files(folder / "new/out")) == [f"a{end}" for end in ENDS]  # written although no mask was found


def test_broken_images_among_others_are_named_and_the_others_done(finished, folder, capsys):
    (folder / "photos" / "b.png").write_text("no photo")
    (folder / "photos" / "c.png").unlink()
    assert main(["everything", "photos/b.png", "gone.png", "photos/a.png", "-o", "out", *FLAGS]) == 1
    said = capsys.readouterr()
    assert said.err.splitlines() == [
        "mobilesam: failed: not an image that Pillow can read: photos/b.png",
        "mobilesam: failed: No such file or directory: gone.png",
    ]
    assert said.out.splitlines()[-1] == "1 written, 2 failed: out"
    assert files(folder / "out") == {name: data for name, data in finished[2].items() if name.startswith("a")}


REFUSED = {
    "No such file or directory: gone.png": ["gone.png", "-o", "out"],
    "not an image that Pillow can read": ["notes.txt", "-o", "out"],
    "no file matches": ["*.tif", "-o", "out"],
    "arguments are required: -o/--output": ["photos"],
    "expected a folder to write into, got a file: notes.txt": ["photos", "-o", "notes.txt/deep"],
    "would overwrite its own input or output file: ": ["photos/a.png", "./photos/a.png", "-o", "out"],
    "written to a.json, for photos/a.png and a.png: give --keep-extension": ["photos/a.png", "a.png", "-o", "out"],
    "--points-per-side: invalid int value: 'many'": ["photos", "-o", "out", "--points-per-side", "many"],
    "points_per_side must be a whole number of at least 1, got 0": ["photos", "-o", "out", "--points-per-side", "0"],
    "pred_iou_thresh must be a number of at least 0, got nan": ["photos", "-o", "out", "--pred-iou-thresh", "nan"],
    "threads: expected": ["photos", "-o", "out", "--threads", "0"],
    "no such checkpoint: no.safetensors": ["photos", "-o", "out", "--weights", "no.safetensors"],
}


@pytest.mark.parametrize("message", REFUSED)
def test_a_wrong_command_ends_in_one_line_and_no_file(folder, capsys, message):
    (folder / "notes.txt").write_text("no photo")
    shutil.copy(folder / "photos" / "b.png", folder / "a.png")
    before = sorted(folder.rglob("*"))
    try:
        code = main(["everything", *REFUSED[message]])
    except SystemExit as stop:  # argparse reports its errors by SystemExit
        code = stop.code
    said = capsys.readouterr()
    assert (code, said.out, said.err.count("\n")) == (2, "", 1)
    assert said.err.startswith("mobilesam: error: ")
    assert message in said.err
    assert sorted(folder.rglob("*")) == before


@pytest.mark.parametrize("limit", ["100000", "many"])
def test_the_limit_of_a_photos_size_comes_from_the_environment(folder, monkeypatch, capsys, limit):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)  # monkeypatch restores it
    monkeypatch.setenv("MOBILESAM_MAX_PIXELS", limit)
    assert main(["everything", "photos/a.png", "-o", "out"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert ("photos/a.png: Image size (128000 pixels) exceeds limit" if limit == "100000" else "'many'") in error
    assert not (folder / "out").exists()


# Runs the command, but creates the file "half" and pauses during the second photo.
# The pause is in the middle of the photo's points, or in the middle of writing its JSON file.
SLOW = """
import signal, sys, time
from pathlib import Path
from mobilesam.network import mask_decoder as decoder
from mobilesam.util import files
from mobilesam.cli.main import main

draw, write, calls = decoder.Candidates.draw, Path.write_text, []

def slow():
    Path("half").touch()
    time.sleep(600)

def slow_draw(self, *wanted):
    if Path("out/a.json").exists():
        calls.append(wanted)
        if len(calls) == 2:
            slow()
    return draw(self, *wanted)

def slow_write(self, text, **options):
    if Path("out/a.json").exists():
        write(self, text[:1000], **options)
        slow()
    return write(self, text, **options)

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore SIGINT
if sys.argv[1] == "points":
    decoder.Candidates.draw = slow_draw
else:
    Path.write_text = slow_write
sys.exit(main(sys.argv[2:]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no process can be interrupted alone on Windows")
@pytest.mark.parametrize(
    ("where", "number"),
    grids.first([("points", "SIGINT"), ("file", "SIGKILL"), ("points", "SIGKILL"), ("file", "SIGINT")], 2),
)
def test_interrupted_and_resumed_ends_with_the_same_files(finished, folder, where, number):
    with subprocess.Popen(
        [sys.executable, "-c", SLOW, where, *COMMAND], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        while not (folder / "half").exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(getattr(signal, number))
        said, complaint = process.communicate(timeout=300)
    there = files(folder / "out")
    whole = {name: data for name, data in there.items() if not name.startswith(".")}
    assert whole.items() < finished[2].items()
    assert {f"a{end}" for end in ENDS} <= whole.keys()
    assert "b.json" not in whole
    if number == "SIGINT":
        assert process.returncode == 130
        assert complaint == ""
        assert said.splitlines()[-1] == "1 written, 2 not reached: go on with --resume: out"
        assert there == whole
    else:
        assert (len(whole) < len(there)) == (where == "file")  # a process killed while writing leaves a partial file
    before = (folder / "out" / "a.json").stat().st_mtime_ns
    assert main([*COMMAND, "--resume"]) == 0
    assert files(folder / "out") == finished[2]
    assert (folder / "out" / "a.json").stat().st_mtime_ns == before


def test_resume_repeats_photos_with_missing_files(finished, folder, capsys):
    shutil.copytree(finished[0] / "out", folder / "out")
    (folder / "out" / "b_labels.png").unlink()
    assert main([*COMMAND, "--resume"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("photos/b.png: ")
    assert lines[1] == "1 written, 2 there already: out"
    assert files(folder / "out") == finished[2]


def test_without_resume_everything_is_done_again(finished, folder):
    (folder / "out").mkdir()
    for end in ENDS:
        (folder / "out" / f"a{end}").touch()
    assert main(["everything", "photos/a.png", "-o", "out", *FLAGS]) == 0
    assert files(folder / "out") == {name: data for name, data in finished[2].items() if name.startswith("a")}


def test_a_terminal_shows_progress(folder, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr("mobilesam.util.console.INTERVAL", 0)
    monkeypatch.setattr("mobilesam.util.console.COLUMNS", 120)
    assert main(["everything", "photos/a.png", "-o", "out", *FLAGS]) == 0
    shown = capsys.readouterr().err
    assert "[########                ] 3/9 points, " in shown
    assert "left, a.png, 1 of 1" in shown
    assert shown.endswith("\r" + " " * 119 + "\r")
