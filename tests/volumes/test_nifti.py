"""NIfTI files: axes, slope and intercept, the geometry of the labels, and damaged files."""

import gzip
import re
import sys
import warnings
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.testing import data_path

from mobilesam.volumes.case import CaseError
from mobilesam.volumes.reading import open_case
from mobilesam.volumes.window import FileWindow, Window

VALUES = np.random.default_rng(1).integers(-1000, 1000, (6, 5, 4), np.int16)  # x, y, z
AFFINE = np.array([[-0.7, 0.1, 0, 90], [0.1, 0.7, 0.2, -126], [0, -0.3, 2.5, -72], [0, 0, 0, 1]])
GEOMETRY = ("dim", "pixdim", "sform_code", "qform_code", "xyzt_units", "quatern_b", "quatern_c", "quatern_d")
PLACE = ("qoffset_x", "qoffset_y", "qoffset_z", "srow_x", "srow_y", "srow_z")


def save(path: Path, values: np.ndarray = VALUES, kind: type = nibabel.Nifti1Image) -> Path:
    image = kind(values, AFFINE)
    image.header.set_xyzt_units("mm", "sec")
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("name", ["scan.1.nii", "scan.1.nii.gz", "scan.1.NII.GZ"])
def test_axes(tmp_path, name):
    opened = open_case(save(tmp_path / name), Window(0, 2000))
    assert (opened.name, opened.suffix, opened.shape, opened.boxes) == ("scan.1", ".nii.gz", (4, 5, 6), None)
    for x, y, z in [(0, 0, 0), (5, 4, 3), (1, 2, 3)]:
        expected = np.rint((float(VALUES[x, y, z]) + 1000) * 255 / 2000)
        assert opened.image[z, y, x] == expected


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_labels_have_the_geometry_of_the_source(tmp_path, kind, dtype):
    source = kind(VALUES[..., None], AFFINE)  # one volume of four axes
    source.set_sform(AFFINE, "talairach")
    source.set_qform(np.diag([2, 3, 4, 1]), "scanner")
    source.header.set_xyzt_units("micron", "msec")
    source.header.set_slope_inter(2, 5)
    source.header["cal_max"] = 500
    source.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"a name"))
    nibabel.save(source, tmp_path / "scan.nii")
    opened = open_case(tmp_path / "scan.nii")
    labels = np.zeros(opened.shape, dtype)
    labels[3, 2, 1] = 200
    opened.write(labels, tmp_path / "labels.nii.gz")
    source, written = (nibabel.load(tmp_path / name) for name in ("scan.nii", "labels.nii.gz"))
    assert type(written) is kind
    assert written.affine.tobytes() == source.affine.tobytes()
    for field in GEOMETRY + PLACE:
        np.testing.assert_array_equal(written.header[field], source.header[field], field)
    assert written.get_data_dtype() == dtype
    assert (written.dataobj.slope, written.dataobj.inter) == (1, 0)
    assert written.header["cal_max"] == 0
    assert not written.header.extensions
    assert np.argwhere(np.asarray(written.dataobj)).tolist() == [[1, 2, 3, 0]]
    assert written.dataobj[1, 2, 3, 0] == 200


@pytest.mark.parametrize("code", ["sform", "qform", "neither"])
def test_the_affine_of_files_with_one_code_or_none(tmp_path, code):
    source = nibabel.Nifti1Image(VALUES, None)
    source.header["pixdim"][1:4] = 0.5, 0.75, 3
    if code != "neither":
        getattr(source, f"set_{code}")(AFFINE, "scanner")
    nibabel.save(source, tmp_path / "scan.nii.gz")
    opened = open_case(tmp_path / "scan.nii.gz")
    opened.write(opened.image, tmp_path / "labels.nii.gz")
    source, written = (nibabel.load(tmp_path / name) for name in ("scan.nii.gz", "labels.nii.gz"))
    assert written.affine.tobytes() == source.affine.tobytes()
    for name in ("get_sform", "get_qform"):
        assert getattr(written, name)(coded=True)[1] == getattr(source, name)(coded=True)[1]
    np.testing.assert_array_equal(np.asarray(written.dataobj), opened.image.T)


def test_the_labels_of_a_case_are_the_same_bytes_every_time(tmp_path):
    opened = open_case(save(tmp_path / "scan.nii"))
    for name in ("one.nii.gz", "two.nii.gz"):
        opened.write(opened.image, tmp_path / name)
    assert (tmp_path / "one.nii.gz").read_bytes() == (tmp_path / "two.nii.gz").read_bytes()


def test_slope_and_intercept(tmp_path):
    image = nibabel.Nifti1Image(np.array([[[0, 100, 200, 255]]], np.uint8), AFFINE)
    image.header.set_slope_inter(2, -1000)
    nibabel.save(image, tmp_path / "scan.nii")
    # -1000, -800, -600, -490 in a window from -1000 to -490
    assert open_case(tmp_path / "scan.nii", Window(-745, 510)).image.ravel().tolist() == [0, 100, 200, 255]
    assert open_case(tmp_path / "scan.nii", Window(-700, 200)).image.ravel().tolist() == [0, 0, 255, 255]


def test_uint8_stays(tmp_path):
    values = np.random.default_rng(3).integers(9, 99, (3, 4, 5), np.uint8)
    np.testing.assert_array_equal(open_case(save(tmp_path / "scan.nii.gz", values)).image, values.T)


def test_big_endian_floats_with_nan(tmp_path):
    values = VALUES.astype(">f4")
    values[0, 0, 0] = np.nan
    image = nibabel.Nifti1Image(values, AFFINE, nibabel.Nifti1Header(endianness=">"))
    image.header.set_data_dtype(">f4")
    nibabel.save(image, tmp_path / "scan.nii")
    opened = open_case(tmp_path / "scan.nii", Window(0, 2000))
    assert opened.image[0, 0, 0] == 0
    assert opened.image[1, 2, 3] == np.rint((values[3, 2, 1].astype(float) + 1000) * 255 / 2000)
    opened.write(opened.image.astype(np.uint16) * 200, tmp_path / "labels.nii.gz")
    np.testing.assert_array_equal(np.asarray(nibabel.load(tmp_path / "labels.nii.gz").dataobj).T // 200, opened.image)


def test_nibabels_own_files():
    folder = Path(data_path)
    opened = open_case(folder / "anatomical.nii")
    source = nibabel.load(folder / "anatomical.nii")
    assert opened.shape == source.shape[::-1] == (25, 41, 33)
    assert (opened.image.min(), opened.image.max()) == (0, 255)
    with pytest.raises(CaseError, match=re.escape("holds 2 volumes, of shape (128, 96, 24, 2); expected one volume")):
        open_case(folder / "example4d.nii.gz")
    with pytest.raises(CaseError, match="holds Cifti2Image; expected a NIfTI file"):
        open_case(folder / "row_major.dconn.nii")


COLOURS = np.zeros((2, 3, 4), [("R", "u1"), ("G", "u1"), ("B", "u1")])


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (COLOURS, "holds colours or complex numbers, datatype RGB; expected real numbers"),
        (VALUES.astype(np.complex64), "holds colours or complex numbers, datatype complex64"),
        (VALUES[0], "has shape (5, 4); expected three axes, not empty"),
        (np.zeros((2, 3, 4, 5), np.uint8), "holds 5 volumes, of shape (2, 3, 4, 5); expected one volume"),
        (np.zeros((2, 3, 4, 1, 3), np.uint8), "holds 3 volumes, of shape (2, 3, 4, 1, 3); expected one volume"),
    ],
)
def test_files_with_other_contents(tmp_path, values, problem):
    with pytest.raises(CaseError, match=re.escape(problem)):
        open_case(save(tmp_path / "scan.nii", values))


def test_a_file_has_no_window(tmp_path):
    with pytest.raises(CaseError, match="has no window of its own"):
        open_case(save(tmp_path / "scan.nii"), FileWindow())


def test_files_of_another_kind(tmp_path):
    for name in ("scan.nii", "scan.nii.gz"):
        for content in (b"", b"text", bytes(1000), gzip.compress(b"text")):
            (tmp_path / name).write_bytes(content)
            with pytest.raises(CaseError, match="damaged, or not a NIfTI file"):
                open_case(tmp_path / name)


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
def test_files_that_are_cut_off(tmp_path, name):
    content = save(tmp_path / name).read_bytes()
    for length in range(0, len(content), 1 if name.endswith(".gz") else 7):
        (tmp_path / name).write_bytes(content[:length])
        with pytest.raises(CaseError):
            open_case(tmp_path / name)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 351), st.binary(min_size=1, max_size=8))
def test_damaged_headers(tmp_path_factory, place, damage):
    file = tmp_path_factory.getbasetemp() / "damaged.nii"
    header = bytearray(nibabel.Nifti1Image(VALUES, AFFINE).to_bytes())
    header[place : place + len(damage)] = damage
    file.write_bytes(header)
    try:
        opened = open_case(file)
    except CaseError as error:
        assert str(error).startswith(f"{file}: ")
    else:
        assert opened.image.shape == opened.shape
        assert len(opened.encode(np.zeros(opened.shape, np.uint8))) > 100


@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz"])
def test_a_header_with_a_huge_shape(tmp_path, name):
    header = bytearray(nibabel.Nifti1Image(VALUES, AFFINE).to_bytes())
    header[42:48] = np.array([30000] * 3, "<i2").tobytes()
    (tmp_path / name).write_bytes(gzip.compress(header) if name.endswith("gz") else header)
    with pytest.raises(CaseError, match=r"cut off, or damaged: [0-9]+ bytes for a volume of 54000000000000 bytes"):
        open_case(tmp_path / name)


def test_nothing_is_printed_or_warned(tmp_path, capfd):
    content = bytearray(save(tmp_path / "scan.nii").read_bytes())
    content[254:256] = b"\x63\x00"  # an sform code that nibabel corrects and logs
    (tmp_path / "scan.nii").write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_case(tmp_path / "scan.nii")
    assert capfd.readouterr() == ("", "")


def test_without_nibabel(tmp_path, monkeypatch):
    file = save(tmp_path / "scan.nii")
    monkeypatch.setitem(sys.modules, "nibabel", None)
    expected = "reading NIfTI files needs a package: pip install 'mobilesam[medical]'"
    with pytest.raises(ModuleNotFoundError, match=re.escape(expected)):
        open_case(file)
