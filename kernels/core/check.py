"""Checks of kernel arguments. Every error names the argument, the accepted values and the given value."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mobilesam.kernels.core import memory

F32: TypeAlias = NDArray[np.float32]
Activation: TypeAlias = Literal["gelu", "relu"] | None
Pair: TypeAlias = int | tuple[int, int]
Dim = int | str | None  # a required length, a name for any length, or a leading None for any number of axes

_FLOAT32 = np.dtype(np.float32)
ACTIVATIONS = {None: 0, "gelu": 1, "relu": 2}


def activation(name: str | None, role: str = "activation") -> int:
    """Return the number that the micro-kernels (micro.h) use for activation ``name``.

    Raises:
        ValueError: There is no activation called ``name``. The message begins with the value of ``role``.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"{role}: expected None, 'gelu' or 'relu', got {name!r}")
    return ACTIVATIONS[name]


def _fits(shape: tuple[int, ...], wanted: tuple[Dim, ...]) -> bool:
    if shape == wanted:
        return True
    if wanted and wanted[0] is None:
        wanted = wanted[1:]
        shape = shape[max(0, len(shape) - len(wanted)) :]
    if len(shape) != len(wanted):
        return False
    for s, w in zip(shape, wanted):  # noqa: SIM110 (all() takes twice the time, and a prompt makes a hundred calls)
        if s != w and isinstance(w, int):
            return False
    return True


def _text(wanted: tuple[Dim, ...]) -> str:
    return "(" + ", ".join("..." if w is None else str(w) for w in wanted) + ("," if len(wanted) == 1 else "") + ")"


def shape(value: tuple[int, ...], name: str, *shapes: tuple[Dim, ...]) -> None:
    """Raise ValueError unless the shape ``value`` matches one of ``shapes``."""
    for wanted in shapes:
        if _fits(value, wanted):
            return
    raise ValueError(f"{name}: expected shape {' or '.join(map(_text, shapes))}, got {value}")


def array(value: object, name: str, *shapes: tuple[Dim, ...]) -> F32:
    """Check that ``value`` is a float32 array of one of ``shapes``.

    Returns:
        ``value`` itself if it is C-contiguous, else a C-contiguous copy.

    Raises:
        TypeError: ``value`` is no NumPy array or not float32.
        ValueError: The shape matches none of ``shapes``, or the array is empty.
    """
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{name}: expected a float32 NumPy array, got {type(value).__name__}")
    if value.dtype is not _FLOAT32 and value.dtype != _FLOAT32:  # `is` comes first, because comparing dtypes is slow
        raise TypeError(f"{name}: expected float32, got {value.dtype} (convert it with .astype(np.float32))")
    shape(value.shape, name, *shapes)
    if value.size == 0:
        raise ValueError(f"{name}: expected at least one element, got shape {value.shape}")
    if value.flags.c_contiguous:
        return value
    return np.ascontiguousarray(value)


def in_place(value: object, name: str, *shapes: tuple[Dim, ...]) -> F32:
    """Check an array like ``array``, but raise ValueError for an array that would have to be copied.

    A plan reads or writes the caller's own array when it runs, after the call, so it cannot take a copy.
    """
    checked = array(value, name, *shapes)
    if checked is not value:
        raise ValueError(f"{name}: expected a C-contiguous array, got a view")
    return checked


def optional(value: object, name: str, *shapes: tuple[Dim, ...]) -> F32 | None:
    """Return None for None, and the result of ``array`` for anything else."""
    return None if value is None else array(value, name, *shapes)


def instance(value: object, name: str, *kinds: type) -> None:
    """Raise TypeError unless ``value`` is an instance of one of ``kinds``."""
    if not isinstance(value, kinds):
        expected = " or ".join(kind.__name__ for kind in kinds)
        raise TypeError(f"{name}: expected {expected}, got {type(value).__name__}")


def output(
    out: object, shape: tuple[int, ...], *inputs: object, dtype: type[np.generic] = np.float32
) -> NDArray[np.generic]:
    """Return the array that a kernel writes its result to.

    Args:
        out: The caller's array, or None.
        shape: The result's shape.
        inputs: The arrays that the kernel reads.
        dtype: The result's dtype.

    Returns:
        A new array if ``out`` is None, else ``out``.

    Raises:
        TypeError: ``out`` is no NumPy array of ``dtype``.
        ValueError: The shape of ``out`` is not ``shape``, or ``out`` is not C-contiguous, is not writeable or overlaps
            an input.
    """
    if out is None:
        return memory.empty(shape, dtype)
    if not isinstance(out, np.ndarray) or out.dtype != dtype:
        kind = out.dtype if isinstance(out, np.ndarray) else type(out).__name__
        raise TypeError(f"out: expected a {np.dtype(dtype)} NumPy array, got {kind}")
    if out.shape != shape:
        raise ValueError(f"out: expected shape {shape}, got {out.shape}")
    if not out.flags.c_contiguous or not out.flags.writeable:
        raise ValueError("out: expected a C-contiguous, writeable array")
    for value in inputs:
        if isinstance(value, np.ndarray) and np.may_share_memory(out, value):
            raise ValueError("out: expected an array that overlaps no input, got one that shares memory with an input")
    return out


def real(value: object, name: str) -> float:
    """Return ``value`` as a float. Raises ValueError unless ``value`` is a finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.floating)) or not math.isfinite(value):
        raise ValueError(f"{name}: expected a finite number, got {value!r}")
    return float(value)


def whole(value: object, name: str, least: int) -> int:
    """Return ``value`` as an int. Raises ValueError unless ``value`` is a whole number of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ValueError(f"{name}: expected a whole number of at least {least}, got {value!r}")
    return int(value)


def pair(value: object, name: str, least: int) -> tuple[int, int]:
    """Return an int or a pair of ints as (vertical, horizontal).

    Raises:
        ValueError: ``value`` is neither an int nor a pair of ints, or a number is below ``least``.
    """
    both = value if isinstance(value, (tuple, list)) else (value, value)
    if len(both) != 2 or any(isinstance(v, bool) or not isinstance(v, (int, np.integer)) or v < least for v in both):
        raise ValueError(f"{name}: expected a whole number of at least {least} or a pair of them, got {value!r}")
    return int(both[0]), int(both[1])


def conv_size(size: int, kernel: int, stride: int, pad: int, dilation: int, axis: str) -> int:
    """Return the length of a convolution's output along ``axis``.

    Raises:
        ValueError: The dilated kernel is longer than the padded input.
    """
    reach = (kernel - 1) * dilation + 1
    if size + 2 * pad < reach:
        raise ValueError(f"weight: expected a dilated {axis} of at most {size + 2 * pad}, got {reach}")
    return (size + 2 * pad - reach) // stride + 1
