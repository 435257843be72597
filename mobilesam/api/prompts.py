"""Checks of the public interface's prompts. An invalid prompt is refused before an image is encoded."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..architecture import LOW_RES
from ..images.geometry import Size

PROMPT_NAMES = ("points", "labels", "box", "mask_input")


@dataclass(frozen=True, eq=False)
class Prompt:
    """A checked prompt. Coordinates are pixels of the image.

    Attributes:
        points: (P, 2) float64, one (x, y) per row. P may be 0.
        labels: (P,) int32, 1 for a point on the object, 0 for a point not on it.
        box: (4,) float64, (x0, y0, x1, y1), or None.
        mask_input: (256, 256) float32 mask logits, or None.
    """

    points: NDArray[np.float64]
    labels: NDArray[np.int32]
    box: NDArray[np.float64] | None
    mask_input: NDArray[np.float32] | None


def check_prompt(
    size: Size,
    points: ArrayLike | None,
    labels: ArrayLike | None,
    box: ArrayLike | None,
    mask_input: ArrayLike | None,
) -> Prompt:
    """Check the arguments of `Embedding.segment` for an image of `size` (h, w).

    Raises:
        TypeError: An argument does not hold numbers of the expected type.
        ValueError: The prompt is empty, or an argument has an invalid shape or value.
    """
    if points is None and labels is not None:
        raise ValueError("labels without points: give the points too, or leave the labels out")
    if points is None and box is None and mask_input is None:
        raise ValueError("no prompt: give points, a box or a mask_input")
    checked_points = np.empty((0, 2)) if points is None else _checked_points(points, size)
    return Prompt(
        checked_points,
        _checked_labels(labels, len(checked_points)),
        None if box is None else _checked_box(box, size),
        None if mask_input is None else _checked_mask_input(mask_input),
    )


def check_mapping(index: int, prompt: Mapping[str, ArrayLike | None], size: Size) -> Prompt:
    """Check one of many prompts. Error messages begin with the prompt's `index`."""
    if not isinstance(prompt, Mapping):
        raise TypeError(
            f"prompt {index}: expected a mapping such as {{'points': [(x, y)]}}, got {type(prompt).__name__}"
        )
    unknown = [name for name in prompt if name not in PROMPT_NAMES]
    if unknown:
        raise ValueError(f"prompt {index}: unknown name {unknown[0]!r}, accepted are {', '.join(PROMPT_NAMES)}")
    try:
        return check_prompt(size, *(prompt.get(name) for name in PROMPT_NAMES))
    except (TypeError, ValueError) as error:
        raise type(error)(f"prompt {index}: {error}") from None


def _checked_points(points: ArrayLike, size: Size) -> NDArray[np.float64]:
    xy = _numbers(points, "points")
    if xy.ndim != 2 or xy.shape[1] != 2 or len(xy) == 0:
        raise ValueError(f"points must be (P, 2), one (x, y) per row, got shape {xy.shape}")
    _check_inside(xy, size, "point")
    return xy


def _checked_labels(labels: ArrayLike | None, count: int) -> NDArray[np.int32]:
    if labels is None:
        return np.array([1] * count, np.int32)
    values = _numbers(labels, "labels")
    if values.shape != (count,):
        raise ValueError(f"labels must be ({count},), one for each point, got shape {values.shape}")
    wrong = values[(values != 0) & (values != 1)]
    if wrong.size:
        raise ValueError(f"a label is 1 (on the object) or 0 (not on it), got {wrong[0]:g}")
    return values.astype(np.int32)


def _checked_box(box: ArrayLike, size: Size) -> NDArray[np.float64]:
    values = _numbers(box, "box")
    if values.shape != (4,):
        raise ValueError(f"box must be (x0, y0, x1, y1), got shape {values.shape}")
    corners = values.reshape(2, 2)
    _check_inside(corners, size, "box corner")
    if (corners[0] > corners[1]).any():
        raise ValueError(f"box must have x0 <= x1 and y0 <= y1, got ({', '.join(f'{v:g}' for v in values)})")
    return values


def _checked_mask_input(mask_input: ArrayLike) -> NDArray[np.float32]:
    logits = np.asarray(mask_input)
    if logits.dtype.kind != "f":
        raise TypeError(f"mask_input must be float logits (from a segmentation's low_res), got dtype {logits.dtype}")
    if logits.shape not in ((LOW_RES, LOW_RES), (1, LOW_RES, LOW_RES)):
        raise ValueError(f"mask_input must be (256, 256) or (1, 256, 256), got shape {logits.shape}")
    logits = np.ascontiguousarray(logits.reshape(LOW_RES, LOW_RES), np.float32)
    if not np.isfinite(logits).all():
        raise ValueError("mask_input holds NaN or infinity")
    return logits


def _numbers(values: ArrayLike, name: str) -> NDArray[np.float64]:
    try:
        array = np.asarray(values)
    except ValueError:  # the rows have different lengths
        raise ValueError(f"{name} must be a regular array of numbers, got {values!r}") from None
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} must be numbers, got dtype {array.dtype}")
    return array.astype(np.float64)


def _check_inside(xy: NDArray[np.float64], size: Size, name: str) -> None:
    height, width = size
    for x, y in xy.tolist():  # faster than NumPy for a few points
        if not (0 <= x <= width and 0 <= y <= height):  # this condition is also true for NaN
            raise ValueError(f"{name} ({x:g}, {y:g}) lies outside the image of {width}x{height} pixels")
