"""Windows: the range of intensities that becomes the levels 0 to 255."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from .case import CaseError


@dataclass(frozen=True)
class Window:
    """A fixed range: level - width / 2 becomes 0 and level + width / 2 becomes 255.

    Attributes:
        level: The centre, in the file's units, such as Hounsfield units for CT.
        width: The width of the range, above 0.
    """

    level: float
    width: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.level) and math.isfinite(self.width) and self.width > 0):
            raise ValueError(f"a window must be finite with a width above 0, got {self.level:g},{self.width:g}")


@dataclass(frozen=True)
class Percentiles:
    """A range between two percentiles of a volume's finite values.

    If the smallest value is 0, only the values above 0 count, because 0 is then the background of an MR image. The
    preprocessing of the CVPR 2024 challenge does the same. If both percentiles are the same value, the smallest and the
    largest value of the volume take their place.

    Attributes:
        low: The percentile that becomes 0.
        high: The percentile that becomes 255.
    """

    low: float = 0.5
    high: float = 99.5

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 100:
            raise ValueError(f"percentiles must be within 0 to 100 with low < high, got {self.low:g},{self.high:g}")


@dataclass(frozen=True)
class FileWindow:
    """The window that a DICOM file gives in WindowCenter and WindowWidth."""


AnyWindow: TypeAlias = Window | Percentiles | FileWindow


def parse_window(text: str) -> Window | FileWindow:
    """Parse a window that was written as text: "LEVEL,WIDTH", or "file" for the window in the DICOM file.

    Raises:
        ValueError: The text is neither, or the window is invalid.
    """
    if text == "file":
        return FileWindow()
    try:
        level, width = map(float, text.split(","))
    except ValueError:
        raise ValueError(f"window must be LEVEL,WIDTH, such as 40,400, or 'file', got {text!r}") from None
    return Window(level, width)


def parse_percentiles(text: str) -> Percentiles:
    """Parse percentiles that were written as text: "LOW,HIGH", such as "0.5,99.5".

    Raises:
        ValueError: The text has another form, or the percentiles are invalid.
    """
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise ValueError(f"percentiles must be LOW,HIGH, such as 0.5,99.5, got {text!r}") from None
    return Percentiles(low, high)


def to_uint8(values: NDArray[np.generic], window: Window | Percentiles | None, path: Path) -> NDArray[np.uint8]:
    """Map intensities to 0 to 255. Values outside the window are clipped, and results are rounded to the nearest level.

    NaN becomes 0, like the lower end of the window. Infinities are clipped.

    Args:
        values: Integers or floats of any shape with at least one axis.
        window: The window. None for the default: uint8 values stay, other values get `Percentiles()`.
        path: The file, for the message.

    Raises:
        CaseError: None of the values is finite.
    """
    if window is None and values.dtype == np.uint8:
        return values.astype(np.uint8, copy=False)
    if isinstance(window, Window):
        low, high = window.level - window.width / 2, window.level + window.width / 2
    else:
        low, high = _percentiles(values, window or Percentiles(), path)
    levels = np.zeros(values.shape, np.uint8)
    if high > low:
        with np.errstate(over="ignore", invalid="ignore"):
            for target, part in zip(levels.reshape(len(levels), -1), values.reshape(len(values), -1)):
                scaled = np.clip((part.astype(np.float64) - low) / (high - low) * 255, 0, 255)
                target[:] = np.rint(np.where(np.isnan(scaled), 0, scaled))
    return levels


def _percentiles(values: NDArray[np.generic], window: Percentiles, path: Path) -> tuple[float, float]:
    """The values at the percentiles, or the smallest and the largest value."""
    finite = values[np.isfinite(values)]  # a copy, which np.percentile may reorder
    if not finite.size:
        raise CaseError(f"{path}: holds no finite values; at least one is needed for percentiles")
    least, most = float(finite.min()), float(finite.max())
    if least == 0 < most:
        finite = finite[finite > 0]
    low, high = map(float, np.percentile(finite, [window.low, window.high], overwrite_input=True))
    return (low, high) if low < high else (least, most)
