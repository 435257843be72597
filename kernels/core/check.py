"""What the kernels accept, and the errors that say so; they name the argument, what it is and what it should be."""

from __future__ import annotations

import math
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from mobilesam.kernels.core import memory

F32: TypeAlias = NDArray[np.float32]
Activation: TypeAlias = Literal["gelu", "relu"] | None
Pair: TypeAlias = int | tuple[int, int]
Dim = int | str | None  # a fixed length, a name for a free one, or (last) None for any number of leading axes

_FLOAT32 = np.dtype(np.float32)
ACTIVATIONS = {None: 0, "gelu": 1, "relu": 2}


def activation(name: str | None, role: str = "activation") -> int:
    """The micro-kernels' number of an activation."""
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
    for s, w in zip(shape, wanted):  # noqa: SIM110 (a hundred calls a prompt: all() costs twice the time)
        if s != w and isinstance(w, int):
            return False
    return True


def _text(wanted: tuple[Dim, ...]) -> str:
    return "(" + ", ".join("..." if w is None else str(w) for w in wanted) + ("," if len(wanted) == 1 else "") + ")"


def shape(value: tuple[int, ...], name: str, *shapes: tuple[Dim, ...]) -> None:
    """Raise ValueError unless the shape ``value`` is one of ``shapes``."""
    for wanted in shapes:
        if _fits(value, wanted):
            return
    raise ValueError(f"{name}: expected shape {' or '.join(map(_text, shapes))}, got {value}")


def array(value: object, name: str, *shapes: tuple[Dim, ...]) -> F32:
    """``value`` as a C-contiguous float32 array of one of ``shapes``; views are copied, other dtypes refused."""
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{name}: expected a float32 NumPy array, got {type(value).__name__}")
    if value.dtype is not _FLOAT32 and value.dtype != _FLOAT32:  # a comparison of dtypes takes its time
        raise TypeError(f"{name}: expected float32, got {value.dtype} (convert it with .astype(np.float32))")
    shape(value.shape, name, *shapes)
    if value.size == 0:
        raise ValueError(f"{name}: expected at least one element, got shape {value.shape}")
    if value.flags.c_contiguous:
        return value
    return np.ascontiguousarray(value)


def in_place(value: object, name: str, *shapes: tuple[Dim, ...]) -> F32:
    """As :func:`array`, for what a plan reads or writes after the call: an array that would be copied is refused."""
    checked = array(value, name, *shapes)
    if checked is not value:
        raise ValueError(f"{name}: expected a C-contiguous array, got a view")
    return checked


def optional(value: object, name: str, *shapes: tuple[Dim, ...]) -> F32 | None:
    """None, or :func:`array`."""
    return None if value is None else array(value, name, *shapes)


def instance(value: object, name: str, *kinds: type) -> None:
    """Raise TypeError unless it is of one of the kinds."""
    if not isinstance(value, kinds):
        expected = " or ".join(kind.__name__ for kind in kinds)
        raise TypeError(f"{name}: expected {expected}, got {type(value).__name__}")


def output(
    out: object, shape: tuple[int, ...], *inputs: object, dtype: type[np.generic] = np.float32
) -> NDArray[np.generic]:
    """``out`` if it can hold the result and shares no memory with an input, a new array where it is None."""
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
            raise ValueError("out: expected memory of its own, got an array that overlaps an input")
    return out


def real(value: object, name: str) -> float:
    """A finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.floating)) or not math.isfinite(value):
        raise ValueError(f"{name}: expected a finite number, got {value!r}")
    return float(value)


def whole(value: object, name: str, least: int) -> int:
    """An int of at least ``least``."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ValueError(f"{name}: expected a whole number of at least {least}, got {value!r}")
    return int(value)


def pair(value: object, name: str, least: int) -> tuple[int, int]:
    """An int or a pair of ints, each at least ``least``, as (vertical, horizontal)."""
    both = value if isinstance(value, (tuple, list)) else (value, value)
    if len(both) != 2 or any(isinstance(v, bool) or not isinstance(v, (int, np.integer)) or v < least for v in both):
        raise ValueError(f"{name}: expected a whole number of at least {least} or a pair of them, got {value!r}")
    return int(both[0]), int(both[1])


def conv_size(size: int, kernel: int, stride: int, pad: int, dilation: int, axis: str) -> int:
    """The output length of a convolution along one axis."""
    reach = (kernel - 1) * dilation + 1
    if size + 2 * pad < reach:
        raise ValueError(f"weight: a kernel reaching over {reach} does not fit the padded {axis} of {size + 2 * pad}")
    return (size + 2 * pad - reach) // stride + 1
