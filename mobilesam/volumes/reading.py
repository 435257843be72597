"""Opening a case of any kind."""

from __future__ import annotations

import re
from pathlib import Path

from . import dicom, nifti, npz
from .case import Case, CaseError
from .window import AnyWindow, FileWindow

ACCEPTED = ".npz, .nii, .nii.gz, a DICOM file, or a folder with the files of a DICOM series"
_READERS = {".npz": npz.read, ".nii": nifti.read, ".nii.gz": nifti.read}
_EXTENSION = re.compile(r"\.(npz|nii|nii\.gz|dcm|dicom|ima)$", re.IGNORECASE)


def open_case(path: Path, window: AnyWindow | None = None) -> Case:
    """Read a case: an .npz file of the CVPR 2024 challenge, a NIfTI or DICOM file, or a folder with a DICOM series.

    Args:
        path: The file or folder.
        window: The intensities that become 0 and 255. None for the default: uint8 values stay as they are, other values
            of NIfTI and DICOM files get `Percentiles()`, and other values of .npz files raise CaseError.

    Raises:
        CaseError: The file or folder is damaged, or is not a case.
        ModuleNotFoundError: The format needs a package that is not installed.
        OSError: The file cannot be read.
    """
    name = case_name(path)
    if path.is_dir():
        return dicom.read(path, name, window)
    with path.open("rb") as file:  # a missing file raises the error of the operating system
        is_dicom = file.read(dicom.START)[-4:] == b"DICM"
    match = _EXTENSION.search(path.name)
    read = _READERS.get(match[0].lower()) if match else None
    if read is None and not is_dicom:
        raise CaseError(f"{path}: not a medical volume or picture; accepted are {ACCEPTED}")
    if read is None:
        return dicom.read(path, name, window)
    if isinstance(window, FileWindow):
        raise CaseError(f"{path}: has no window of its own, as DICOM files have; give LEVEL,WIDTH or percentiles")
    return read(path, name, window)


def case_name(path: Path) -> str:
    """The name of a case: the name of its file or folder, without extension."""
    if path.is_dir():
        return path.resolve().name or "case"
    return _EXTENSION.sub("", path.name)


def output_suffix(path: Path) -> str:
    """The extension of a case's output file, known before the case is read. See `Case.suffix`."""
    return ".npz" if path.name.lower().endswith(".npz") and not path.is_dir() else ".nii.gz"
