"""The kind of a case by its name and content."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from pydicom.data import get_testdata_file

from mobilesam.volumes.case import CaseError, reading
from mobilesam.volumes.reading import open_case

CT = Path(get_testdata_file("CT_small.dcm", download=False))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("CT.dcm", "CT"),
        ("CT.1.IMA", "CT.1"),
        ("CT.dicom", "CT"),
        ("1.2.840.10008", "1.2.840.10008"),
        ("CT", "CT"),
        ("folder.1/slice", "folder.1"),
        ("folder.dcm/slice.dcm", "folder.dcm"),
    ],
)
def test_names_of_dicom_cases(tmp_path, monkeypatch, name, expected):
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    shutil.copy(CT, file)
    opened = open_case(file.parent if "/" in name else file)
    assert (opened.name, opened.suffix, opened.shape) == (expected, ".nii.gz", (1, 128, 128))
    monkeypatch.chdir(file.parent)
    assert open_case(Path()).name == file.parent.name


def test_files_of_another_kind(tmp_path):
    accepted = "accepted are .npz, .nii, .nii.gz, a DICOM file, or a folder with the files of a DICOM series"
    for name in ("photo.png", "slice.dcm", "scan.npy", "scan.gz", "npz", "nii"):
        (tmp_path / name).write_bytes(bytes(200))
        with pytest.raises(CaseError, match=re.escape(f"{name}: not a medical volume or picture; {accepted}")):
            open_case(tmp_path / name)


@pytest.mark.parametrize("name", ["scan.npz", "scan.nii", "scan.nii.gz", "slice.dcm", "none"])
def test_missing_files(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=re.escape(name)):
        open_case(tmp_path / name)


def test_errors_of_the_system_and_of_memory(tmp_path):
    with pytest.raises(PermissionError, match="denied"), reading(tmp_path, "a file"):
        raise PermissionError(13, "denied", str(tmp_path))
    expected = "does not fit into memory, or is damaged: Unable to allocate"
    with pytest.raises(CaseError, match=expected), reading(tmp_path, "a file"):
        np.empty(1 << 60, np.uint8)
    with pytest.raises(CaseError, match="damaged, or not a file: KeyError"), reading(tmp_path, "a file"):
        raise KeyError
