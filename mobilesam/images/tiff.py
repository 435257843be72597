"""TIFF files that Pillow cannot read, such as float64, float RGB, and more than four bands, through `tifffile`."""

from __future__ import annotations

from typing import IO

import numpy as np
from numpy.typing import NDArray

from .errors import NotAnImage, TooManyPixels


def read(file: str | IO[bytes], name: str, most_pixels: int | None) -> NDArray[np.generic]:
    """Read the first page of a TIFF file.

    Args:
        file: The path, or a file object at its start.
        name: Name of the file, for messages.
        most_pixels: The largest number of pixels accepted. None for no limit.

    Returns:
        (H, W) or (H, W, C), in the file's dtype. The largest value of a gray page is white.

    Raises:
        NotAnImage: `tifffile` is not installed, or the page is not a picture of pixels.
        TooManyPixels: The page has more than `most_pixels` pixels.
    """
    try:
        import tifffile
    except ModuleNotFoundError:
        problem = "a TIFF file that Pillow cannot read, or not in all its bits and bands"
        raise NotAnImage(f"{name}: {problem}; to read it: pip install 'mobilesam[tiff]'") from None
    with tifffile.TiffFile(file) as tiff:
        page = tiff.pages[0].aspage()
        pixels = page.imagelength * page.imagewidth
        if most_pixels is not None and pixels > most_pixels:
            raise TooManyPixels(
                f"{name}: the image has {page.imagewidth}x{page.imagelength} pixels, more than {most_pixels}, the limit"
            )
        array = page.asarray()
        if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE and array.dtype.kind == "u":
            array = array.dtype.type((1 << page.bitspersample) - 1) - array
        if page.axes == "SYX":  # one plane per band
            array = np.moveaxis(array, 0, -1)
        elif page.axes not in ("YX", "YXS"):
            raise NotAnImage(f"{name}: a TIFF page with axes {page.axes}; expected rows and columns of pixels")
    return array
