"""The rounding that a product's two factors undergo in each precision, in NumPy. A part of `reference`."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


class Packed(NamedTuple):
    """A weight, and the precision in which it is multiplied.

    Attributes:
        weight: The weight, before it is rounded to the precision.
        precision: "fp32", "bf16" or "int8".
    """

    weight: ArrayLike
    precision: str


Weight = ArrayLike | Packed


def narrow(x: ArrayLike, precision: str) -> Array:
    """Round a factor of a product to a precision.

    All rounding is to nearest, ties to even. For "bf16" and "int8", x is first converted to float32.

    "fp32": y = x.
    "bf16": y = x rounded to 8 significant bits. If |x| < 2⁻¹²⁶, the smallest normal number, y = 0. NaN and ∞ stay
        unchanged. A number that would round beyond the largest finite number, 2¹²⁸ − 2¹²⁰, becomes ∞.
    "int8": y[..., k] = q[..., k]·(t/127),  q[..., k] = round(x[..., k]·(127/t)),  t = max_k |x[..., k]|. Both
        quotients, and the product that is rounded, are float32. A row with t < 2⁻¹²¹, for which 127/t would overflow,
        gives zeros. A row that contains NaN or ∞ gives NaN.

    Args:
        x: (..., K).
        precision: "fp32", "bf16" or "int8".

    Returns:
        (..., K), the rounded numbers as float64.
    """
    if precision == "fp32":
        return f64(x)
    x = np.asarray(x, np.float32)
    if precision == "bf16":
        bits = x.view(np.uint32).astype(np.uint64)
        rounded = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000
        normal = np.where(abs(x) < 2.0**-126, 0, rounded.astype(np.uint32).view(np.float32))
        return f64(np.where(np.isnan(x), x, normal))
    if precision != "int8":
        raise ValueError(f"precision must be 'fp32', 'bf16' or 'int8', not {precision!r}")
    top = abs(x).max(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore"):
        q = np.rint(x * (np.float32(127) / np.where(top < 2.0**-121, np.float32(np.inf), top)))
        y = f64(q) * f64(top / np.float32(127))
    return np.where(np.isfinite(top), y, np.nan)


def f64(x: ArrayLike) -> Array:
    return np.asarray(x, np.float64)


def unpacked(weight: Weight) -> tuple[NDArray[np.floating[Any]], str]:
    """Return a weight's array and its precision."""
    array, precision = weight if isinstance(weight, Packed) else (weight, "fp32")
    return np.asarray(array), precision
