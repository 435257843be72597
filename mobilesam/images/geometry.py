"""Sizes and coordinates on the model's canvas. Imports NumPy only when coordinates are converted.

Source: the reference's utils/transforms.py, and LiteMedSAM's CVPR24_LiteMedSAM_infer.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from ..architecture import IMG_SIZE, MOBILE_SAM, Architecture

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Size: TypeAlias = tuple[int, int]  # height, width


def resized_size(height: int, width: int, longest: int = IMG_SIZE) -> Size:
    """The size (h, w) of an image on the model's canvas. The longest side becomes `longest`, and halves round up.

    A side that would round to 0 becomes 1. This happens for aspect ratios above 2048:1, for which the reference fails.
    """
    scale = longest / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def to_canvas(
    xy: NDArray[np.float64], size: Size, architecture: Architecture = MOBILE_SAM, *, corners: bool = False
) -> NDArray[np.float32]:
    """Convert points from pixels of the image to pixels of the canvas.

    Source: `apply_coords` of the reference's utils/transforms.py; `resize_box_to_256` of LiteMedSAM. A Python loop is
    used, because NumPy's first product in a process takes longer than the loop over a few points.

    Args:
        xy: (P, 2) float64, one (x, y) per row.
        size: (h, w) of the image.
        architecture: The architecture whose canvas the points are converted to.
        corners: Whether the points are corners of boxes. LiteMedSAM truncates corners to whole pixels.

    Returns:
        (P, 2) float32.
    """
    import numpy as np  # imported here, because `images/photo.py` uses this module without NumPy

    if architecture.preprocessing == "min_max":
        across = down = architecture.img_size / max(size)
    else:
        (new_h, new_w), (h, w) = resized_size(*size, architecture.img_size), size
        across, down = new_w / w, new_h / h
    points = [(x * across, y * down) for x, y in xy.tolist()]
    if architecture.preprocessing == "min_max" and corners:
        points = [(int(x), int(y)) for x, y in points]
    return np.array(points, np.float32).reshape(-1, 2)
