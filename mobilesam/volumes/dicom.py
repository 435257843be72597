"""DICOM series: a folder of slices, or one file with many frames. Needs `pydicom`, and `nibabel` for the labels.

Section numbers are those of the DICOM standard, part 3.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..util.console import MOST_NAMES, shortened
from ..util.messages import plain
from .case import Case, CaseError, Labels, needed, reading
from .nifti import SUFFIX, encoded
from .window import AnyWindow, FileWindow, Window, to_uint8

START = 132  # bytes of a DICOM file that end with DICM
ACCEPTED = "a DICOM file with a gray image"
_MOST_FRAMES = 1 << 16  # more are taken for damage
_SAME = 1e-3  # differences up to this count as none: of direction cosines, and of distances in mm
_UNEVEN = 0.15  # largest distance of a slice from its place on an even grid, in slices
# Sequences of the functional groups that hold an attribute of a frame (C.7.6.16), by attribute.
_GROUPS = {
    "ImagePositionPatient": "PlanePositionSequence",
    "ImageOrientationPatient": "PlaneOrientationSequence",
    "PixelSpacing": "PixelMeasuresSequence",
    "SpacingBetweenSlices": "PixelMeasuresSequence",
    "SliceThickness": "PixelMeasuresSequence",
    "RescaleSlope": "PixelValueTransformationSequence",
    "RescaleIntercept": "PixelValueTransformationSequence",
    "WindowCenter": "FrameVOILUTSequence",
    "WindowWidth": "FrameVOILUTSequence",
    "VOILUTFunction": "FrameVOILUTSequence",
}
_NOT_IMAGES = ("RT Dose Storage", "Segmentation Storage")  # accompany a series, and have pixels of their own
_DECODERS = "pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg"  # optional packages of pydicom

Array: TypeAlias = NDArray[np.float64]


class _Slice(NamedTuple):
    """A frame of a file.

    Attributes:
        file: The file.
        header: The file's pydicom Dataset without the pixels.
        frame: The number of the frame in the file, from 0.
        orientation: Direction cosines of a row, then of a column (C.7.6.2.1.1).
        pixel: Distance between rows, then between columns, in mm.
        position: The centre of the first pixel in mm, in patient coordinates. None if the file does not tell.
        number: InstanceNumber, or None.
    """

    file: Path
    header: Any
    frame: int
    orientation: Array
    pixel: Array
    position: Array | None
    number: int | None

    def get(self, name: str) -> Any:
        """The value of an attribute, which may be in the functional groups of the frame. None if there is none."""
        return _attribute(self.header, self.frame, name)


def read(path: Path, name: str, window: AnyWindow | None) -> Case:
    """Read a DICOM series.

    Slices are sorted along the normal of their plane, or by InstanceNumber if they have no positions. The values
    include the rescale slope and intercept. Images of MONOCHROME1 are inverted after the window. Labels are written as
    NIfTI with the affine of the series.

    Args:
        path: A folder with the files of one series and any other files, but no subfolders; or a DICOM file.
        name: The case's name.
        window: The window for the values. None for the default, see `window.to_uint8`. `FileWindow` for the window of
            the middle slice.

    Raises:
        CaseError: A file is damaged or not a gray image, the folder has no or several series, or the slices are no
            even stack of equal images.
        ModuleNotFoundError: `pydicom` or `nibabel` is not installed.
        OSError: A file cannot be read.
    """
    pydicom = needed("pydicom", "reading DICOM files")
    nibabel = needed("nibabel", "writing the labels of DICOM files")
    with reading(path, "a DICOM series"):
        slices = _sorted(path, _series(pydicom, path))
        affine = _affine(path, slices)
        middle = slices[len(slices) // 2]
        inverted = middle.get("PhotometricInterpretation") == "MONOCHROME1"
        chosen = _file_window(middle) if isinstance(window, FileWindow) else window
        values = _values(pydicom, slices)
        header = nibabel.Nifti1Header()
        header.set_data_shape(values.shape[::-1])
        header.set_xyzt_units("mm")
        header.set_qform(affine, "unknown")  # sets the voxel sizes; a quaternion has no shear, unlike a tilted CT
        header.set_sform(affine, "scanner")
    image = to_uint8(values, chosen, path)
    if inverted:
        np.subtract(255, image, out=image)

    def encode(labels: Labels) -> bytes:
        return encoded(nibabel.Nifti1Image, labels.T, header)

    return Case(name, image, image.shape, None, SUFFIX, encode)


def _series(pydicom: ModuleType, path: Path) -> list[_Slice]:
    """The slices of the only series, in the order of the file names."""
    found: dict[str, list[_Slice]] = defaultdict(list)
    for file in sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]:
        with file.open("rb") as opened:
            if opened.read(START)[-4:] != b"DICM":
                continue
        with reading(file, ACCEPTED):
            header = pydicom.dcmread(file, stop_before_pixels=True)
            if _is_image(file, header):
                found[str(header.get("SeriesInstanceUID"))] += _slices(file, header)
    if not found:
        holds = "holds no DICOM image" if path.is_dir() else "not a DICOM image"
        raise CaseError(f"{path}: {holds}; expected a folder that holds the files of one series, or a DICOM image")
    if len(found) > 1:
        texts = [_description(slices) for slices in found.values()]
        listed = "; ".join(texts[:MOST_NAMES]) + ("; ..." if len(texts) > MOST_NAMES else "")
        raise CaseError(f"{path}: holds {len(found)} series ({listed}); expected a folder with one series")
    (slices,) = found.values()
    return slices


def _description(slices: list[_Slice]) -> str:
    number, description = (slices[0].get(name) for name in ("SeriesNumber", "SeriesDescription"))
    return f"{number} {description or 'without description'}: {len(slices)} slice{'s' * (len(slices) > 1)}"


def _is_image(file: Path, header: Any) -> bool:
    """Whether the file holds an image, unlike a DICOMDIR, a report or a segmentation.

    Raises CaseError if the file ends before the size of its image, because a slice would be missing without notice.
    """
    storage = header.file_meta.get("MediaStorageSOPClassUID") or header.get("SOPClassUID")
    if header.get("Rows") and header.get("Columns"):
        return not storage or storage.name not in _NOT_IMAGES
    if not storage or "Image Storage" in storage.name:
        raise CaseError(f"{file}: the DICOM file has no Rows and Columns, so it may be cut off; expected a gray image")
    return False


def _slices(file: Path, header: Any) -> list[_Slice]:
    """The frames of a file."""
    photometric, samples = header.get("PhotometricInterpretation"), header.get("SamplesPerPixel", 1)
    if photometric not in ("MONOCHROME1", "MONOCHROME2") or samples != 1:
        raise CaseError(
            f"{file}: the image has colours ({plain(str(photometric))}); expected MONOCHROME1 or MONOCHROME2"
        )
    count = int(header.get("NumberOfFrames") or 1)
    if not 1 <= count <= _MOST_FRAMES:
        raise ValueError(f"NumberOfFrames must be 1 to {_MOST_FRAMES}, got {count}")
    slices = []
    for frame in range(count):
        position = _numbers(header, frame, "ImagePositionPatient", 3)
        orientation = _numbers(header, frame, "ImageOrientationPatient", 6)
        pixel = _numbers(header, frame, "PixelSpacing", 2)
        if count > 1 and "PerFrameFunctionalGroupsSequence" not in header and frame:
            position = None  # the position at the top level is that of the first frame
        number = header.get("InstanceNumber")
        slices.append(
            _Slice(
                file,
                header,
                frame,
                np.array([1.0, 0, 0, 0, 1, 0]) if orientation is None else orientation,
                np.ones(2) if pixel is None else pixel,
                None if orientation is None else position,
                None if number is None else int(number),
            )
        )
    return slices


def _attribute(header: Any, frame: int, name: str) -> Any:
    """The value of an attribute of a frame: its own, the value shared by all frames, or the file's."""
    group = _GROUPS.get(name, "")
    per_frame = header.get("PerFrameFunctionalGroupsSequence")
    for groups in [*([per_frame[frame]] if per_frame else []), *(header.get("SharedFunctionalGroupsSequence") or [])]:
        for item in groups.get(group) or []:
            if (value := item.get(name)) is not None:
                return value
    return header.get(name)


def _numbers(header: Any, frame: int, name: str, count: int) -> Array | None:
    """The numbers of an attribute. None if the file has no such attribute, or an empty one."""
    value = _attribute(header, frame, name)
    if value is None or value == "":
        return None
    numbers = np.array(value, np.float64)
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        raise ValueError(f"{name} must be {count} numbers, got {value}")
    return numbers


def _sorted(path: Path, slices: list[_Slice]) -> list[_Slice]:
    """Check that the slices are equal in form, and sort them. Raises CaseError if two have the same place."""
    first = slices[0]
    for name in ("Rows", "Columns", "PhotometricInterpretation"):
        found = sorted({str(each.get(name)) for each in slices})
        if len(found) > 1:
            raise CaseError(f"{path}: slices with different {name}: {', '.join(found)}; expected equal slices")
    for each in slices:
        for name, own, others in (
            ("ImageOrientationPatient", each.orientation, first.orientation),
            ("PixelSpacing", each.pixel, first.pixel),
        ):
            if np.abs(own - others).max() > _SAME:
                texts = " and ".join(",".join(f"{value:.4g}" for value in values) for values in (others, own))
                raise CaseError(f"{path}: slices with different {name}: {texts}; expected equal slices")
    if len(slices) == 1:
        return slices
    places = [float(_normal(first) @ each.position) for each in slices if each.position is not None]
    if len(places) == len(slices):
        what = "position"
    elif len({each.file for each in slices}) == 1:
        return slices  # in the order of the frames
    elif all(each.number is not None for each in slices) and all(each.frame == 0 for each in slices):
        places, what = [float(each.number or 0) for each in slices], "InstanceNumber"
    else:
        raise CaseError(f"{path}: slices without ImagePositionPatient and InstanceNumber; one is needed for the order")
    order = sorted(range(len(slices)), key=places.__getitem__)
    for one, two in pairwise(order):
        if places[two] - places[one] <= _SAME:
            names = f"{slices[one].file.name} and {slices[two].file.name}"
            raise CaseError(f"{path}: two slices have the same {what}: {names}; expected one slice at each place")
    return [slices[index] for index in order]


def _normal(one: _Slice) -> Array:
    return np.cross(one.orientation[:3], one.orientation[3:])


def _affine(path: Path, slices: list[_Slice]) -> Array:
    """The affine from voxels (x, y, z) to NIfTI's millimetres, by equation C.7.6.2.1-1.

    DICOM's x and y point to the left and to the back of the patient. NIfTI's point to the right and to the front.

    Returns:
        (4, 4). Without PixelSpacing, pixels have a side of 1 mm. Without positions, the distance of slices is
        SpacingBetweenSlices, else SliceThickness, else 1 mm.
    """
    first, last, steps = slices[0], slices[-1], max(1, len(slices) - 1)
    start = np.zeros(3) if first.position is None else first.position
    if first.position is None or last.position is None or first is last:
        distance = first.get("SpacingBetweenSlices") or first.get("SliceThickness") or 1
        step = _normal(first) * abs(float(distance))
    else:
        step = (last.position - start) / steps
        places = np.array([each.position for each in slices])
        grid = start + np.arange(len(slices))[:, None] * step
        if np.linalg.norm(places - grid, axis=1).max() > _UNEVEN * np.linalg.norm(step):
            gaps = np.linalg.norm(np.diff(places, axis=0), axis=1)
            where = " and ".join(each.file.name for each in slices[int(gaps.argmax()) :][:2])
            uneven = f"slices are {gaps.min():.4g} to {gaps.max():.4g} mm apart, the most between {where}"
            raise CaseError(f"{path}: {uneven}; expected even distances, so a file may be missing")
    affine = np.eye(4)
    affine[:3] = np.stack(
        [first.orientation[:3] * first.pixel[1], first.orientation[3:] * first.pixel[0], step, start], axis=1
    )
    return np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine


def _file_window(middle: _Slice) -> Window:
    """The first window of a slice (C.11.2.1.2)."""
    function = middle.get("VOILUTFunction") or "LINEAR"
    level, width = (np.ravel(middle.get(name)).tolist()[0] for name in ("WindowCenter", "WindowWidth"))
    if level is None or width is None:
        raise CaseError(f"{middle.file}: has no WindowCenter and WindowWidth; give LEVEL,WIDTH or percentiles")
    if function not in ("LINEAR", "LINEAR_EXACT"):
        raise CaseError(f"{middle.file}: has the VOI LUT function {function}; expected LINEAR or LINEAR_EXACT")
    return Window(float(level) - 0.5, float(width) - 1) if function == "LINEAR" else Window(float(level), float(width))


def _values(pydicom: ModuleType, slices: list[_Slice]) -> NDArray[np.generic]:
    """The rescaled values (D, H, W) of sorted slices: uint8 if the files store uint8 without rescale, else float32."""
    header = slices[0].header
    shape = header.Rows, header.Columns
    is_uint8 = all(_is_uint8(each) for each in slices)
    values: NDArray[np.generic] | None = None
    frames: dict[Path, NDArray[np.generic]] = {}
    for index, each in enumerate(slices):
        with reading(each.file, ACCEPTED):
            if each.file not in frames:
                frames = {each.file: _frames(pydicom, each.file)}
            plane = frames[each.file][each.frame]
            if plane.shape != shape:
                raise CaseError(f"{each.file}: the pixels have shape {plane.shape}; expected {shape}, as in the header")
            if each.header.get("ModalityLUTSequence"):
                plane = pydicom.pixels.apply_modality_lut(plane, each.header)
            elif not is_uint8:
                slope, intercept = each.get("RescaleSlope"), each.get("RescaleIntercept")
                plane = plane * np.float64(1 if slope is None else slope) + np.float64(intercept or 0)
            if values is None:  # allocated after a file was decoded, because the sizes in a damaged file may be huge
                values = np.empty((len(slices), *shape), np.uint8 if is_uint8 else np.float32)
            values[index] = plane
    assert values is not None
    return values


def _is_uint8(one: _Slice) -> bool:
    """Whether the stored values of a slice are the values, and are uint8."""
    header = one.header
    stored = header.get("BitsAllocated"), header.get("PixelRepresentation"), header.get("ModalityLUTSequence")
    rescale = one.get("RescaleSlope"), one.get("RescaleIntercept")
    return stored == (8, 0, None) and rescale in ((None, None), (1, 0))


def _frames(pydicom: ModuleType, file: Path) -> NDArray[np.generic]:
    """The stored values of a file, of shape (frames, Rows, Columns)."""
    dataset = pydicom.dcmread(file)
    syntax = dataset.file_meta.get("TransferSyntaxUID")
    try:
        array = dataset.pixel_array
    except Exception as error:  # decoders raise errors of many types
        if not syntax or not syntax.is_compressed:
            raise
        reason = f"cannot decode the pixels, compressed as {syntax.name}: {shortened(str(error))}"
        raise CaseError(f"{file}: {reason}; more decoders: {_DECODERS}") from None
    return array.reshape(-1, *array.shape[-2:])
