"""Cases of the CVPR 2024 challenge "Segment Anything in Medical Images on Laptop", which are .npz files."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..util.messages import plain
from .case import Case, CaseError, Labels, reading
from .window import Percentiles, Window, to_uint8

ARRAYS = "an .npz file with the array imgs, and optionally boxes and spacing"


def read(path: Path, name: str, window: Window | Percentiles | None) -> Case:
    """Read a case of the challenge.

    The image `imgs` is a volume (D, H, W) or a picture (H, W) or (H, W, 3). If its last axis is 3, `boxes` decides:
    (N, 6) means a volume. (N, 4), or no boxes, means a picture.

    Args:
        path: The .npz file.
        name: The case's name.
        window: The window for the values. Only uint8 images need none.

    Raises:
        CaseError: The file is damaged, or its arrays are not those of a case.
        OSError: The file cannot be read.
    """
    with reading(path, ARRAYS):
        if not zipfile.is_zipfile(path):
            raise CaseError(f"{path}: not a zip archive, or its end is missing; expected {ARRAYS}")
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            if "imgs" not in file:
                others = plain(", ".join(file)) or "nothing"
                raise CaseError(f"{path}: has no array imgs, but {others}; expected {ARRAYS}")
            arrays = {key: np.asarray(file[key]) for key in ("imgs", "boxes", "spacing") if key in file}
    values, boxes = arrays["imgs"], _boxes(path, arrays.get("boxes"))
    if values.dtype.kind not in "iuf":
        raise CaseError(f"{path}: imgs has dtype {values.dtype}; expected uint8, or other integers or floats")
    if values.dtype != np.uint8 and window is None:
        raise CaseError(f"{path}: imgs has dtype {values.dtype}; expected uint8, or a window or percentiles")
    if values.ndim not in (2, 3) or values.size == 0:
        raise CaseError(f"{path}: imgs has shape {values.shape}; expected (D, H, W), (H, W) or (H, W, 3), not empty")
    numbers = 0 if boxes is None else boxes.shape[1]
    is_picture = values.ndim == 2 or (values.shape[2] == 3 and numbers != 6)
    if numbers and numbers != (4 if is_picture else 6):
        expected = "(N, 4), because imgs is a picture" if is_picture else "(N, 6), because imgs is a volume"
        raise CaseError(f"{path}: boxes has shape {arrays['boxes'].shape}; expected {expected}")
    spacing = arrays.get("spacing")

    def encode(labels: Labels) -> bytes:
        file = io.BytesIO()
        if spacing is None:
            np.savez_compressed(file, segs=labels)
        else:
            np.savez_compressed(file, segs=labels, spacing=spacing)
        return file.getvalue()

    shape = values.shape[:2] if is_picture else values.shape
    return Case(name, to_uint8(values, window, path), shape, boxes, ".npz", encode)


def _boxes(path: Path, boxes: NDArray[np.generic] | None) -> NDArray[np.int64] | None:
    """Check the form of the file's boxes. Fractions are widened to whole numbers."""
    if boxes is None:
        return None
    if boxes.ndim != 2 or boxes.shape[1] not in (4, 6):
        raise CaseError(f"{path}: boxes has shape {boxes.shape}; expected (N, 4) or (N, 6)")
    if boxes.dtype.kind not in "iuf" or not (np.abs(boxes.astype(np.float64)) < 1 << 53).all():
        raise CaseError(f"{path}: boxes has dtype {boxes.dtype}; expected finite integers or floats")
    half = boxes.shape[1] // 2
    return np.hstack([np.floor(boxes[:, :half]), np.ceil(boxes[:, half:])]).astype(np.int64)
