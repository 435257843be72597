"""A photo in memory: its pixels as RGB, and resized for the model's canvas. This module does not import NumPy.

Source: MobileSAM's utils/transforms.py (`ResizeLongestSide`). Resizing is bit-identical to this reference.
"""

from __future__ import annotations

from PIL import Image

from .geometry import Size, resized_size


class Photo:
    """A PIL image of mode RGB, and the same image resized for the model's canvas.

    Attributes:
        rgb: The image.
        name: Name of the file, without folders. Empty if the image does not come from a file.
    """

    def __init__(self, rgb: Image.Image, name: str = "") -> None:
        self.rgb, self.name = rgb, name
        self._resized: Image.Image | None = None

    @property
    def original_size(self) -> Size:
        return self.rgb.height, self.rgb.width

    @property
    def resized(self) -> Image.Image:
        """The image with a longest side of 1024, resized with Pillow's BILINEAR in uint8 on first access."""
        resized = self._resized
        if resized is None:
            height, width = resized_size(*self.original_size)
            same = self.rgb.size == (width, height)
            resized = self.rgb if same else self.rgb.resize((width, height), Image.Resampling.BILINEAR)
            self._resized = resized
        return resized
