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

MOST = 2**31 - 1  # largest whole number of an argument, so that a product of two fits into 64 bits
MOST_BYTES = 2**47  # the address space of a process, the largest array that any computer could hold

_FLOAT32 = np.dtype(np.float32)
ACTIVATIONS = {None: 0, "gelu": 1, "relu": 2}


def activation(name: str | None, role: str = "activation") -> int:
    """Return the number that the micro-kernels (micro.h) use for activation ``name``.

    Raises:
        ValueError: There is no activation called ``name``. The message begins with the value of ``role``.
    """
    if not (name is None or isinstance(name, str)) or name not in ACTIVATIONS:
        raise ValueError(f"{role}: expected None, 'gelu' or 'relu', got {shortened(name)}")
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
        ``value`` itself if it is C-contiguous and aligned, else a C-contiguous copy. For an array of a subclass, such
        as np.memmap, a plain array that shares its memory takes the place of ``value``.

    Raises:
        TypeError: ``value`` is no NumPy array or not float32.
        ValueError: The shape matches none of ``shapes``, or the array is empty.
    """
    if type(value) is not np.ndarray:
        if not isinstance(value, np.ndarray):
            raise TypeError(f"{name}: expected a float32 NumPy array, got {type(value).__name__}")
        value = np.asarray(value)
    if value.dtype is not _FLOAT32 and value.dtype != _FLOAT32:  # `is` comes first, because comparing dtypes is slow
        raise TypeError(f"{name}: expected float32, got {value.dtype} (convert it with .astype(np.float32))")
    shape(value.shape, name, *shapes)
    if value.size == 0:
        raise ValueError(f"{name}: expected at least one element, got shape {value.shape}")
    flags = value.flags
    return value if flags.c_contiguous and flags.aligned else np.array(value, order="C")


def in_place(value: object, name: str, *shapes: tuple[Dim, ...]) -> F32:
    """Check an array like ``array``, but raise ValueError for an array that would have to be copied.

    A plan reads or writes the caller's own array when it runs, after the call, so it cannot take a copy.
    """
    checked = array(value, name, *shapes)
    if checked is not value and not np.may_share_memory(checked, value):
        raise ValueError(f"{name}: expected a C-contiguous and aligned array, got a view")
    return checked


def optional(value: object, name: str, *shapes: tuple[Dim, ...]) -> F32 | None:
    """Return None for None, and the result of ``array`` for anything else."""
    return None if value is None else array(value, name, *shapes)


def instance(value: object, name: str, *kinds: type) -> None:
    """Raise TypeError unless ``value`` is an instance of one of ``kinds``."""
    if not isinstance(value, kinds):
        expected = " or ".join(kind.__name__ for kind in kinds)
        raise TypeError(f"{name}: expected {expected}, got {type(value).__name__}")


def flag(value: object, name: str) -> bool:
    """Return ``value`` as a bool. Raises TypeError unless ``value`` is True or False."""
    instance(value, name, bool, np.bool_)
    return bool(value)


def record(value: object, name: str, kind: type) -> None:
    """Raise TypeError unless ``value`` is a ``kind``.

    A subclass is refused, because its attributes could change after a check.
    """
    if type(value) is not kind:
        raise TypeError(f"{name}: expected {kind.__name__}, got {type(value).__name__}")


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
        A new array if ``out`` is None, else ``out``. For an array of a subclass, a plain array that shares its memory.

    Raises:
        MemoryError: There is no memory for a new array.
        TypeError: ``out`` is no NumPy array of ``dtype``.
        ValueError: The shape of ``out`` is not ``shape``, or ``out`` is not C-contiguous, writeable and aligned, or it
            overlaps an input.
    """
    if out is None:
        return new(shape, "out", dtype)
    if not isinstance(out, np.ndarray) or out.dtype != dtype:
        kind = out.dtype if isinstance(out, np.ndarray) else type(out).__name__
        raise TypeError(f"out: expected a {np.dtype(dtype)} NumPy array, got {kind}")
    out = np.asarray(out)
    if out.shape != shape:
        raise ValueError(f"out: expected shape {shape}, got {out.shape}")
    if not (out.flags.c_contiguous and out.flags.aligned and out.flags.writeable):
        raise ValueError("out: expected a C-contiguous, aligned, writeable array")
    for value in inputs:
        if isinstance(value, np.ndarray) and np.may_share_memory(out, value):
            raise ValueError("out: expected an array that overlaps no input, got one that shares memory with an input")
    return out


def new(shape: tuple[int, ...], name: str, dtype: type[np.generic] = np.float32) -> NDArray[np.generic]:
    """Return an uninitialized array. Raises MemoryError, which names the argument ``name``, if there is no memory."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    try:
        if size <= MOST_BYTES:
            return memory.empty(shape, dtype)
    except MemoryError:
        pass
    raise MemoryError(f"{name}: no memory for an array {shape} of {size} bytes")


def real(value: object, name: str) -> float:
    """Return ``value`` as a float. Raises ValueError unless ``value`` is a finite number."""
    try:
        if isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool):
            number = float(value)
            if math.isfinite(number):
                return number
    except OverflowError:  # a whole number beyond the largest float
        pass
    raise ValueError(f"{name}: expected a finite number, got {shortened(value)}")


def whole(value: object, name: str, least: int, most: int = MOST) -> int:
    """Return ``value`` as an int. Raises ValueError unless ``value`` is a whole number from ``least`` to ``most``."""
    if not _is_whole(value) or not least <= value <= most:  # type: ignore[operator]
        raise ValueError(f"{name}: expected a whole number {_span(value, least, most)}, got {shortened(value)}")
    return int(value)  # type: ignore[call-overload]


def pair(value: object, name: str, least: int, most: int = MOST) -> tuple[int, int]:
    """Return an int or a pair of ints as (vertical, horizontal).

    Raises:
        ValueError: ``value`` is neither an int nor a pair of ints, or a number is not from ``least`` to ``most``.
    """
    both = value if isinstance(value, (tuple, list)) else (value, value)
    if len(both) != 2 or not all(_is_whole(v) and least <= v <= most for v in both):
        wrong = next((v for v in both if _is_whole(v) and v > most), None)
        expected = f"a whole number {_span(wrong, least, most)} or a pair of them"
        raise ValueError(f"{name}: expected {expected}, got {shortened(value)}")
    return int(both[0]), int(both[1])


def whole_shape(value: object, name: str, *axes: int) -> None:
    """Raise ValueError unless ``value`` is a tuple of whole numbers of at least 1, with one of the numbers of axes."""
    if type(value) is not tuple or len(value) not in axes or not all(type(n) is int and n >= 1 for n in value):
        counts = " or ".join(map(str, axes))
        raise ValueError(f"{name}: expected a tuple of {counts} whole numbers of at least 1, got {shortened(value)}")


def _is_whole(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _span(value: object, least: int, most: int) -> str:
    """Return the limit that a refused ``value`` breaks, in words."""
    return f"of at most {most}" if _is_whole(value) and value > most else f"of at least {least}"  # type: ignore[operator]


def shortened(value: object) -> str:
    """Return the repr of a refused value on one line, of at most 100 characters."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # for example, Python writes no whole number of more than 4300 digits
        text = f"a {type(value).__name__}"
    return text if len(text) <= 100 else f"{text[:97]}..."


def conv_size(size: int, kernel: int, stride: int, pad: int, dilation: int, axis: str) -> int:
    """Return the length of a convolution's output along ``axis``.

    Raises:
        ValueError: The dilated kernel is longer than the padded input.
    """
    reach = (kernel - 1) * dilation + 1
    if size + 2 * pad < reach:
        raise ValueError(f"weight: expected a dilated {axis} of at most {size + 2 * pad}, got {reach}")
    return (size + 2 * pad - reach) // stride + 1
