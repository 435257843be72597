"""Large images as sources of windows: arrays, memory maps, zarr arrays, and pictures that are decoded as a whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..images.errors import TooManyPixels
from ..images.geometry import Size
from ..images.photo import file_name, open_rgb
from ..images.value_range import Bands, ValueRange
from ..util.messages import one_line
from .grid import Box


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Name the file in the errors of other packages, which have many types for damaged files.

    Raises:
        MemoryError: There is no memory for the file or for a part of it.
        OSError: The file cannot be read.
        ValueError: The file is damaged.
    """
    try:
        yield
    except (OSError, TooManyPixels):
        raise
    except MemoryError:
        raise MemoryError(f"{name}: no memory to read the file") from None
    except Exception as error:
        raise ValueError(f"{name}: the file is damaged: {one_line(error)}") from None


class Source(Protocol):
    """An image that is read by windows.

    Attributes:
        size: (h, w) of the image.
        name: File name of the image, without folders. Empty if the image did not come from a file.
        value_range: The `value_range` that `MobileSAM.encode` needs for the windows.
    """

    size: Size
    name: str
    value_range: ValueRange

    def read(self, box: Box) -> NDArray[Any]:
        """Read a window: (h, w), or (h, w, C) with 1 to 4 channels, in the image's dtype."""

    def is_empty(self, box: Box) -> bool:
        """Whether the file says that no pixel of the window has data."""


class ArraySource:
    """An array (H, W) or (H, W, C): a NumPy array, a memory map, a zarr array, or an object that is used like them."""

    def __init__(
        self, array: Any, name: str = "", *, value_range: ValueRange = "dtype", bands: Bands | None = None
    ) -> None:
        if array.ndim not in (2, 3) or 0 in array.shape:
            raise ValueError(f"an image array must be (H, W) or (H, W, C), and not empty, got shape {array.shape}")
        channels = int(array.shape[2]) if array.ndim == 3 else 1
        if channels > 4 if bands is None else max(bands) >= channels:
            expected = "1 to 4 channels, or bands=(R, G, B)" if bands is None else f"channel {max(bands)}"
            raise ValueError(f"an image array (H, W, C) must have {expected}, got shape {array.shape}")
        self._array, self._bands, self.name, self.value_range = array, bands, name, value_range
        self.size: Size = int(array.shape[0]), int(array.shape[1])

    def read(self, box: Box) -> NDArray[Any]:
        x0, y0, x1, y1 = box
        window = np.asarray(self._array[y0:y1, x0:x1])
        return window if self._bands is None else window.reshape(*window.shape[:2], -1)[:, :, list(self._bands)]

    def is_empty(self, box: Box) -> bool:
        return False


class PhotoSource(ArraySource):
    """A picture in a format that is decoded as a whole, such as PNG. The decoded picture stays in memory."""

    def __init__(self, image: Any, *, value_range: ValueRange, bands: Bands | None) -> None:
        rgb = open_rgb(image, value_range=value_range, bands=bands)  # 8 bits, which the value range has been applied to
        super().__init__(np.asarray(rgb), file_name(image))
