"""The range of an image's values that becomes the levels 0 to 255, and the bands that become red, green and blue.

This module does not import NumPy, because commands check their options before NumPy is loaded.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Literal, TypeAlias, cast

ValueRange: TypeAlias = Literal["dtype", "minmax", "minmax-channel"] | tuple[float, float]
Bands: TypeAlias = tuple[int, int, int]

NAMES = ("dtype", "minmax", "minmax-channel")
USED_SHARE = 8  # 16-bit values that use less than 1/8 of the range are usually 12-bit data
FEW_LEVELS = (
    "{}: 16-bit values use less than 1/8 of their range, so the image is almost uniform for the model: pass "
    "value_range='minmax', or (low, high), to use the whole range (on the command line, --value-range minmax)"
)
FORM = "'dtype', 'minmax', 'minmax-channel' or (low, high)"


def checked_range(value_range: object) -> ValueRange:
    """Check a value range.

    - "dtype": 0 to 255 for uint8, 0 to 65535 for uint16, 0 to 1 for float.
    - "minmax": from the smallest to the largest value of the image.
    - "minmax-channel": from the smallest to the largest value of each channel.
    - (low, high): from low to high. Values outside are clipped.

    Raises:
        ValueError: `value_range` is none of these, or `low` is not below `high`.
    """
    if isinstance(value_range, str):
        if value_range not in NAMES:
            raise ValueError(f"value_range must be {FORM}, got {value_range!r}")
        return cast(Literal["dtype", "minmax", "minmax-channel"], value_range)
    try:
        low, high = map(float, cast(Sequence[float], value_range))
    except (OverflowError, TypeError, ValueError):
        raise ValueError(f"value_range must be {FORM}, got {value_range!r}") from None
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"value_range must be finite with low < high, got ({low:g}, {high:g})")
    return low, high


def checked_bands(bands: object) -> Bands | None:
    """Check the numbers of the bands for red, green and blue, counted from 0. Raises ValueError if they are invalid."""
    if bands is None:
        return None
    try:
        numbers = tuple(operator.index(band) for band in cast(Sequence[int], bands))
    except TypeError:
        numbers = ()
    if isinstance(bands, str) or len(numbers) != 3 or min(numbers) < 0:
        raise ValueError(f"bands must be three band numbers from 0, such as (2, 1, 0), got {bands!r}")
    red, green, blue = numbers
    return red, green, blue


def parse_range(text: str) -> ValueRange:
    """Parse a value range that was written as text: "minmax", "minmax-channel", "dtype" or "LOW,HIGH"."""
    return checked_range(text if text in NAMES else text.split(","))


def parse_bands(text: str) -> Bands | None:
    """Parse band numbers that were written as text, such as "2,1,0"."""
    try:
        numbers: object = [int(number) for number in text.split(",")]
    except ValueError:
        numbers = text
    return checked_bands(numbers)
