"""`mobilesam segment` on many images: results, failures, killed runs, and a limit on the images in memory."""

import json
import shutil
import signal
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path
from types import SimpleNamespace

import grids
import numpy as np
import pytest
from golden import PHOTOS
from PIL import Image

from mobilesam import results
from mobilesam.cli.main import main
from mobilesam.cli.many import outputs, pipeline
from mobilesam.cli.many.batch import Task, by_image, find_tasks
from mobilesam.cli.written_prompt import WrittenPrompt, coordinates
from mobilesam.images.rgb_photo import Photo
from mobilesam.util import console

GOOD = [f"{i:02}.{'jpg' if i % 2 else 'png'}" for i in range(95 if grids.exhaustive() else 11)]
BROKEN = {
    "bomb.png": "cannot decode image photos/bomb.png: Image size (324000000 pixels) exceeds limit of 256000000 pixels",
    "cut.jpg": "cannot decode image photos/cut.jpg: image file is truncated",
    "empty.webp": "not an image that Pillow can read",
    "over.tif": "a float image must lie in [0, 1], got values from 2 to 2",
    "text.jpg": "not an image that Pillow can read",
}
FEW = [*GOOD[:8], "cut.jpg", "text.jpg"]
COMMAND = ["segment", "photos", "--point", "50%,25%", "--output", "masks", "--overlay", "overlays"]


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Run `mobilesam segment` on a folder of photos, five of which cannot be read.

    Returns:
        The folder, the finished process, and the written files by output folder.
    """
    folder = tmp_path_factory.mktemp("many")
    photos = folder / "photos"
    photos.mkdir()
    with Image.open(PHOTOS["chelsea"]) as photo:
        for i, name in enumerate(GOOD):  # a wide image is quick to encode, because it fills little of the canvas
            photo.crop((0, 100 + i, 451 - i, 140 + i)).save(photos / name)
        photo.save(photos / "cut.jpg")
    (photos / "cut.jpg").write_bytes((photos / "cut.jpg").read_bytes()[:9000])
    Image.new("1", (18_000, 18_000)).save(photos / "bomb.png")
    Image.new("F", (30, 20), 2).save(photos / "over.tif")
    (photos / "empty.webp").touch()
    (photos / "text.jpg").write_text("no photo")
    shown = run(COMMAND, folder)
    return folder, shown, {name: files(folder / name) for name in ("masks", "overlays")}


@pytest.fixture
def folder(finished, tmp_path, monkeypatch):
    """A new current directory with ten photos, two of which cannot be read, and no results."""
    (tmp_path / "photos").mkdir()
    for name in FEW:
        shutil.copy(finished[0] / "photos" / name, tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "mobilesam", *command], cwd=folder, capture_output=True, text=True)


@grids.both
def test_a_folder_gives_results_and_names_its_failures(finished, model):
    folder, shown, results = finished
    assert shown.returncode == 1
    assert sorted(results["masks"]) == [f"{Path(name).stem}.png" for name in GOOD]
    assert sorted(results["overlays"]) == [f"{Path(name).stem}.jpg" for name in GOOD]
    assert shown.stdout.startswith(f"{len(GOOD)} written, 5 failed (")
    assert shown.stdout.endswith(" images/s): masks, overlays\n")
    failures = shown.stderr.splitlines()  # only failures, because progress is only shown on a terminal
    assert len(failures) == len(BROKEN)
    for line, (name, reason) in zip(failures, BROKEN.items()):
        assert line.startswith("mobilesam: failed: ")
        assert f"photos/{name}" in line
        assert reason in line
    for name in (GOOD[0], GOOD[-2]):
        expected = model.encode(folder / "photos" / name)
        height, width = expected.original_size
        with Image.open(folder / "masks" / Path(name).with_suffix(".png")) as mask:
            np.testing.assert_array_equal(
                np.asarray(mask), np.where(expected.segment([(width / 2, height / 4)]).mask, 255, 0)
            )
        with Image.open(folder / "overlays" / Path(name).with_suffix(".jpg")) as overlay:
            assert (overlay.mode, overlay.size) == ("RGB", (width, height))


# Runs the command, but creates the file "half" and pauses in the middle of writing an overlay.
SLOW = """
import signal, sys, time
from pathlib import Path
from mobilesam.cli.main import main

write, overlays = Path.write_bytes, []

def slow(path, data):
    if path.suffix == ".jpg":
        overlays.append(path)
    if path in overlays[int(sys.argv[2]):]:
        write(path, b"half of it")
        Path("half").touch()
        time.sleep(float(sys.argv[1]))
    return write(path, data)

Path.write_bytes = slow
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore SIGINT
sys.exit(main(sys.argv[3:]))
"""


@grids.both
@pytest.mark.skipif(sys.platform == "win32", reason="no process can be interrupted alone on Windows")
@pytest.mark.parametrize(
    ("number", "seconds", "before", "photos"),
    [
        pytest.param("SIGKILL", 60, len(GOOD) // 2, [*GOOD, *BROKEN], id="killed"),
        pytest.param("SIGINT", 1, 3, FEW, id="interrupted, of 10", marks=pytest.mark.exhaustive),
    ],
)
def test_stopped_half_way_and_resumed_ends_with_the_same_files(finished, folder, number, seconds, before, photos):
    for name in photos:
        shutil.copy(finished[0] / "photos" / name, folder / "photos")
    stems = {Path(name).stem for name in photos}
    expected = {
        name: {file: data for file, data in written.items() if Path(file).stem in stems}
        for name, written in finished[2].items()
    }
    command = [sys.executable, "-c", SLOW, str(seconds), str(before), *COMMAND]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while not (folder / "half").exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(getattr(signal, number))
        said, _ = process.communicate()
    left = {name: files(folder / name) for name in ("masks", "overlays")}
    if number == "SIGINT":
        assert process.returncode == 130
        assert "images not reached: go on with --resume" in said
    else:
        assert process.returncode == -signal.SIGKILL
        assert [path for path in left["overlays"] if path.startswith(".")]
    for name, written in left.items():
        whole = {file: data for file, data in written.items() if not file.startswith(".")}
        assert before - 1 <= len(whole) < len(expected[name])  # two threads write, so one may be missing
        assert whole.items() <= expected[name].items()  # no file is incomplete
    assert main([*COMMAND, "--resume"]) == 1
    assert {name: files(folder / name) for name in ("masks", "overlays")} == expected


def test_nothing_is_left_to_resume(folder, capsys):
    (folder / "photos" / "cut.jpg").unlink()
    (folder / "photos" / "text.jpg").unlink()
    (folder / "masks").mkdir()
    for name in FEW[:8]:
        (folder / "masks" / f"{Path(name).stem}.png").touch()
    assert main(["segment", "photos", "--point", "9,9", "--output", "masks", "--resume"]) == 0
    assert capsys.readouterr().out.startswith("0 written, 0 failed, 8 there already (")


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_a_file_of_prompts(tmp_path, monkeypatch, capsys, embedding, form):
    monkeypatch.chdir(tmp_path)
    photo = str(PHOTOS["chelsea"])
    Path("prompts.csv").write_text(
        "image,points,labels,box,output\n"
        f'{photo},"220 140 420 40",1 0,,two.png\n{photo},,,60 20 430 290,boxes/box.tif\n{photo},452 1,,,out.png\n'
        f"{photo},,,,default.png\nabsent.jpg,1 1,,,\n"
    )
    Path("prompts.jsonl").write_text(
        f'{{"image": "{photo}", "points": [[220, 140], [420, 40]], "labels": [1, 0], "output": "two.png"}}\n'
        f'{{"image": "{photo}", "box": [60, 20, 430, 290], "output": "boxes/box.tif"}}\n'
        f'{{"image": "{photo}", "points": [[452, 1]], "output": "out.png"}}\n'
        f'{{"image": "{photo}", "output": "default.png"}}\n{{"image": "absent.jpg", "points": [[1, 1]]}}\n'
    )
    encoded = []
    encode = type(embedding.model).encode
    monkeypatch.setattr(
        type(embedding.model), "encode", lambda *given, **options: encoded.append(1) or encode(*given, **options)
    )
    assert main(["segment", f"prompts.{form}", "--point", "50%,50%", "--output", "new/masks", "--single"]) == 1
    assert len(encoded) == 1  # four rows of the prompt file share the photo's embedding
    expected = {
        "two.png": embedding.segment([(220, 140), (420, 40)], [1, 0], multimask=False),
        "boxes/box.tif": embedding.segment(box=(60, 20, 430, 290), multimask=False),
        "default.png": embedding.segment([(225.5, 150)], multimask=False),
    }
    assert files(tmp_path / "new/masks").keys() == expected.keys()
    for name, answer in expected.items():
        with Image.open(tmp_path / "new/masks" / name) as mask:
            np.testing.assert_array_equal(np.asarray(mask), np.where(answer.mask, 255, 0))
    assert capsys.readouterr().err.splitlines() == [
        f"mobilesam: failed: {photo}: point (452, 1) lies outside the image of 451x300 pixels",
        "mobilesam: failed: No such file or directory: absent.jpg",
    ]


def test_further_formats_and_cutouts(tmp_path, monkeypatch, embedding):
    monkeypatch.chdir(tmp_path)
    Path("prompts.jsonl").write_text(
        f'{{"image": "{PHOTOS["chelsea"]}", "points": [[220, 140]], "output": "a/b.tif"}}\n'
    )
    command = ["segment", "prompts.jsonl", "--output", "masks", "--format", "png,json,svg", "--cutout", "cut", "--crop"]
    assert main([*command, "--name", "cat"]) == 0
    written = files(tmp_path)
    names = {"cut/a/b.png", "masks/a/b.json", "masks/a/b.svg", "masks/a/b.tif", "prompts.jsonl"}
    assert set(written) == names
    result = embedding.segment([(220, 140)])
    assert json.loads(written["masks/a/b.json"]) == results.coco([result.as_object("cat")], file_name="chelsea.png")
    with Image.open("cut/a/b.png") as cut:
        np.testing.assert_array_equal(np.asarray(cut), np.asarray(result.cutout(PHOTOS["chelsea"], crop=True)))
    assert main([*command, "--resume"]) == 0
    assert files(tmp_path) == written


POINT = ["--point", "1,1"]
REFUSED = {
    "nothing to write": ["photos", *POINT],
    "no prompt: give --point X,Y": ["photos", "--output", "masks"],
    "--resume is for many images": ["photos/00.png", *POINT, "--output", "m.png", "--resume"],
    "--format is for many images": ["photos/00.png", *POINT, "--output", "m.png", "--format", "png"],
    "cannot write an image as '.txt'": ["photos", *POINT, "--output", "masks", "--format", "txt"],
    "expected a folder to write into, got a file: notes.txt": ["photos", *POINT, "--output", "notes.txt"],
    "its own input or output file: photos/00.png": ["photos/00.png", "photos/01.jpg", *POINT, "--output", "photos"],
    "output file: m/": ["photos", *POINT, "--output", "m", "--overlay", "./m", "--format", "jpg"],
    "--format: expected extensions such as png": ["photos", *POINT, "--output", "masks", "--format", "png,"],
    "output file: masks/": ["photos", *POINT, "--output", "masks", "--format", "png,png"],
    "output file: masks/00.png": ["photos", *POINT, "--output", "masks", "--cutout", "masks"],
    "give one --output, a folder": ["photos", *POINT, "--output", "masks", "--output", "more"],
    "--point: expected 0% to 100%": ["photos", "--point", "50%,120%", "--output", "masks"],
    "no such checkpoint: no.safetensors": ["photos", *POINT, "--output", "masks", "--weights", "no.safetensors"],
    "threads: expected": ["photos", *POINT, "--output", "masks", "--threads", "0"],
    "No such file or directory: absent.csv": ["absent.csv", "--output", "masks"],
}  # fmt: skip


@pytest.mark.parametrize("message", REFUSED)
def test_a_wrong_command_ends_in_one_line_and_no_file(folder, capsys, message):
    (folder / "notes.txt").touch()
    before = sorted(folder.rglob("*"))
    try:
        code = main(["segment", *REFUSED[message]])
    except SystemExit as stop:  # argparse reports its errors by SystemExit
        code = stop.code
    said = capsys.readouterr()
    assert (code, said.out, said.err.count("\n")) == (2, "", 1)
    assert message in said.err
    assert sorted(folder.rglob("*")) == before


def test_a_full_disk_ends_the_run_with_what_was_written(folder, capsys, monkeypatch):
    save = outputs.save_image

    def full(image, path):
        if path.name.startswith(f".{zlib.crc32(b'01.jpg'):08x}"):  # the temporary file of 01.jpg
            raise OSError(28, "No space left on device", str(path))
        save(image, path)

    monkeypatch.setattr(outputs, "save_image", full)
    assert main(COMMAND) == 2
    said = capsys.readouterr()
    assert "images not reached: go on with --resume" in said.out
    assert said.err.splitlines()[-1] == "mobilesam: error: No space left on device: overlays/01.jpg"
    written = {name: files(folder / name).keys() for name in ("masks", "overlays")}
    assert {"00.jpg"} <= written["overlays"] <= {"00.jpg", "02.jpg", "03.jpg"}
    assert {Path(name).stem for name in written["masks"]} == {Path(name).stem for name in written["overlays"]}


class CountingModel:
    """A fake model that counts the images that have been read, encoded and written."""

    def __init__(self) -> None:
        self.read = self.encoded = self.written = 0
        self.most_ahead = self.most_behind = 0
        self.lock = threading.Lock()

    def open(self, path: Path) -> Photo:
        with self.lock:
            self.read += 1
        return Photo(Image.new("RGB", (2, 2)))

    def encode(self, photo: Photo, **options: object) -> "CountingModel":
        time.sleep(0.01)  # gives the reading threads time to read several images in advance
        with self.lock:
            self.encoded += 1
            self.most_ahead = max(self.most_ahead, self.read - self.encoded)
            self.most_behind = max(self.most_behind, self.encoded - self.written)
        return self

    def segment(self, **prompt: object) -> SimpleNamespace:
        return SimpleNamespace(mask=None)

    def write(self, *answer: object) -> None:
        time.sleep(0.03)  # writing is slower than encoding, so an unbounded queue would grow
        with self.lock:
            self.written += 1


def test_reading_and_writing_overlap_with_encoding_and_the_queues_are_bounded():
    model, report = CountingModel(), pipeline.Report()
    prompt = WrittenPrompt((coordinates("1,1", 2, "X,Y"),), (1,), None)
    tasks = [Task(Path(f"{i}.png"), prompt, Path(f"{i}.png")) for i in range(40)]
    pipeline.run(by_image(tasks), model, model.open, model.write, report)
    assert (report.images, report.written, report.failures) == (40, 40, [])
    assert 1 <= model.most_ahead <= pipeline.AHEAD
    assert 1 < model.most_behind <= pipeline.AHEAD + 1


def test_a_photo_too_large_for_memory_is_one_failure():
    model, report = CountingModel(), pipeline.Report()

    def read_photo(path):
        if path.name == "1.png":
            raise MemoryError
        return model.open(path)

    tasks = find_tasks(["0.png", "1.png", "2.png"], WrittenPrompt((), (), coordinates("0,0,1,1", 4, "box")), ".png")
    pipeline.run(by_image(tasks), model, read_photo, model.write, report)
    assert (report.written, [(str(f.task.image), f.reason) for f in report.failures]) == (2, [("1.png", "MemoryError")])


@pytest.mark.parametrize(
    ("done", "seconds", "line"),
    [
        (0, 0, "[                        ] 0/100 images"),
        (50, 10, "[############            ] 50/100 images, 4.00 images/s, 0:12 left"),
        (100, 4000, "[########################] 100/100 images, 0.02 images/s, 0:00 left"),
        (11, 40, "[##                      ] 11/100 images, 0.03 images/s, 59:20 left"),
    ],
)
def test_the_progress_line(done, seconds, line):
    progress = console.Progress(100, "images", done=10 if done else 0)
    progress.done = done
    assert progress.line(seconds) == line


def test_progress_is_for_terminals(capsys, monkeypatch):
    with console.Progress(2, "images") as progress:
        progress.update(1)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setattr(console, "COLUMNS", 40)
    with console.Progress(2, "images"):
        pass
    cleared = "\r" + " " * 39 + "\r"
    assert capsys.readouterr().err == f"{cleared}[                        ] 0/2 images{cleared}"
