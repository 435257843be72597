"""Checks of the public interface's prompts. An invalid prompt is refused before an image is encoded."""

import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from ..architecture import LOW_RES
from ..images.geometry import Size, resized_size

PROMPT_NAMES = ("points", "labels", "box", "mask_input")
MASK_LOGIT = math.log(0.999 / 0.001)  # logit of a mask's pixels, as in micro-sam's prompt_based_segmentation.py
MANY = "for many prompts, call segment_many"


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

    Warns:
        UserWarning: The box lies partly outside the image, and was clipped.

    Raises:
        TypeError: An argument does not hold numbers of the expected type.
        ValueError: The prompt is empty, or an argument has an invalid shape or value.
    """
    if points is None and labels is not None:
        raise ValueError("labels without points: give the points too, or leave the labels out")
    checked_points = np.empty((0, 2)) if points is None else _checked_points(points, size)
    if not len(checked_points) and box is None and mask_input is None:
        raise ValueError("no prompt: give points, a box or a mask_input")
    return Prompt(
        checked_points,
        _checked_labels(labels, len(checked_points)),
        None if box is None else _checked_box(box, size),
        None if mask_input is None else _checked_mask_input(mask_input, size),
    )


def prompts_of_arrays(
    points: ArrayLike | None, labels: ArrayLike | None, boxes: ArrayLike | None
) -> list[dict[str, ArrayLike | None]]:
    """Split arrays with one row per prompt into prompts.

    Args:
        points: (N, K, 2), K points for each prompt, or None.
        labels: (N, K), or None for all 1.
        boxes: (N, 4), or None.

    Raises:
        TypeError: An argument does not hold numbers.
        ValueError: An argument has a wrong shape, or the arguments have different lengths.
    """
    given = {"points": (points, "(N, K, 2)", 3), "labels": (labels, "(N, K)", 2), "boxes": (boxes, "(N, 4)", 2)}
    arrays = {}
    for name, (values, form, ndim) in given.items():
        if values is not None:
            array = _numbers(values, name)
            if array.shape == (0,):  # no prompt, such as no box of a detector
                array = array.reshape((0,) * ndim)
            if array.ndim != ndim:
                raise ValueError(f"{name} must be {form}, one row for each prompt, got shape {array.shape}")
            arrays[name] = array
    if len({len(array) for array in arrays.values()}) > 1:
        counts = ", ".join(f"{len(array)} {name}" for name, array in arrays.items())
        raise ValueError(f"points, labels and boxes must have one row for each prompt, got {counts}")
    columns = {"box" if name == "boxes" else name: array for name, array in arrays.items()}
    rows: Iterable[tuple[NDArray[np.float64], ...]] = zip(*columns.values())
    return [dict(zip(columns, row)) for row in rows]


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
    if xy.shape == (0,):
        return np.empty((0, 2))
    if xy.ndim != 2 or xy.shape[1] != 2:
        many = f"; {MANY}(points=..., labels=...)" if xy.ndim == 3 and xy.shape[2] == 2 else ""
        raise ValueError(f"points must be (P, 2), one (x, y) per row, got shape {xy.shape}{many}")
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
        many = f"; {MANY}(boxes=...)" if values.ndim == 2 and values.shape[1] == 4 else ""
        raise ValueError(f"box must be (x0, y0, x1, y1), got shape {values.shape}{many}")
    height, width = size
    x0, y0, x1, y1 = values.tolist()
    written = f"({', '.join(f'{v:g}' for v in values)})"
    if not all(map(math.isfinite, (x0, y0, x1, y1))):
        raise ValueError(f"box must be finite, got {written}")
    if x0 > x1 or y0 > y1:
        raise ValueError(f"box must have x0 <= x1 and y0 <= y1, got {written}")
    if x1 < 0 or y1 < 0 or x0 > width or y0 > height:
        raise ValueError(f"box {written} lies outside the image of {width}x{height} pixels")
    if x0 < 0 or y0 < 0 or x1 > width or y1 > height:
        warnings.warn(f"box {written} was clipped to the image of {width}x{height} pixels", UserWarning, stacklevel=2)
    return values.clip(0, (width, height, width, height))


def _checked_mask_input(mask_input: ArrayLike, size: Size) -> NDArray[np.float32]:
    logits = np.asarray(mask_input)
    if logits.dtype == np.bool_:
        if logits.shape != size:
            raise ValueError(f"a boolean mask_input must have the image's size (h, w), {size}, got {logits.shape}")
        return _logits_of_mask(logits)
    if logits.dtype.kind != "f":
        expected = "float logits (from a segmentation's low_res), or a boolean mask of the image's size"
        raise TypeError(f"mask_input must be {expected}, got dtype {logits.dtype}")
    if logits.shape not in ((LOW_RES, LOW_RES), (1, LOW_RES, LOW_RES)):
        raise ValueError(f"mask_input must be (256, 256) or (1, 256, 256), got shape {logits.shape}")
    logits = np.ascontiguousarray(logits.reshape(LOW_RES, LOW_RES), np.float32)
    if not np.isfinite(logits).all():
        raise ValueError("mask_input holds NaN or infinity")
    return logits


def _logits_of_mask(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Mask logits (256, 256) of a mask (H, W): MASK_LOGIT on the object, -MASK_LOGIT elsewhere and on the padding.

    Source: micro-sam's prompt_based_segmentation.py (`_compute_logits_from_mask`).
    """
    height, width = resized_size(mask.shape[0], mask.shape[1], LOW_RES)
    levels = Image.fromarray(mask.astype(np.float32)).resize((width, height), Image.Resampling.BILINEAR)
    logits = np.full((LOW_RES, LOW_RES), -MASK_LOGIT, np.float32)
    logits[:height, :width][np.asarray(levels) > 0.5] = MASK_LOGIT
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
