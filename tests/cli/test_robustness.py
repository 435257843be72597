"""Commands in surroundings that people really have: terminals, home folders, odd paths, 12-bit files and full disks."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from golden import PHOTOS
from PIL import Image

from mobilesam.cli.main import main

CHELSEA = str(PHOTOS["chelsea"])
POINT = ["--point", "220,140", "--output", "mask.png"]
GRID = ["--points-per-side", "2", "--output", "out"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run the command in a new process with these environment variables. A variable with value "" is removed."""
    kept = {name: value for name, value in {**os.environ, **environment}.items() if value}
    return subprocess.run([sys.executable, "-m", "mobilesam", *command], capture_output=True, env=kept, check=False)


@pytest.mark.parametrize("encoding", ["utf-8", "cp1252", "ascii"])
def test_a_name_that_the_terminal_cannot_show_is_written_with_escapes(folder, encoding):
    (folder / "photos").mkdir()
    odd = os.fsdecode(b"caf\xe9.png")
    for name in ("a.png", odd, "d.png"):
        shutil.copy(CHELSEA, folder / "photos" / name)
    done = run("everything", "photos", *GRID, PYTHONIOENCODING=f"{encoding}:strict")
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"caf\\udce9.png: " in done.stdout
    assert len(done.stdout.splitlines()) == 4
    stem = odd.removesuffix(".png")
    assert json.loads((folder / "out" / f"{stem}.json").read_text())["images"][0]["file_name"] == odd


NO_HOME = """
import pwd, sys
def getpwuid(uid):
    raise KeyError(uid)
pwd.getpwuid = getpwuid  # a user without an entry in the password database, as in some containers
from mobilesam.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="home folders on Windows do not come from HOME and pwd")
def test_without_a_home_folder(folder):
    environment = {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME")}

    def homeless(*command: str) -> subprocess.CompletedProcess[str]:
        program = [sys.executable, "-c", NO_HOME, *command]
        return subprocess.run(program, env=environment, capture_output=True, text=True, check=False)

    info = homeless("info")
    assert (info.returncode, info.stderr) == (0, "")
    assert "downloaded " in info.stdout
    assert homeless("segment", CHELSEA, *POINT).returncode == 0
    for command in (["segment", CHELSEA, *POINT, "--weights", "mobile_sam"], ["download"]):
        refused = homeless(*command)
        assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
        assert "there is no folder for downloads: set HOME, or XDG_CACHE_HOME to an absolute path" in refused.stderr
    assert names(folder) == ["mask.png"]


def test_with_a_home_folder_that_cannot_be_read(folder, monkeypatch, capsys):
    class Closed(type(Path())):
        """A path in a folder without read permission. Root, who may run the tests, can read any folder."""

        def exists(self, **_):
            raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr("mobilesam.checkpoints.published.cached_path", lambda name: Closed(folder, name))
    assert main(["info"]) == 0
    assert "downloaded " in capsys.readouterr().out


def test_any_error_ends_in_one_line_and_the_traceback_is_for_developers(folder, monkeypatch, capsys):
    def fail(*_, **__):
        raise ZeroDivisionError("a fault of this package")

    monkeypatch.setattr("mobilesam.api.segment.segment", fail)
    assert main(["segment", CHELSEA, *POINT]) == 2
    assert capsys.readouterr().err == "mobilesam: error: a fault of this package\n"
    monkeypatch.setenv("MOBILESAM_DEBUG", "1")
    assert main(["segment", CHELSEA, *POINT]) == 2
    said = capsys.readouterr().err
    assert said.startswith("Traceback (most recent call last):\n")
    assert said.endswith("mobilesam: error: a fault of this package\n")


NOT_PATHS = {
    "expected the path of an image, got a URL: https://example.org/photo.jpg; download it": "https://example.org/photo.jpg",
    "got a data URL: data:image/png;base64,AAAA": "data:image/png;base64," + "A" * 9000,
    "expected the path of an image, got a text of 9000 characters: '/9j/": "/9j/4AAQSk" * 900,
    "got a text of 300 characters: 'AAAA": "A" * 300,
}


@pytest.mark.parametrize("message", NOT_PATHS)
@pytest.mark.parametrize("command", [["segment", *POINT], ["everything", *GRID]], ids=["segment", "everything"])
def test_a_url_or_base64_in_place_of_a_path(folder, capsys, message, command):
    assert main([command[0], NOT_PATHS[message], *command[1:]]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert len(said) < 300
    assert names(folder) == []


def test_the_range_and_the_bands_of_a_file(folder, capsys):
    rgb = np.asarray(Image.open(CHELSEA).convert("RGB"))
    tifffile = pytest.importorskip("tifffile")
    tifffile.imwrite("twelve.tif", rgb[..., ::-1].astype(np.uint16) * 16, photometric="rgb")
    options = ["--value-range", "0,4080", "--bands", "2,1,0"]
    assert main(["segment", "twelve.tif", *POINT, "--overlay", "overlay.png", *options]) == 0
    assert main(["segment", CHELSEA, "--point", "220,140", "--output", "c.png", "--overlay", "co.png"]) == 0
    assert main(["segment", "twelve.tif", CHELSEA, "--point", "220,140", "--output", "many", *options[:2]]) == 0
    assert main(["everything", "twelve.tif", *GRID, *options]) == 0
    for ours, of_chelsea in (("mask.png", "c.png"), ("overlay.png", "co.png")):
        np.testing.assert_array_equal(np.asarray(Image.open(ours)), np.asarray(Image.open(of_chelsea)))
    capsys.readouterr()
    for option, value, message in (
        ("--value-range", "max", "value_range must be"),
        ("--bands", "1,2", "bands must be three band numbers"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["segment", "twelve.tif", *POINT, option, value])
        said = capsys.readouterr().err
        assert (ended.value.code, said.count("\n")) == (2, 1)
        assert f"{option}: {message}" in said


def test_a_warning_is_one_line(folder):
    Image.fromarray(np.asarray(Image.open(CHELSEA).convert("L")).astype(np.uint16) * 16).save("twelve.png")
    done = run("segment", "twelve.png", *POINT)
    assert done.returncode == 0
    assert done.stderr.startswith(b"mobilesam: warning: twelve.png: 16-bit values use less than 1/8 of their range")
    assert done.stderr.count(b"\n") == 1
    shutil.copy("twelve.png", "other.png")
    done = run("segment", "twelve.png", "other.png", "--point", "50%,50%", "--output", "out")
    assert sorted(line[:32] for line in done.stderr.splitlines()) == [
        b"mobilesam: warning: other.png: 1",
        b"mobilesam: warning: twelve.png: ",
    ]
    done = run("segment", "twelve.png", *POINT, "--value-range", "minmax")
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize("command", ["segment", "everything"])
def test_two_images_with_one_stem(folder, capsys, command):
    (folder / "photos").mkdir()
    for name in ("a.jpg", "a.png"):
        shutil.copy(CHELSEA, folder / "photos" / name)
    options = GRID if command == "everything" else ["--point", "50%,50%", "--output", "out"]
    assert main([command, "photos", *options]) == 2
    said = capsys.readouterr().err
    assert "photos/a.jpg and photos/a.png: give --keep-extension" in said
    assert names(folder) == ["photos"]
    assert main([command, "photos", *options, "--keep-extension"]) == 0
    ends = [".json", "_labels.png", "_overlay.png"] if command == "everything" else [".png"]
    assert names(folder / "out") == sorted(name + end for name in ("a.jpg", "a.png") for end in ends)


@pytest.mark.parametrize("command", ["segment", "everything"])
def test_a_folder_names_the_files_that_are_skipped_and_why(folder, capsys, monkeypatch, command):
    monkeypatch.setattr("mobilesam.images.files.register_heif", lambda: False)
    Image.init()
    monkeypatch.setattr(Image, "EXTENSION", {end: kind for end, kind in Image.EXTENSION.items() if kind != "HEIF"})
    (folder / "photos").mkdir()
    shutil.copy(CHELSEA, folder / "photos" / "a.png")
    for name in ("phone.HEIC", "notes", ".hidden", *(f"{i:02}.txt" for i in range(12))):
        (folder / "photos" / name).touch()
    options = GRID if command == "everything" else ["--point", "50%,50%", "--output", "out"]
    assert main([command, "photos", *options]) == 0
    assert capsys.readouterr().err.splitlines() == [
        f"mobilesam: skipped: {', '.join(f'{i:02}.txt' for i in range(10))} and 2 more: .txt is not an extension of an "
        "image",
        "mobilesam: skipped: notes: no extension is not an extension of an image",
        "mobilesam: skipped: phone.HEIC: HEIC needs pillow-heif: pip install 'mobilesam[heif]'",
    ]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this OS has no /dev/full")
def test_an_output_that_cannot_be_replaced_fails_before_the_others_are_written(folder, capsys):
    (folder / "full.png").symlink_to("/dev/full")
    for first, second in (("full.png", "mask.png"), ("mask.png", "full.png")):
        assert main(["segment", CHELSEA, "--point", "220,140", "--output", first, "--overlay", second]) == 2
        assert "No space left on device: full.png" in capsys.readouterr().err
        assert names(folder) == ["full.png"]


@pytest.mark.skipif(os.name != "posix", reason="closes a file descriptor")
def test_a_batch_runs_with_closed_output_streams(folder):
    for name in ("a.png", "b.png"):
        shutil.copy(CHELSEA, folder / name)
    command = [sys.executable, "-m", "mobilesam", "segment", ".", "--point", "50%,50%", "--output", "out"]
    program = 'exec "$@" >&- 2>&-'
    assert subprocess.run(["sh", "-c", program, "sh", *command], check=False).returncode == 0
    assert names(folder / "out") == ["a.png", "b.png"]


def test_if_one_of_several_outputs_fails_none_is_written(folder, capsys, monkeypatch):
    outputs = ["--output", "mask.png", "--output", "cat.json", "--cutout", "cut.png", "--overlay", "overlay.png"]
    monkeypatch.setattr("mobilesam.masks.draw.draw_overlay", lambda *_, **__: 1 / 0)
    assert main(["segment", CHELSEA, "--point", "220,140", *outputs]) == 2
    assert names(folder) == []
    monkeypatch.setattr("mobilesam.masks.export.save", lambda *_, **__: 1 / 0)
    assert main(["everything", CHELSEA, *GRID]) == 2
    assert names(folder / "out") == []
