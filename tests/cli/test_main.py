"""The command line: output files, printed text and errors."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import grids
import numpy as np
import pytest
from golden import PHOTOS
from PIL import Image

import mobilesam
from mobilesam import results
from mobilesam.cli.main import main

CHELSEA = str(PHOTOS["chelsea"])  # 451x300 pixels


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_segment_writes_the_mask_and_the_overlay(folder, capsys, embedding):
    command = ["segment", CHELSEA, "--point", "220,140", "--output", "mask.png", "--overlay", "overlay.jpg"]
    assert main(command) == 0
    assert files(folder) == ["mask.png", "overlay.jpg"]
    result = mobilesam.segment(CHELSEA, [(220, 140)], model=embedding.model)
    with Image.open("mask.png") as mask, Image.open("overlay.jpg") as overlay:
        np.testing.assert_array_equal(np.asarray(mask), np.where(result.mask, 255, 0))
        assert (overlay.mode, overlay.size) == ("RGB", (451, 300))
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert f"score {result.scores.max():.3f}, area {result.mask.sum()} px" in said
    assert said.endswith(" s: mask.png, overlay.jpg\n")


def test_segment_takes_every_kind_of_prompt(folder, embedding):
    prompt = [
        "--point",
        "200,150",
        "--background",
        "20.5,30",
        "--box",
        "60,40,400,290",
        "--single",
        "--threads",
        "1",
    ]
    assert main(["segment", CHELSEA, *prompt, "--output", "mask.tif"]) == 0
    given = {"points": [(200, 150), (20.5, 30)], "labels": [1, 0], "box": (60, 40, 400, 290), "multimask": False}
    expected = mobilesam.segment(CHELSEA, **given, model=embedding.model).mask
    with Image.open("mask.tif") as mask:
        np.testing.assert_array_equal(np.asarray(mask), np.where(expected, 255, 0))


def test_segment_writes_every_kind_of_result(folder, capsys, embedding):
    names = ["mask.png", "object.json", "object.geojson", "object.svg", "cut.png", "overlay.png"]
    outputs = [part for name in names[:4] for part in ("--output", name)]
    drawn = ["--cutout", "cut.png", "--crop", "--overlay", "overlay.png"]
    command = ["segment", CHELSEA, "--point", "220,140", *outputs, *drawn, "--name", "cat", "--polygons"]
    assert main(command) == 0
    assert files(folder) == sorted(names)
    assert capsys.readouterr().out.endswith(f": {', '.join(names)}\n")
    result = mobilesam.segment(CHELSEA, [(220, 140)], model=embedding.model)
    item = result.as_object("cat")
    assert json.loads(Path("object.json").read_text()) == results.coco([item], file_name="chelsea.png", polygons=True)
    assert json.loads(Path("object.geojson").read_text()) == results.geojson([item])
    assert Path("object.svg").read_text() == results.svg([item])
    for name, expected in (("cut.png", result.cutout(CHELSEA, crop=True)), ("overlay.png", result.overlay(CHELSEA))):
        with Image.open(name) as picture:
            np.testing.assert_array_equal(np.asarray(picture), np.asarray(expected))


def test_a_mask_without_a_pixel_is_cut_out_whole(folder, embedding, monkeypatch):
    empty = dataclasses.replace(embedding.segment([(220, 140)]), low_res=np.full((3, 256, 256), -1, np.float32))
    monkeypatch.setattr("mobilesam.api.segment.segment", lambda *_, **__: empty)
    assert main(["segment", CHELSEA, "--point", "220,140", "--cutout", "cut.png", "--crop"]) == 0
    with Image.open("cut.png") as cut:
        assert (cut.size, cut.getextrema()) == ((451, 300), ((0, 0),) * 4)


@pytest.mark.parametrize("limit", grids.first(["100000000", None, "200000000"], 2))
def test_photos_of_200_megapixels_are_read_and_bombs_are_not(folder, capsys, monkeypatch, limit):
    """The test replaces the decoding of images, which would need a gigabyte of memory."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)
    monkeypatch.setattr("mobilesam.images.files._load_upright", lambda picture: Image.new("RGB", (4, 3)))
    if limit:
        monkeypatch.setenv("MOBILESAM_MAX_PIXELS", limit)
    Image.new("1", (16000, 12500)).save("phone.png")
    Image.new("1", (16001, 16000)).save("bomb.png")
    command = ["--point", "1,1", "--output", "mask.png"]
    assert main(["segment", "phone.png", *command]) == (2 if limit == "100000000" else 0)
    assert main(["segment", "bomb.png", *command]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "cannot decode image bomb.png: Image size (256016000 pixels) exceeds limit" in error
    assert error.endswith("on the command line MOBILESAM_MAX_PIXELS")


REFUSED = {
    "no prompt": [CHELSEA, "--output", "mask.png"],
    "nothing to write": [CHELSEA, "--point", "220,140"],
    "No such file or directory: no.png": ["no.png", "--point", "1,1", "--output", "mask.png"],
    "not an image": [__file__, "--point", "1,1", "--output", "mask.png"],
    "cannot decode image cut.png": ["cut.png", "--point", "1,1", "--output", "mask.png"],
    "--point: expected X,Y, got 'nan,140'": [CHELSEA, "--point", "nan,140", "--output", "mask.png"],
    "point (452, 140) lies outside": [CHELSEA, "--background", "452,140", "--output", "mask.png"],
    "box must have x0 <= x1": [CHELSEA, "--box", "9,9,5,5", "--output", "mask.png"],
    "--point: expected X,Y, got '220'": [CHELSEA, "--point", "220", "--output", "mask.png"],
    "--box: expected X0,Y0,X1,Y1, got '1,2,x,4'": [CHELSEA, "--box", "1,2,x,4", "--output", "mask.png"],
    "--threads": [CHELSEA, "--point", "1,1", "--output", "mask.png", "--threads", "two"],
    "threads: expected": [CHELSEA, "--point", "1,1", "--output", "mask.png", "--threads", "0"],
    "no such folder to write into: gone": [CHELSEA, "--point", "1,1", "--output", "gone/mask.png"],
    "cannot write an image as '.txt'": [CHELSEA, "--point", "1,1", "--output", "m.png", "--overlay", "o.txt"],
    "cannot write an image as '.jpg'": [CHELSEA, "--point", "1,1", "--cutout", "cutout.jpg"],
    "--crop is for --cutout": [CHELSEA, "--point", "1,1", "--output", "mask.png", "--crop"],
    "no such folder to write into: none": [CHELSEA, "--point", "1,1", "--output", "none/object.svg"],
    "would overwrite": [CHELSEA, "--point", "1,1", "--output", "mask.png", "--overlay", "./mask.png"],
    "its own input or output file: cut.png": ["cut.png", "--point", "1,1", "--output", "cut.png"],
    "no such checkpoint: no.safetensors": [
        CHELSEA, "--point", "1,1", "--output", "mask.png", "--weights", "no.safetensors",
    ],
    "cut.png: expected a .pt of PyTorch, a safetensors file": [
        CHELSEA, "--point", "1,1", "--output", "mask.png", "--weights", "cut.png",
    ],
}  # fmt: skip


@pytest.mark.parametrize("message", REFUSED)
def test_a_wrong_command_ends_in_one_line_and_no_file(folder, capsys, message):
    (folder / "cut.png").write_bytes(PHOTOS["chelsea"].read_bytes()[:100_000])
    assert exit_code(["segment", *REFUSED[message]]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("mobilesam: error: ")
    assert said.err.count("\n") == 1
    assert message in said.err
    assert files(folder) == ["cut.png"]


def exit_code(command: list[str]) -> int:
    try:
        return main(command)
    except SystemExit as stop:  # argparse reports its errors by SystemExit
        return int(stop.code or 0)


def test_convert_writes_a_checkpoint_that_loads(folder, capsys):
    packaged = mobilesam.load().checkpoint.path
    assert main(["convert", str(packaged), "--output", "all.safetensors", "--dtype", "fp32"]) == 0
    assert "all.safetensors" in capsys.readouterr().out
    assert files(folder) == ["all.safetensors"]
    assert mobilesam.load("all.safetensors").checkpoint.metadata["dtype"] == "fp32"


def test_convert_refuses_other_files(folder, capsys):
    assert main(["convert", CHELSEA, "--output", "new.safetensors"]) == 2
    assert "chelsea.png" in capsys.readouterr().err
    assert files(folder) == []


def test_info_prints_a_markdown_block(capsys, monkeypatch):
    packaged = mobilesam.load().checkpoint.path
    monkeypatch.setenv("HOME", str(packaged.parents[1]))
    monkeypatch.setenv("MOBILESAM_NUM_THREADS", "1")
    assert main(["info"]) == 0
    said = capsys.readouterr().out
    fence, *lines, end = said.splitlines()
    assert fence == end == "```"
    facts = dict(line.split(maxsplit=1) for line in lines)
    assert facts["mobilesam"] == mobilesam.__version__
    assert facts["checkpoint"] == f"~/{packaged.parent.name}/{packaged.name}"
    assert f"{packaged.parents[1]}/" not in said
    assert facts["threads"] == f"1 of {os.cpu_count()} CPUs"
    assert facts["MOBILESAM_NUM_THREADS"] == "1"
    assert f"contourpy {version('contourpy')}" in facts["optional"]
    assert "pytest" not in facts["optional"]
    assert {"python", "platform", "cpu", "isa", "openmp", "downloaded", "source_sha256"} <= facts.keys()


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mobilesam", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=os.environ | variables)


def test_python_m_mobilesam(folder):
    shown = run("--version")
    assert (shown.returncode, shown.stdout) == (0, f"mobilesam {mobilesam.__version__}\n")


@pytest.mark.parametrize(
    ("variable", "value"),
    [("MOBILESAM_ISA", "pentium"), ("MOBILESAM_NUM_THREADS", "none"), ("MOBILESAM_MAX_PIXELS", "many")],
)
def test_an_impossible_environment_ends_in_one_line(folder, variable, value):
    shown = run("segment", CHELSEA, "--point", "220,140", "--output", "mask.png", **{variable: value})
    assert shown.returncode == 2
    assert shown.stderr.startswith("mobilesam: error: ")
    assert shown.stderr.count("\n") == 1
    assert variable in shown.stderr
    assert value in shown.stderr
    assert files(folder) == []


def test_the_photo_is_read_before_numpy_is_imported(folder):
    program = """if True:
        import sys
        from mobilesam.cli import main
        from mobilesam.images import photo
        read = photo.read_photo
        def watched(path, *arguments, **options):
            print("numpy there:", "numpy" in sys.modules)
            return read(path, *arguments, **options)
        photo.read_photo = watched
        sys.exit(main.main(sys.argv[1:]))
    """
    command = [sys.executable, "-c", program, "segment", CHELSEA, "--point", "220,140", "--output", "mask.png"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    assert shown.stdout.startswith("numpy there: False\n")


@pytest.fixture
def pipe(folder):
    """A named pipe without a writer. Opening the pipe for reading blocks."""
    if not hasattr(os, "mkfifo"):
        pytest.skip("this OS has no named pipes")
    os.mkfifo(folder / "pipe")
    return "pipe"


def test_an_error_does_not_wait_for_the_photo(pipe):
    shown = run("segment", pipe, "--point", "1,1", "--output", "mask.png", "--weights", "none.safetensors")
    assert (shown.returncode, shown.stderr.count("\n")) == (2, 1)
    assert "none.safetensors" in shown.stderr


def test_an_interrupt_while_the_photo_is_read_ends_the_command(pipe):
    command = [sys.executable, "-m", "mobilesam", "segment", pipe, "--point", "1,1", "--output", "mask.png"]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    heard = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore SIGINT
    try:
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    finally:
        signal.signal(signal.SIGINT, heard)
    with process:
        try:
            time.sleep(3)  # after 3 s, the command waits for the pipe
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=60)
        finally:
            process.kill()
    assert (process.returncode, said) == (130, "")


def test_a_segmenting_process_never_imports_onnx(folder):
    program = "import sys; from mobilesam.cli.main import main; main(sys.argv[1:]); sys.exit('onnx' in sys.modules)"
    command = [
        sys.executable,
        "-c",
        program,
        "segment",
        CHELSEA,
        "--point",
        "220,140",
        "--output",
        "mask.png",
    ]
    assert subprocess.run(command, check=False).returncode == 0
    assert files(folder) == ["mask.png"]
