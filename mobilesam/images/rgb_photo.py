"""A photo that has been read: its pixels as RGB, and resized for the model's canvas. By Pillow alone.

Resizing follows MobileSAM's `utils/transforms.py` (ResizeLongestSide) bit for bit.
"""

from __future__ import annotations

from PIL import Image

from .geometry import Size, resized_size


class Photo:
    """A PIL image of mode RGB, and the same on the model's canvas, made when it is first wanted or ahead of that."""

    def __init__(self, rgb: Image.Image) -> None:
        self.rgb = rgb
        self._resized: Image.Image | None = None

    @property
    def original_size(self) -> Size:
        return self.rgb.height, self.rgb.width

    @property
    def resized(self) -> Image.Image:
        """As the encoder sees it, Pillow's BILINEAR in uint8: the longest side 1024."""
        resized = self._resized
        if resized is None:
            height, width = resized_size(*self.original_size)
            same = self.rgb.size == (width, height)
            resized = self.rgb if same else self.rgb.resize((width, height), Image.Resampling.BILINEAR)
            self._resized = resized
        return resized
