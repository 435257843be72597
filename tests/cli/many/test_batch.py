"""Which images and output files the command uses for folders, glob patterns and prompt files."""

import json
import sys
from pathlib import PureWindowsPath

import pytest

from mobilesam.cli.many import batch
from mobilesam.cli.many.batch import by_image, find_tasks, is_many
from mobilesam.cli.written_prompt import WrittenPrompt, coordinates

CENTRE = WrittenPrompt((coordinates("50%,50%", 2, "X,Y"),), (1,), None)


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A folder `photos` with empty files, in the current directory."""
    for name in ("b.JPG", "a.png", ".hidden.png", "notes.txt", "no-suffix", "deep/c.png", "deep/er/d.png", "e[1].png"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (tmp_path / "photos" / "folder.png").mkdir()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "photos"


def found(*sources: str) -> dict[str, str]:
    assert is_many(sources)
    return {str(task.output): str(task.image) for task in find_tasks(sources, CENTRE, ".png")}


def test_a_folder_gives_its_own_pictures_in_order(photos):
    assert list(found("photos").items()) == [
        ("a.png", "photos/a.png"),
        ("b.png", "photos/b.JPG"),
        ("e[1].png", "photos/e[1].png"),
    ]


@pytest.mark.parametrize(
    ("pattern", "outputs"),
    [
        ("photos/*.png", ["a.png", "e[1].png"]),
        ("photos/**/*.png", ["a.png", "deep/c.png", "deep/er/d.png", "e[1].png"]),
        ("ph?tos/deep/c.png", ["photos/deep/c.png"]),
        ("photos/deep/[c]*", ["c.png"]),
        ("{}/photos/de*/c.png", ["deep/c.png"]),
    ],
)
def test_a_glob_keeps_the_path_from_its_fixed_part(photos, pattern, outputs):
    assert list(found(pattern.format(photos.parent))) == outputs


def test_several_sources(photos):
    assert found("photos/a.png", "photos/deep", "photos/notes.txt") == {
        "a.png": "photos/a.png",
        "c.png": "photos/deep/c.png",
        "notes.png": "photos/notes.txt",  # a file that is named explicitly is included, although it is no image
    }


def test_one_image_is_not_many(photos):
    assert not is_many(["photos/a.png"])
    assert not is_many(["photos/e[1].png"])  # an existing file, although its name looks like a glob pattern
    assert not is_many(["absent.png"])


def test_rows_of_one_image_come_together(photos):
    (photos / "p.csv").write_text(
        "image,points,output\na.png,1 2,one.png\nb.JPG,,\na.png,3 4,x/two.tif\n../absent.jpg,5 6,\n/else/f.jpg,,\n"
    )
    tasks = find_tasks(["photos/p.csv"], CENTRE, ".png")
    images = by_image(tasks)
    assert [[str(task.output) for task in image] for image in images] == [
        ["one.png", "x/two.tif"], ["b.png"], ["absent.png"], ["f.png"],
    ]  # fmt: skip
    assert [str(image[0].image) for image in images] == [
        "photos/a.png", "photos/b.JPG", "photos/../absent.jpg", "/else/f.jpg",
    ]  # fmt: skip
    assert images[0][0].prompt.on(9, 9)["points"] == [(1, 2)]
    assert images[1][0].prompt is CENTRE


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        (["empty"], "no image in folder empty"),
        (["photos/*.gif"], "no file matches photos/*.gif"),
        (["photos", "photos/a.png"], "two results would be written to a.png, for photos/a.png"),
        (["photos/a.png", "photos/p.csv"], "two results would be written to a.png, for photos/a.png"),
        (["photos/twice.csv"], "two results would be written to a.png"),
        (
            ["photos/outside.csv"],
            "line 2: output: expected a file in the output folder, with an extension, got '../a",
        ),
        (["photos/absolute.csv"], "got '/a.png'"),
        (["photos/bare.csv"], "with an extension, got 'mask'"),
    ],
)
def test_wrong_sources_are_refused(photos, sources, message):
    (photos / "p.csv").write_text("image\na.png\n")
    (photos / "twice.csv").write_text("image,points\na.png,1 2\na.png,3 4\n")
    for name, output in (("outside", "../a.png"), ("absolute", "/a.png"), ("bare", "mask")):
        (photos / f"{name}.csv").write_text(f"image,output\na.png,{output}\n")
    with pytest.raises(ValueError) as error:
        find_tasks(sources, CENTRE, ".png")
    assert message in str(error.value)


@pytest.mark.parametrize(
    "output", ["/a.png", "\\a.png", "C:a.png", "C:/a.png", "//host/share/a.png", "..\\a.png", "b/NUL.png"]
)
def test_an_output_outside_the_folder_is_refused_on_windows(photos, monkeypatch, output):
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(batch, "PurePath", PureWindowsPath)
    for name in (output, "b\\c/d.png"):
        (photos / "p.jsonl").write_text(json.dumps({"image": "a.png", "output": name}))
        if name == output:
            with pytest.raises(ValueError, match="output: expected a file in the output folder"):
                find_tasks(["photos/p.jsonl"], CENTRE, ".png")
        else:
            assert find_tasks(["photos/p.jsonl"], CENTRE, ".png")[0].output == PureWindowsPath("b/c/d.png")


@pytest.mark.parametrize("source", ["photos", "photos/p.csv"])
def test_every_image_needs_a_prompt(photos, source):
    (photos / "p.csv").write_text("image,points\na.png,1 2\nb.JPG,\n")
    with pytest.raises(ValueError, match=r"no prompt" if source == "photos" else r"p\.csv, line 3: no prompt"):
        find_tasks([source], None, ".png")
