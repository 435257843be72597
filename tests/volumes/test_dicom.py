"""DICOM series: the order of slices, values, windows, the affine of the labels, and damaged files."""

import re
import shutil
import sys
import warnings
from copy import deepcopy
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, RTDoseStorage, generate_uid

from mobilesam.volumes.case import Case, CaseError
from mobilesam.volumes.reading import open_case
from mobilesam.volumes.window import FileWindow, Percentiles, Window

DEPTH, ROWS, COLUMNS = 5, 6, 7
STORED = np.random.default_rng(1).integers(0, 4096, (DEPTH, ROWS, COLUMNS), np.uint16)
ROW = np.array([0.8, 0.6, 0])  # direction in which the column index increases
COLUMN = np.array([-0.48, 0.64, 0.6])
NORMAL = np.cross(ROW, COLUMN)
ORIGIN = np.array([-100.5, 30.25, -700])
SPACING = (0.75, 0.5)  # between rows, between columns
THICKNESS = 2.5


def own_file(name: str) -> Path:
    """A test file inside the installed pydicom. Nothing is downloaded."""
    return Path(get_testdata_file(name, download=False))


def a_slice(index: int, **attributes: object) -> FileDataset:
    """A slice of a CT series. An attribute of None is left out."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = CTImageStorage, ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = generate_uid()
    dataset = FileDataset(None, {}, file_meta=meta, preamble=bytes(128))
    pixels = attributes.pop("pixels", STORED[index])
    values = {
        "SeriesInstanceUID": "1.2.3",
        "SeriesNumber": 4,
        "SeriesDescription": "THORAX",
        "InstanceNumber": index + 1,
        "ImagePositionPatient": [f"{number:.6f}" for number in ORIGIN + index * THICKNESS * NORMAL],
        "ImageOrientationPatient": [*ROW, *COLUMN],
        "PixelSpacing": list(SPACING),
        "SliceThickness": 9,  # not the distance between slices
        "Rows": ROWS,
        "Columns": COLUMNS,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 8 * pixels.itemsize,
        "BitsStored": 8 * pixels.itemsize,
        "HighBit": 8 * pixels.itemsize - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
        "RescaleSlope": 1,
        "RescaleIntercept": -1024,
        **attributes,
    }
    for name, value in values.items():
        if value is not None:
            setattr(dataset, name, value)
    dataset.add_new("PixelData", "OB" if pixels.itemsize == 1 else "OW", pixels.tobytes())
    return dataset


def save(folder: Path, *slices: FileDataset) -> Path:
    """Save slices under names whose order is not that of the slices."""
    folder.mkdir(exist_ok=True)
    for dataset, name in zip(slices, ("d", "a.dcm", "e.IMA", "c", "b")):
        dataset.save_as(folder / name)
    return folder


def series(folder: Path, **attributes: object) -> Path:
    return save(folder, *(a_slice(index, **attributes) for index in range(DEPTH)))


def expected(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.rint(np.clip((values - low) / (high - low) * 255, 0, 255))


def affine_of_labels(case: Case, folder: Path) -> np.ndarray:
    """The affine of a label file with one voxel, which is at the right place."""
    labels = np.zeros(case.shape, np.uint8)
    place = tuple(np.array(case.shape) - 1)
    labels[place] = 1
    case.write(labels, folder / "labels.nii.gz")
    written = nibabel.load(folder / "labels.nii.gz")
    assert np.argwhere(np.asarray(written.dataobj)).tolist() == [list(place[::-1])]
    assert written.header.get_xyzt_units()[0] == "mm"
    assert written.get_sform(coded=True)[1] == 1  # scanner
    return written.affine


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "series"


@pytest.mark.parametrize("numbers", ["in order", "reversed", "missing"])
def test_slices_are_sorted_by_position(folder, numbers):
    number = {"in order": lambda index: index, "reversed": lambda index: -index, "missing": lambda index: None}[numbers]
    save(folder, *(a_slice(index, InstanceNumber=number(index)) for index in range(DEPTH)))
    opened = open_case(folder, Window(0, 2000))
    assert (opened.name, opened.suffix, opened.shape, opened.boxes) == ("series", ".nii.gz", STORED.shape, None)
    np.testing.assert_array_equal(opened.image, expected(STORED - 1024.0, -1000, 1000))


def test_slices_without_positions_are_sorted_by_number(folder):
    save(folder, *(a_slice(index, InstanceNumber=100 - index, ImagePositionPatient=None) for index in range(DEPTH)))
    opened = open_case(folder, Window(0, 2000))
    np.testing.assert_array_equal(opened.image, expected(STORED - 1024.0, -1000, 1000)[::-1])
    # Without positions, SliceThickness gives the distance of the slices, and the first voxel is at 0.
    affine = affine_of_labels(opened, folder)
    np.testing.assert_allclose(affine[:3, 2], NORMAL * 9 * (-1, -1, 1), atol=1e-5)
    np.testing.assert_array_equal(affine[:3, 3], 0)


def test_the_affine_is_that_of_the_standard(folder):
    affine = affine_of_labels(open_case(series(folder)), folder)
    for x, y, z in [(0, 0, 0), (6, 0, 0), (0, 5, 0), (0, 0, 4), (3, 2, 1)]:
        patient = ORIGIN + x * SPACING[1] * ROW + y * SPACING[0] * COLUMN + z * THICKNESS * NORMAL
        np.testing.assert_allclose(affine @ (x, y, z, 1), [*(patient * (-1, -1, 1)), 1], atol=1e-4)


def test_a_tilted_series_keeps_its_shear(folder):
    """The slices of a tilted CT are shifted along the columns."""
    step = np.array([0, 0.4, 2])
    save(
        folder,
        *(
            a_slice(index, ImagePositionPatient=list(step * index), ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
            for index in range(DEPTH)
        ),
    )
    affine = affine_of_labels(open_case(folder), folder)
    np.testing.assert_allclose(affine[:3, 2], [0, -0.4, 2], atol=1e-6)
    np.testing.assert_allclose(affine[:3, :2], [[-0.5, 0], [0, -0.75], [0, 0]], atol=1e-6)


def test_slope_and_intercept_of_each_slice(folder):
    slopes = [1, 2, 0.5, 1, 3]
    save(folder, *(a_slice(index, RescaleSlope=slopes[index]) for index in range(DEPTH)))
    values = STORED * np.array(slopes)[:, None, None] - 1024
    np.testing.assert_array_equal(open_case(folder, Window(0, 3000)).image, expected(values, -1500, 1500))


def test_signed_values_without_a_rescale(folder):
    values = STORED.astype(np.int16) - 2000
    save(
        folder,
        *(a_slice(index, pixels=values[index], RescaleSlope=None, RescaleIntercept=None) for index in range(DEPTH)),
    )
    np.testing.assert_array_equal(open_case(folder, Window(0, 3000)).image, expected(values, -1500, 1500))


def test_a_modality_lookup_table(folder):
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [4096, 0, 16], list(range(0, 8192, 2))
    table["LUTDescriptor"].VR, table["LUTData"].VR = "US", "US"
    series(folder, ModalityLUTSequence=Sequence([table]), RescaleSlope=None, RescaleIntercept=None)
    np.testing.assert_array_equal(open_case(folder, Window(4096, 8192)).image, expected(STORED * 2.0, 0, 8192))


def test_the_default_is_percentiles_for_16_bits_and_none_for_8(folder):
    np.testing.assert_array_equal(open_case(series(folder)).image, open_case(folder, Percentiles()).image)
    low, high = np.percentile(STORED - 1024.0, [0.5, 99.5])
    np.testing.assert_array_equal(open_case(folder).image, expected(STORED - 1024.0, low, high))
    small = (STORED >> 5).astype(np.uint8)
    save(folder, *(a_slice(index, pixels=small[index], RescaleIntercept=0) for index in range(5)))
    np.testing.assert_array_equal(open_case(folder).image, small)


def test_monochrome1_is_inverted_after_the_window(folder):
    series(folder, PhotometricInterpretation="MONOCHROME1")
    image = open_case(folder, Window(0, 2000)).image
    np.testing.assert_array_equal(image, 255 - expected(STORED - 1024.0, -1000, 1000))


def test_the_window_of_the_file(folder):
    series(folder, WindowCenter=[40, 300], WindowWidth=[401, 1500])  # the standard's LINEAR: 39.5 +- 200
    np.testing.assert_array_equal(open_case(folder, FileWindow()).image, expected(STORED - 1024.0, -160.5, 239.5))
    series(folder, WindowCenter=40, WindowWidth=400, VOILUTFunction="LINEAR_EXACT")
    np.testing.assert_array_equal(open_case(folder, FileWindow()).image, expected(STORED - 1024.0, -160, 240))
    series(folder, WindowCenter=40, WindowWidth=400, VOILUTFunction="SIGMOID")
    with pytest.raises(CaseError, match="has the VOI LUT function SIGMOID; expected LINEAR or LINEAR_EXACT"):
        open_case(folder, FileWindow())
    series(folder)
    with pytest.raises(CaseError, match="has no WindowCenter and WindowWidth; give LEVEL,WIDTH or percentiles"):
        open_case(folder, FileWindow())


def test_other_files_in_the_folder_are_ignored(folder):
    series(folder)
    before = open_case(folder).image
    (folder / "notes.txt").write_text("text")
    (folder / "empty").touch()
    (folder / "subfolder").mkdir()
    shutil.copy(own_file("CT_small.dcm"), folder / "subfolder")
    shutil.copy(own_file("dicomdirtests/DICOMDIR"), folder / "DICOMDIR")
    shutil.copy(own_file("test-SR.dcm"), folder / "report.dcm")
    shutil.copy(own_file("liver_1frame.dcm"), folder / "segmentation.dcm")
    dose = a_slice(0, SeriesInstanceUID="9.9")
    dose.file_meta.MediaStorageSOPClassUID = RTDoseStorage
    dose.save_as(folder / "dose.dcm")
    np.testing.assert_array_equal(open_case(folder).image, before)


def enhanced(shared: bool) -> FileDataset:
    """A file with all slices, in the reverse order, with functional groups (C.7.6.16)."""
    dataset = a_slice(0, pixels=STORED[::-1].copy(), NumberOfFrames=DEPTH)
    orientation, measures, values = (Dataset() for _ in range(3))
    orientation.ImageOrientationPatient, measures.PixelSpacing = dataset.ImageOrientationPatient, dataset.PixelSpacing
    values.RescaleSlope, values.RescaleIntercept = 2, -1024
    common = Dataset()
    common.PlaneOrientationSequence, common.PixelMeasuresSequence = Sequence([orientation]), Sequence([measures])
    common.PixelValueTransformationSequence = Sequence([values])
    frames = []
    for index in reversed(range(DEPTH)):
        position, frame = Dataset(), Dataset() if shared else deepcopy(common)
        position.ImagePositionPatient = a_slice(index).ImagePositionPatient
        frame.PlanePositionSequence = Sequence([position])
        frames.append(frame)
    dataset.PerFrameFunctionalGroupsSequence = Sequence(frames)
    if shared:
        dataset.SharedFunctionalGroupsSequence = Sequence([common])
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept"):
        delattr(dataset, name)
    return dataset


@pytest.mark.parametrize("shared", [True, False])
def test_a_file_with_many_frames_and_their_geometry(folder, tmp_path, shared):
    enhanced(shared).save_as(tmp_path / "enhanced.dcm")
    opened = open_case(tmp_path / "enhanced.dcm", Window(0, 2000))
    np.testing.assert_array_equal(opened.image, expected(STORED * 2.0 - 1024, -1000, 1000))
    single = affine_of_labels(open_case(series(folder)), folder)
    np.testing.assert_array_equal(affine_of_labels(opened, tmp_path), single)


def test_a_file_with_many_frames_without_their_geometry(tmp_path):
    a_slice(0, pixels=STORED, NumberOfFrames=DEPTH, SpacingBetweenSlices=4).save_as(tmp_path / "frames")
    opened = open_case(tmp_path / "frames", Window(0, 2000))
    np.testing.assert_array_equal(opened.image, expected(STORED - 1024.0, -1000, 1000))
    affine = affine_of_labels(opened, tmp_path)
    np.testing.assert_allclose(affine[:3, 2:].T, [NORMAL * 4 * (-1, -1, 1), ORIGIN * (-1, -1, 1)], atol=1e-4)


def changed(index: int, **attributes: object) -> list[FileDataset]:
    """A series in which one slice has other attributes."""
    return [a_slice(each, **(attributes if each == index else {})) for each in range(DEPTH)]


UPRIGHT = [1, 0, 0, 0, 1, 0]
PLACE = [f"{number:.6f}" for number in ORIGIN]


@pytest.mark.parametrize(
    ("slices", "problem"),
    [
        (
            [*changed(1, SeriesInstanceUID="1.2.4", SeriesNumber=5, SeriesDescription=None)],
            "holds 2 series (5 without description: 1 slice; 4 THORAX: 4 slices); expected a folder with one series",
        ),
        (
            changed(2, pixels=STORED[2, :5], Rows=5),
            "slices with different Rows: 5, 6; expected equal slices",
        ),
        (
            changed(2, PhotometricInterpretation="MONOCHROME1"),
            "slices with different PhotometricInterpretation: MONOCHROME1, MONOCHROME2; expected equal slices",
        ),
        (
            changed(2, ImageOrientationPatient=UPRIGHT),
            "slices with different ImageOrientationPatient: 0.8,0.6,0,-0.48,0.64,0.6 and 1,0,0,0,1,0; expected equal",
        ),
        (changed(2, PixelSpacing=[0.75, 0.6]), "slices with different PixelSpacing: 0.75,0.5 and 0.75,0.6; expected"),
        (changed(2, ImagePositionPatient=PLACE), "two slices have the same position: d and e.IMA; expected one slice"),
        (changed(2, InstanceNumber=1, ImagePositionPatient=None), "two slices have the same InstanceNumber: d and e"),
        (
            changed(2, InstanceNumber=None, ImagePositionPatient=None),
            "slices without ImagePositionPatient and InstanceNumber; one is needed for the order",
        ),
        (
            [a_slice(index) for index in (0, 1, 3, 4)],
            "slices are 2.5 to 5 mm apart, the most between a.dcm and e.IMA; expected even dis",
        ),
        (changed(2, ImagePositionPatient=["1", "2"]), "ImagePositionPatient must be 3 numbers, got [1, 2]"),
        (changed(2, NumberOfFrames=-1), "NumberOfFrames must be 1 to 65536, got -1"),
        (changed(2, pixels=STORED[2, :5]), "The number of bytes of pixel data is less than expected"),
        (
            changed(2, PhotometricInterpretation="RGB"),
            "e.IMA: the image has colours (RGB); expected MONOCHROME1 or MON",
        ),
        (changed(2, Rows=None), "e.IMA: the DICOM file has no Rows and Columns, so it may be cut off; expected a gray"),
        ([], "holds no DICOM image; expected a folder that holds the files of one series, or a DICOM image"),
    ],
)
def test_folders_that_are_no_series(folder, slices, problem):
    with pytest.raises(CaseError, match=re.escape(problem)) as raised:
        open_case(save(folder, *slices))
    assert str(raised.value).startswith(str(folder))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["examples_rgb_color.dcm", "examples_palette.dcm", "SC_rgb_rle_2frame.dcm"])
def test_colours(name):
    with pytest.raises(CaseError, match="the image has colours"):
        open_case(own_file(name))


def test_a_dicom_file_without_an_image():
    with pytest.raises(CaseError, match="not a DICOM image; expected a folder that holds the files of one series"):
        open_case(own_file("test-SR.dcm"))


def test_pydicoms_own_files(tmp_path):
    plain = own_file("MR_small.dcm")
    for name in ("MR_small_RLE.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm", "MR_small_jp2klossless.dcm"):
        np.testing.assert_array_equal(open_case(own_file(name)).image, open_case(plain).image)
    opened = open_case(own_file("CT_small.dcm"), Window(40, 400))
    source = pydicom.dcmread(own_file("CT_small.dcm"))
    values = source.pixel_array * float(source.RescaleSlope) + float(source.RescaleIntercept)
    np.testing.assert_array_equal(opened.image, expected(values, -160, 240)[None])
    affine = affine_of_labels(opened, tmp_path)
    x, y, z = map(float, source.ImagePositionPatient)
    np.testing.assert_allclose(affine[:3, 3], [-x, -y, z], rtol=1e-6)
    np.testing.assert_allclose(np.abs(np.diag(affine))[:3], [*source.PixelSpacing, source.SliceThickness], rtol=1e-6)


def test_a_real_series_of_pydicom():
    opened = open_case(own_file("dicomdirtests/98892001/CT5N/2062").parent)
    assert (opened.name, opened.shape) == ("CT5N", (5, 16, 16))
    with pytest.raises(CaseError, match=r"slices are 1\.25 to 202\.5 mm apart, the most between 17106 and 17136"):
        open_case(own_file("dicomdirtests/77654033/CT2/17106").parent)


def test_compressed_pixels_that_cannot_be_decoded(tmp_path):
    for name, syntax in (("JPGExtended.dcm", "JPEG Extended"), ("MR_small_jpeg_ls_lossless.dcm", "JPEG-LS Lossless")):
        content = bytearray(own_file(name).read_bytes())
        content[content.index(b"\xff\xd8") : content.index(b"\xff\xd8") + 2] = b"\0\0"  # no decoder reads this
        (tmp_path / name).write_bytes(content)
        with pytest.raises(CaseError, match=f"cannot decode the pixels, compressed as {syntax}") as raised:
            open_case(tmp_path / name)
        hint = "; more decoders: pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg"
        assert str(raised.value).endswith(hint)
        assert "\n" not in str(raised.value)


def test_files_that_are_cut_off(tmp_path):
    a_slice(0, WindowCenter=40, WindowWidth=400).save_as(tmp_path / "slice.dcm")
    content = (tmp_path / "slice.dcm").read_bytes()
    for length in range(len(content)):
        (tmp_path / "slice.dcm").write_bytes(content[:length])
        for window in (None, FileWindow()):
            with pytest.raises(CaseError):
                open_case(tmp_path / "slice.dcm", window)


def test_a_cut_off_slice_is_not_left_out(folder):
    content = (series(folder) / "c").read_bytes()
    for length in range(132, len(content)):
        (folder / "c").write_bytes(content[:length])
        with pytest.raises(CaseError):
            open_case(folder)


def test_damaged_files(tmp_path):
    file = tmp_path / "enhanced.dcm"
    enhanced(True).save_as(file)
    content = file.read_bytes()
    generator = np.random.default_rng(5)
    failed = 0
    for place in range(132, len(content) - STORED.nbytes):
        damaged = bytearray(content)
        damaged[place] = generator.integers(256)
        file.write_bytes(damaged)
        try:
            assert open_case(file, Window(0, 100)).image.dtype == np.uint8
        except CaseError as error:
            failed += 1
            assert "\n" not in str(error)
    assert failed > 100


def test_nothing_is_printed_or_warned(tmp_path, capfd):
    file = own_file("MR_truncated.dcm")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(CaseError, match="less than expected"):
            open_case(file)
        open_case(own_file("MR_small_padded.dcm"))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("package", "purpose"),
    [("pydicom", "reading DICOM files"), ("nibabel", "writing the labels of DICOM files")],
)
def test_without_a_package(folder, monkeypatch, package, purpose):
    series(folder)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError, match=re.escape(f"{purpose} needs a package: pip install 'mobilesam[med")):
        open_case(folder)
