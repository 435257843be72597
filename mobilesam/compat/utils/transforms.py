"""Resizing of images and coordinates for the model's canvas. Source: the reference's utils/transforms.py."""

import sys
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from ...images.geometry import Size, resized_size


class ResizeLongestSide:
    """Resizes images so that the longest side is `target_length`, and scales coordinates to match. Sizes are (H, W)."""

    def __init__(self, target_length: int) -> None:
        self.target_length = target_length

    def apply_image(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Resize an image (H, W, C) uint8."""
        height, width = self.get_preprocess_shape(image.shape[0], image.shape[1], self.target_length)
        return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))

    def apply_coords(self, coords: ArrayLike, original_size: Sequence[int]) -> NDArray[np.float64]:
        """Scale coordinates (..., 2), x and y, from pixels of the original image to pixels of the resized image."""
        return np.asarray(coords, np.float64) * self._scale(original_size)

    def apply_boxes(self, boxes: ArrayLike, original_size: Sequence[int]) -> NDArray[np.float64]:
        """Scale boxes (B, 4), or one box (4,). Returns (B, 4)."""
        return self.apply_coords(np.reshape(boxes, (-1, 2, 2)), original_size).reshape(-1, 4)

    def apply_coords_torch(self, coords: Any, original_size: Sequence[int]) -> Any:
        """Like `apply_coords`, but in float32. Returns a tensor if `coords` is a tensor."""
        scale = self._scale(original_size).astype(np.float32)
        return tensors_for((coords,), np.asarray(coords, np.float32) * scale)[0]

    def apply_boxes_torch(self, boxes: Any, original_size: Sequence[int]) -> Any:
        """Like `apply_boxes`, but in float32. Returns a tensor if `boxes` is a tensor."""
        return self.apply_coords_torch(boxes.reshape(-1, 2, 2), original_size).reshape(-1, 4)

    def _scale(self, original_size: Sequence[int]) -> NDArray[np.float64]:
        height, width = original_size
        new_h, new_w = self.get_preprocess_shape(height, width, self.target_length)
        return np.array([new_w / width, new_h / height])

    @staticmethod
    def get_preprocess_shape(oldh: int, oldw: int, long_side_length: int) -> Size:
        """The size of an image of `oldh` by `oldw` pixels after resizing."""
        return resized_size(oldh, oldw, long_side_length)


def tensors_for(given: Iterable[object], *arrays: NDArray[Any]) -> tuple[Any, ...]:
    """The arrays. If any value in `given` is a PyTorch tensor, returns tensors that share the arrays' memory."""
    torch = sys.modules.get("torch")  # a script that passes tensors has imported torch
    if torch is not None and any(isinstance(value, torch.Tensor) for value in given):
        return tuple(torch.from_numpy(array) for array in arrays)
    return arrays
