"""What a product in a precision reads in place of its factors, in NumPy: a part of `reference`."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


class Packed(NamedTuple):
    """A weight and the precision that products with it have: "fp32", "bf16" or "int8"."""

    weight: ArrayLike
    precision: str


Weight = ArrayLike | Packed


def narrow(x: ArrayLike, precision: str) -> Array:
    """What a product in a precision reads in place of x (..., K), which narrower ones take as float32.

    "fp32": y = x.
    "bf16": y = x to 8 significant bits, to nearest, ties to even; 0 where |x| < 2⁻¹²⁶, the least normal number.
    "int8": y[..., k] = q[..., k]·(t/127),  q = round(x[..., k]·(127/t)),  t = max_k |x[..., k]|, to nearest, ties to
        even; both quotients and the product in q are float32. A row with t < 2⁻¹²¹, where 127/t overflows, gives
        zeros, a row with NaN or ∞ NaN.
    NaN and ∞ stay what they are in bf16; numbers that round beyond the largest, 2¹²⁸ − 2¹²⁰, become ∞.
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
    array, precision = weight if isinstance(weight, Packed) else (weight, "fp32")
    return np.asarray(array), precision
