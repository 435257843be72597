"""Random changes to the arguments of a call."""

import dataclasses
from collections.abc import Callable, Mapping
from random import Random
from typing import Any

import numpy as np

from .mutation import INTEGERS

DTYPES = ("f8", "f2", ">f4", "i4", "u1", "i8", "?", "c8", "O", "V4", "S4", "M8[s]")
OTHERS = (None, True, "text", "", b"", 1.5, float("nan"), float("inf"), -1, 0, 3, (), [], {}, object(), np.float32(2))
NUMBERS = (float("nan"), float("inf"), -float("inf"), 0.0, -1.0, 1e-45, 3e38, 1e-12)
TEXTS = ("", "fp32", "bf16", "int8", "gelu", "relu", "avx2", "avx512", "amx", "zen4", "neon", "x\0", "\udc80")


def changed(value: Any, rng: Random) -> Any:
    """A value like the given one, with one change, or a value of another type."""
    if rng.random() < 0.08:
        return rng.choice(OTHERS)
    if isinstance(value, np.ndarray):
        return rng.choice(ARRAYS)(value, rng)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        name = rng.choice([field.name for field in dataclasses.fields(value)])
        return dataclasses.replace(value, **{name: changed(getattr(value, name), rng)})
    if isinstance(value, dict) and value:  # the arrays of a plan's run, by their Arrays
        key = rng.choice(list(value))
        return {**value, key: changed(value[key], rng)}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        name = rng.choice(value._fields)
        return value._replace(**{name: changed(getattr(value, name), rng)})
    if isinstance(value, (tuple, list)):
        return _sequence(value, rng)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.choice((value - 1, value + 1, 2 * value, -value, np.int64(value % (1 << 31)), *INTEGERS, 1 << 64))
    if isinstance(value, float):
        return rng.choice(NUMBERS)
    if isinstance(value, str):
        return rng.choice(TEXTS)
    return rng.choice((*OTHERS, *TEXTS, *INTEGERS))


def _sequence(value: Any, rng: Random) -> Any:
    items = list(value)
    kind = rng.randrange(6)
    if kind == 0 or not items:
        items.insert(rng.randrange(len(items) + 1), rng.choice(INTEGERS))
    elif kind == 1:
        del items[rng.randrange(len(items))]
    elif kind == 2:
        items.reverse()
    else:
        place = rng.randrange(len(items))
        items[place] = changed(items[place], rng)
    return tuple(items) if rng.random() < 0.8 else items


def _longer(x: np.ndarray, rng: Random) -> np.ndarray:
    """One element more, or one fewer, along an axis, or none at all."""
    if not x.ndim:
        return x
    axis = rng.randrange(x.ndim)
    length = rng.choice((x.shape[axis] - 1, x.shape[axis] + 1, 0, 1, 2 * x.shape[axis]))
    return np.resize(x, (*x.shape[:axis], max(0, length), *x.shape[axis + 1 :]))


def _other_axes(x: np.ndarray, rng: Random) -> np.ndarray:
    return rng.choice((x[None], x[..., None], x.ravel(), x.T, np.float32(1), x[:0], x.reshape(-1, 1), x[None, None]))


def _strided(x: np.ndarray, rng: Random) -> np.ndarray:
    """The same values with other strides or another alignment."""
    match rng.randrange(6):
        case 0:
            return np.repeat(x, 2, axis=-1)[..., ::2]
        case 1:
            return x[..., ::-1]
        case 2:
            return np.asfortranarray(x)
        case 3:
            return np.broadcast_to(x[..., :1], x.shape) if x.ndim else x
        case 4:
            memory = np.empty(x.nbytes + 1, np.uint8)[1:]
            memory[:] = np.ascontiguousarray(x).view(np.uint8).ravel()
            return memory.view(x.dtype).reshape(x.shape)
    return np.lib.stride_tricks.as_strided(x, x.shape, (0,) * x.ndim)


def _locked(x: np.ndarray, _: Random) -> np.ndarray:
    locked = x.copy()
    locked.flags.writeable = False
    return locked


def _other_dtype(x: np.ndarray, rng: Random) -> np.ndarray:
    dtype = rng.choice(DTYPES)
    if rng.random() < 0.5:
        return np.zeros(x.shape, dtype)
    with np.errstate(all="ignore"):
        return x.astype(dtype if dtype != "V4" else "f8")


def _special(x: np.ndarray, rng: Random) -> np.ndarray:
    """Values that are not finite, or very large or small, at one place or everywhere."""
    filled = x.copy()
    if x.dtype.kind in "iu":
        value: Any = rng.choice((0, np.iinfo(x.dtype).min, np.iinfo(x.dtype).max, 1, 5))
    else:
        value = rng.choice(NUMBERS) if x.dtype.kind == "f" else 1
    if x.size and rng.random() < 0.5:
        filled.flat[rng.randrange(x.size)] = value
    else:
        filled[...] = value
    return filled


def _other_type(x: np.ndarray, rng: Random) -> Any:
    return rng.choice(
        (x.tolist, lambda: memoryview(x), lambda: np.ma.masked_array(x), lambda: x.view(Subclass), lambda: list(x))
    )()


class Subclass(np.ndarray):
    """An array of another class."""


ARRAYS: tuple[Callable[[np.ndarray, Random], Any], ...] = (
    _longer, _longer, _other_axes, _strided, _strided, _locked, _other_dtype, _special, _special, _other_type,
)  # fmt: skip


def describe(value: Any) -> str:
    """A short text for a value, with dtype, shape and strides of an array."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{value.shape}{value.strides}"
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        fields = ", ".join(f"{name}={describe(getattr(value, name))}" for name in value._fields)
        return f"{type(value).__name__}({fields})"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = ", ".join(
            f"{field.name}={describe(getattr(value, field.name))}" for field in dataclasses.fields(value)
        )
        return f"{type(value).__name__}({fields})"
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(describe, value[:20]))}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name}: {describe(item)}" for name, item in value.items()) + "}"
    return f"{value!r:.80}"
