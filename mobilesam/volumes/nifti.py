"""NIfTI files: reading volumes, and encoding labels with the geometry of their volume. Needs `nibabel`."""

from __future__ import annotations

import gzip
import math
from pathlib import Path
from typing import Any

import numpy as np

from .case import Case, CaseError, Labels, needed, reading
from .window import Percentiles, Window, to_uint8

ACCEPTED = "a NIfTI file (.nii, .nii.gz) with one volume of numbers"
SUFFIX = ".nii.gz"
_LEVEL = 6  # of gzip
_MOST_RATIO = 1032  # of DEFLATE, the compression of gzip


def read(path: Path, name: str, window: Window | Percentiles | None) -> Case:
    """Read a NIfTI file with one volume.

    The voxel axes i, j, k of the file are x, y, z. The image has the axes z, y, x, so it is the file's array
    transposed. The values include the file's slope and intercept. Labels are written with the file's header: shape,
    affine, sform and qform codes, voxel sizes and units.

    Args:
        path: The .nii or .nii.gz file.
        name: The case's name.
        window: The window for the values. None for the default, see `window.to_uint8`.

    Raises:
        CaseError: The file is damaged, or does not hold one volume of numbers.
        ModuleNotFoundError: `nibabel` is not installed.
        OSError: The file cannot be read.
    """
    nibabel = needed("nibabel", "reading NIfTI files")
    with reading(path, ACCEPTED):
        image = nibabel.load(path, mmap=False)  # reading a map of a file that is truncated kills the process
        if not isinstance(image, nibabel.Nifti1Image):  # the base class of Nifti2Image
            raise CaseError(f"{path}: holds {type(image).__name__}; expected {ACCEPTED}")
        shape = image.shape
        if len(shape) < 3 or min(shape) < 1:
            raise CaseError(f"{path}: has shape {shape}; expected three axes, not empty")
        if (volumes := math.prod(shape[3:])) != 1:
            raise CaseError(f"{path}: holds {volumes} volumes, of shape {shape}; expected one volume")
        proxy = image.dataobj
        if proxy.dtype.kind not in "iuf":
            datatype = image.header.get_value_label("datatype")
            raise CaseError(f"{path}: holds colours or complex numbers, datatype {datatype}; expected real numbers")
        size, most = math.prod(map(int, shape)) * proxy.dtype.itemsize, path.stat().st_size
        if size > most * (_MOST_RATIO if path.suffix.lower() == ".gz" else 1):  # nibabel would fill the memory first
            raise CaseError(f"{path}: cut off, or damaged: {most} bytes for a volume of {size} bytes")
        scaled = (proxy.slope, proxy.inter) != (1, 0)
        values = np.asarray(proxy, np.float32) if scaled else proxy.get_unscaled()
    kind, header = type(image), image.header.copy()  # the image itself holds the values

    def encode(labels: Labels) -> bytes:
        return encoded(kind, labels.T.reshape(shape), header)

    levels = np.ascontiguousarray(to_uint8(values.reshape(shape[:3]).T, window, path))
    return Case(name, levels, levels.shape, None, SUFFIX, encode)


def encoded(kind: Any, array: Labels, header: Any) -> bytes:
    """Encode labels as a gzipped NIfTI file.

    Args:
        kind: The class of the file, nibabel.Nifti1Image or nibabel.Nifti2Image.
        array: The labels, with the axes i, j, k.
        header: The header of the source. Its slope, display range and extensions are left out.
    """
    header = header.copy()
    header.set_data_dtype(array.dtype)
    header.set_slope_inter(1, 0)
    header["cal_min"] = header["cal_max"] = 0
    header.extensions.clear()
    return gzip.compress(kind(array, None, header).to_bytes(), _LEVEL, mtime=0)
