"""Images and coordinates on the model's canvas: the reference's utils/transforms.py, on NumPy."""

import sys
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from ...images.geometry import Size, resized_size


class ResizeLongestSide:
    """The way to the model's canvas: the longest side becomes `target_length`. Sizes are (H, W)."""

    def __init__(self, target_length: int) -> None:
        self.target_length = target_length

    def apply_image(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """An image (H, W, C) uint8 in its new size."""
        height, width = self.get_preprocess_shape(image.shape[0], image.shape[1], self.target_length)
        return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))

    def apply_coords(self, coords: ArrayLike, original_size: Sequence[int]) -> NDArray[np.float64]:
        """Coordinates (..., 2), x and y in pixels of the original image, in pixels of the resized one."""
        return np.asarray(coords, np.float64) * self._scale(original_size)

    def apply_boxes(self, boxes: ArrayLike, original_size: Sequence[int]) -> NDArray[np.float64]:
        """Boxes (B, 4), or one (4,), to (B, 4)."""
        return self.apply_coords(np.reshape(boxes, (-1, 2, 2)), original_size).reshape(-1, 4)

    def apply_coords_torch(self, coords: Any, original_size: Sequence[int]) -> Any:
        """`apply_coords` in float32; a tensor for a tensor."""
        scale = self._scale(original_size).astype(np.float32)
        return tensors_for((coords,), np.asarray(coords, np.float32) * scale)[0]

    def apply_boxes_torch(self, boxes: Any, original_size: Sequence[int]) -> Any:
        """`apply_boxes` in float32; a tensor for a tensor."""
        return self.apply_coords_torch(boxes.reshape(-1, 2, 2), original_size).reshape(-1, 4)

    def _scale(self, original_size: Sequence[int]) -> NDArray[np.float64]:
        height, width = original_size
        new_h, new_w = self.get_preprocess_shape(height, width, self.target_length)
        return np.array([new_w / width, new_h / height])

    @staticmethod
    def get_preprocess_shape(oldh: int, oldw: int, long_side_length: int) -> Size:
        """The new size of an image of `oldh` and `oldw` pixels."""
        return resized_size(oldh, oldw, long_side_length)


def tensors_for(given: Iterable[object], *arrays: NDArray[Any]) -> tuple[Any, ...]:
    """The arrays, as PyTorch tensors of the same memory where any of what was given is one."""
    torch = sys.modules.get("torch")  # no tensor was given by who has not imported it
    if torch is not None and any(isinstance(value, torch.Tensor) for value in given):
        return tuple(torch.from_numpy(array) for array in arrays)
    return arrays
