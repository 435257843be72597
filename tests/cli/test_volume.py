"""mobilesam volume: cases of each format, boxes from each source, and errors in one line."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import related_models

from mobilesam.architecture import LITE_MEDSAM
from mobilesam.cli.main import main

AFFINE = np.diag([0.7, 0.7, 3.0, 1.0])
BOX = [10, 8, 1, 40, 30, 5]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(related_models.write(tmp_path_factory.mktemp("lite") / "a.safetensors", LITE_MEDSAM))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a volume and a picture of the challenge, and a NIfTI volume in Hounsfield units."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    volume = rng.integers(0, 255, (6, 40, 56), np.uint8)
    np.savez("3D_a.npz", imgs=volume, boxes=np.array([BOX]), spacing=np.array([3.0, 0.7, 0.7]))
    np.savez("2D_b.npz", imgs=rng.integers(0, 255, (40, 56, 3), np.uint8), boxes=np.array([[10, 8, 40, 30]]))
    values = (volume.T.astype(np.int16) - 100).astype(np.int16)
    nibabel.save(nibabel.Nifti1Image(values, AFFINE), "ct.nii.gz")
    return tmp_path


def run(weights: str, *words: str) -> int:
    return main(["volume", *words, "--weights", weights])


def test_cases_of_the_challenge(folder: Path, weights: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(weights, "3D_a.npz", "2D_b.npz", "--output", "out") == 0
    said = capsys.readouterr().out
    assert "3D_a.npz: 1 objects" in said and "2D_b.npz: 1 objects" in said
    volume, picture = np.load("out/3D_a.npz"), np.load("out/2D_b.npz")
    assert (volume["segs"].shape, volume["segs"].dtype) == ((6, 40, 56), np.uint8)
    assert volume["spacing"].tolist() == [3.0, 0.7, 0.7]
    assert picture["segs"].shape == (40, 56)
    before = Path("out/3D_a.npz").stat().st_mtime_ns
    assert run(weights, "3D_a.npz", "2D_b.npz", "--output", "out", "--resume") == 0
    assert "0 written, 2 there already" in capsys.readouterr().out
    assert Path("out/3D_a.npz").stat().st_mtime_ns == before


def test_nifti_keeps_the_affine(folder: Path, weights: str) -> None:
    assert run(weights, "ct.nii.gz", "--output", "out", "--box", ",".join(map(str, BOX)), "--window", "40,400") == 0
    labels = nibabel.load("out/ct.nii.gz")
    np.testing.assert_array_equal(labels.affine, nibabel.load("ct.nii.gz").affine)
    filled = np.flatnonzero(np.asarray(labels.dataobj).any(axis=(0, 1)))
    assert labels.shape == (56, 40, 6) and set(filled) <= {2, 3, 4}


def test_a_file_of_boxes(folder: Path, weights: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("boxes.csv").write_text("case,x0,y0,z0,x1,y1,z1\nct,10,8,1,40,30,5\nct,0,0,0,20,20,3\n")
    assert run(weights, "ct.nii.gz", "--output", "out", "--boxes", "boxes.csv", "--window", "-100,300") == 0
    assert "ct.nii.gz: 2 objects" in capsys.readouterr().out
    lines = [{"case": "3D_a", "box": BOX}, {"case": "2D_b", "box": [10, 8, 40, 30]}, {"case": "other", "box": BOX}]
    Path("boxes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert run(weights, "3D_a.npz", "2D_b.npz", "--output", "out", "--boxes", "boxes.jsonl") == 0


def test_a_failed_case_does_not_stop_the_others(folder: Path, weights: str, capsys) -> None:
    Path("bad.npz").write_bytes(b"PK\x03\x04 nothing")
    assert run(weights, "bad.npz", "2D_b.npz", "--output", "out") == 1
    said = capsys.readouterr()
    assert said.err.startswith("mobilesam: failed: bad.npz: ") and said.err.count("\n") == 1
    assert [path.name for path in Path("out").iterdir()] == ["2D_b.npz"]


WRONG = {
    "no boxes for case ct: give --box or --boxes": ["ct.nii.gz"],
    "--box is for one case": ["ct.nii.gz", "3D_a.npz", "--box", "0,0,0,9,9,9"],
    "give --box or --boxes, but not both": ["ct.nii.gz", "--box", "0,0,0,9,9,9", "--boxes", "b.csv"],
    "expected x0 y0 z0 x1 y1 z1": ["ct.nii.gz", "--box", "0,0,9"],
    "ct.nii.gz: box 1 (60, 0, 0, 70, 9, 5): outside the image": ["ct.nii.gz", "--box", "60,0,0,70,9,5"],
    "no boxes for case ct: the file of boxes has none": ["ct.nii.gz", "--boxes", "other.csv"],
    "window must be LEVEL,WIDTH": ["ct.nii.gz", "--box", "0,0,0,9,9,5", "--window", "40"],
    "not a medical volume or picture": ["other.csv", "--box", "0,0,0,9,9,5"],
    "No such file or directory: absent.npz": ["absent.npz"],
}


@pytest.mark.parametrize("message", WRONG)
def test_errors_are_one_line_and_nothing_is_written(folder: Path, weights: str, capsys, message: str) -> None:
    Path("other.csv").write_text("case,x0,y0,z0,x1,y1,z1\nother,10,8,1,40,30,5\n")
    assert run(weights, *WRONG[message], "--output", "out") == 2
    said = capsys.readouterr()
    assert message in said.err and said.err.startswith("mobilesam: error: ") and said.err.count("\n") == 1
    assert not list(Path().rglob("out/*"))


def test_an_input_is_never_overwritten(folder: Path, weights: str, capsys) -> None:
    before = Path("3D_a.npz").read_bytes()
    assert run(weights, "3D_a.npz", "--output", ".") == 2
    assert "overwrite" in capsys.readouterr().err
    assert Path("3D_a.npz").read_bytes() == before


def test_the_default_weights_must_be_downloaded(folder: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    assert main(["volume", "3D_a.npz", "--output", "out"]) == 2
    assert "get it with mobilesam download lite_medsam" in capsys.readouterr().err
