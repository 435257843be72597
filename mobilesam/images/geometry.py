"""Sizes and coordinates: from pixels of an image to pixels of the model's canvas. Loads no NumPy until it is used.

Source: the reference's utils/transforms.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from ..architecture import IMG_SIZE

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Size: TypeAlias = tuple[int, int]  # height, width


def resized_size(height: int, width: int, longest: int = IMG_SIZE) -> Size:
    """The size (new_h, new_w) on the model's canvas: the longest side becomes 1024, halves round up.

    A side that would round to 0 (beyond 2048:1, where the reference fails) becomes 1.
    """
    scale = longest / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def to_canvas(xy: NDArray[np.float64], size: Size) -> NDArray[np.float32]:
    """Pixels of the image to pixels of the canvas (`apply_coords` of the reference's utils/transforms.py).

    One by one: they are few, and the first of NumPy's products takes longer than many of Python's.
    """
    import numpy as np  # which `photo` does without

    (new_h, new_w), (h, w) = resized_size(*size), size
    across, down = new_w / w, new_h / h
    return np.array([(x * across, y * down) for x, y in xy.tolist()], np.float32).reshape(-1, 2)
