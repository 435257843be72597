"""Cases of the challenge: images, boxes and spacing of .npz files, labels, and damaged files."""

import re
import zipfile
from pathlib import Path

import numpy as np
import pytest

from mobilesam.volumes.case import Case, CaseError
from mobilesam.volumes.reading import open_case
from mobilesam.volumes.window import FileWindow, Percentiles, Window

VOLUME = np.random.default_rng(1).integers(0, 256, (4, 5, 6), np.uint8)
BOXES = np.array([[1, 1, 0, 4, 5, 3], [0, 0, 1, 2, 2, 2]])


def case(path: Path, window: object = None, **arrays: object) -> Case:
    np.savez_compressed(path, **arrays)
    return open_case(path, window)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "CT_Abdomen.v1.npz"


def test_a_volume_and_its_labels(file, tmp_path):
    spacing = np.array([0.75, 0.75, 2.5])
    opened = case(file, imgs=VOLUME, boxes=BOXES, spacing=spacing, gts=VOLUME)
    assert (opened.name, opened.suffix, opened.shape, opened.is_volume) == ("CT_Abdomen.v1", ".npz", (4, 5, 6), True)
    np.testing.assert_array_equal(opened.image, VOLUME)
    np.testing.assert_array_equal(opened.boxes, BOXES)
    assert opened.boxes.dtype == np.int64
    labels = np.zeros(VOLUME.shape, np.uint8)
    labels[1, 2, 3] = 2
    opened.write(labels, tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz") as written:
        assert sorted(written) == ["segs", "spacing"]
        np.testing.assert_array_equal(written["segs"], labels)
        assert written["segs"].dtype == np.uint8
        np.testing.assert_array_equal(written["spacing"], spacing)
    assert sorted(path.name for path in tmp_path.iterdir()) == [file.name, "out.npz"]


@pytest.mark.parametrize("shape", [(5, 6), (5, 6, 3)])
@pytest.mark.parametrize("boxes", [None, [[0, 1, 4, 5]]])
def test_pictures(file, tmp_path, shape, boxes):
    picture = np.random.default_rng(2).integers(0, 256, shape, np.uint8)
    opened = case(file, imgs=picture, **({} if boxes is None else {"boxes": boxes}))
    assert (opened.shape, opened.is_volume) == ((5, 6), False)
    assert opened.image.shape == shape
    assert opened.boxes is None if boxes is None else opened.boxes.tolist() == boxes
    opened.write(np.full((5, 6), 300, np.uint16), tmp_path / "out.npz")
    with np.load(tmp_path / "out.npz") as written:
        assert list(written) == ["segs"]
        assert written["segs"].dtype == np.uint16
        assert written["segs"].tolist() == [[300] * 6] * 5


def test_boxes_of_six_numbers_mean_a_volume_even_if_its_width_is_3(file):
    opened = case(file, imgs=VOLUME[:, :, :3], boxes=BOXES)
    assert opened.shape == (4, 5, 3)
    assert case(file, imgs=VOLUME[:, :, :3]).shape == (4, 5)


def test_fractions_of_boxes_are_widened(file):
    assert case(file, imgs=VOLUME, boxes=[[0.5, 1.0, 0, 3.2, 4, 3]]).boxes.tolist() == [[0, 1, 0, 4, 4, 3]]


def test_other_dtypes_need_a_window(file):
    values = np.array([[-160, 40], [240, 1000]], np.int16)
    with pytest.raises(CaseError, match="imgs has dtype int16; expected uint8, or a window or percentiles"):
        case(file, imgs=values)
    assert case(file, Window(40, 400), imgs=values).image.tolist() == [[0, 128], [255, 255]]
    assert case(file, Percentiles(0, 100), imgs=values / 2.0).image.tolist() == [[0, 44], [88, 255]]
    with pytest.raises(CaseError, match="has no window of its own, as DICOM files have; give LEVEL,WIDTH"):
        case(file, FileWindow(), imgs=values)


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({"gts": VOLUME}, "has no array imgs, but gts; expected an .npz file with the array imgs"),
        ({"imgs": VOLUME > 9}, "imgs has dtype bool; expected uint8, or other integers or floats"),
        ({"imgs": VOLUME * 1j}, "imgs has dtype complex128"),
        ({"imgs": np.array(["text"])}, "imgs has dtype <U4"),
        ({"imgs": VOLUME.astype(object)}, "Object arrays cannot be loaded"),
        ({"imgs": VOLUME[0, 0]}, "imgs has shape (6,); expected (D, H, W), (H, W) or (H, W, 3), not empty"),
        ({"imgs": VOLUME[None]}, "imgs has shape (1, 4, 5, 6)"),
        ({"imgs": VOLUME[:0]}, "imgs has shape (0, 5, 6)"),
        ({"imgs": VOLUME, "boxes": BOXES[0]}, "boxes has shape (6,); expected (N, 4) or (N, 6)"),
        ({"imgs": VOLUME, "boxes": BOXES[:, :5]}, "boxes has shape (2, 5); expected (N, 4) or (N, 6)"),
        ({"imgs": VOLUME, "boxes": BOXES[:, :4]}, "boxes has shape (2, 4); expected (N, 6), because imgs is a volume"),
        ({"imgs": VOLUME[0], "boxes": BOXES}, "boxes has shape (2, 6); expected (N, 4), because imgs is a picture"),
        ({"imgs": VOLUME, "boxes": BOXES * np.nan}, "boxes has dtype float64; expected finite integers or floats"),
        ({"imgs": VOLUME, "boxes": BOXES > 1}, "boxes has dtype bool; expected finite integers or floats"),
        ({"imgs": VOLUME, "boxes": BOXES * 1e30}, "expected finite integers or floats"),
    ],
)
def test_arrays_that_are_no_case(file, arrays, problem):
    with pytest.raises(CaseError, match=re.escape(problem)) as raised:
        case(file, **arrays)
    assert str(raised.value).startswith(f"{file}: ")


def test_files_that_are_no_npz(file):
    for content in (b"", b"text", b"\x93NUMPY" + bytes(100)):
        file.write_bytes(content)
        with pytest.raises(CaseError, match=r"not a zip archive, or its end is missing; expected an \.npz file"):
            open_case(file)
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("imgs", "text")
    with pytest.raises(CaseError, match="imgs has dtype"):
        open_case(file)
    with zipfile.ZipFile(file, "w"):
        pass
    with pytest.raises(CaseError, match="has no array imgs, but nothing"):
        open_case(file)


def test_damaged_files(file):
    np.savez_compressed(file, imgs=VOLUME, boxes=BOXES, spacing=np.ones(3))
    content = file.read_bytes()
    for length in range(len(content)):
        file.write_bytes(content[:length])
        with pytest.raises(CaseError):
            open_case(file)
    accepted = 0
    for place in range(len(content)):
        file.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        try:
            accepted += open_case(file).image.shape == VOLUME.shape
        except CaseError as error:
            assert "\n" not in str(error)
    assert accepted < len(content) / 2  # only bytes that do not matter, such as dates


def test_labels_of_another_shape_or_dtype_are_refused(file, tmp_path):
    opened = case(file, imgs=VOLUME, boxes=BOXES)
    for labels in (VOLUME[0], VOLUME.astype(np.int64)):
        with pytest.raises(ValueError, match=re.escape("expected labels of shape (4, 5, 6) in uint8 or uint16")):
            opened.write(labels, tmp_path / "out.npz")
    with pytest.raises(OSError):
        opened.write(VOLUME, tmp_path / "none" / "out.npz")
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
