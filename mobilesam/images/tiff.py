"""TIFF files that Pillow cannot read, such as float64, float RGB, and more than four bands, through `tifffile`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import IO, TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from . import limits
from .errors import NotAnImage, TooManyPixels
from .value_range import Bands

if TYPE_CHECKING:
    from tifffile import TiffPage

ORIENTATION = 274  # tag
MOST_BYTES_PER_PIXEL = 128  # 16 bands of float64
_TURNS: dict[int, Callable[[NDArray[np.generic]], NDArray[np.generic]]] = {  # by the orientation tag
    2: lambda array: array[:, ::-1],
    3: lambda array: array[::-1, ::-1],
    4: lambda array: array[::-1],
    5: lambda array: array.swapaxes(0, 1),
    6: lambda array: np.rot90(array, -1),
    7: lambda array: np.rot90(array, 2).swapaxes(0, 1),
    8: lambda array: np.rot90(array),
}


def read(file: str | IO[bytes], name: str, bands: Bands | None, most_pixels: int | None) -> NDArray[np.generic]:
    """Read the first page of a TIFF file, upright.

    Args:
        file: The path, or a file object at its start.
        name: Name of the file, for messages.
        bands: The bands that the caller chooses. A page of more than four bands, or of inks, needs a choice.
        most_pixels: The largest number of pixels accepted. None for no limit.

    Returns:
        (H, W) or (H, W, C), in the file's dtype. Unsigned pages in which 0 is white are inverted.

    Raises:
        NotAnImage: `tifffile` is not installed, or the page is no picture of pixels, or needs a choice of bands.
        TooManyPixels: The page has more than `most_pixels` pixels, or very many bytes per pixel.
    """
    try:
        import tifffile
    except ModuleNotFoundError:
        problem = "a TIFF file that Pillow cannot read, or not in all its bits and bands"
        raise NotAnImage(f"{name}: {problem}; to read it: pip install 'mobilesam[tiff]'") from None
    with tifffile.TiffFile(file) as tiff:
        page = tiff.pages[0].aspage()
        if page.axes not in ("YX", "YXS", "SYX"):
            raise NotAnImage(f"{name}: a TIFF page with axes {page.axes}; expected rows and columns of pixels")
        if bands is None and (page.samplesperpixel > 4 or page.photometric == tifffile.PHOTOMETRIC.SEPARATED):
            choose = "choose three with bands=(R, G, B), or --bands R,G,B"
            raise NotAnImage(f"{name}: {page.samplesperpixel} bands that are not red, green and blue; {choose}")
        pixels = page.imagelength * page.imagewidth
        if most_pixels is not None and (pixels > most_pixels or page.nbytes > MOST_BYTES_PER_PIXEL * most_pixels):
            size = f"{page.imagewidth}x{page.imagelength} pixels of {page.nbytes // pixels} bytes"
            raise TooManyPixels(f"{name}: the image has {size}, more than {most_pixels} pixels, the limit")
        _check_tiles(page, name, most_pixels)
        array = page.asarray()
        if page.photometric == tifffile.PHOTOMETRIC.MINISWHITE and array.dtype.kind == "u":
            array = array.dtype.type((1 << page.bitspersample) - 1) - array
        elif page.photometric == tifffile.PHOTOMETRIC.MINISWHITE and array.dtype.kind == "b":
            array = ~array
        if page.axes == "SYX":  # one plane per band
            array = np.moveaxis(array, 0, -1)
        tag = page.tags.get(ORIENTATION)
        turn = _TURNS.get(tag.value) if tag is not None and isinstance(tag.value, int) else None
    return array if turn is None else turn(array)


def _check_tiles(page: TiffPage, name: str, limit: int | None) -> None:
    """Check the tiles or strips of a page. tifffile decodes a tile as a whole, and then crops the tile to the page."""
    limits.check_segments(page.parent.filehandle.size, page.databytecounts)
    if page.is_tiled:
        count = math.prod(page.chunked)
        limits.check_tiles(name, page.tilewidth, page.tilelength * max(1, page.tiledepth), count, limit)
    if limit is not None and (nbytes := math.prod(page.chunks) * page.dtype.itemsize) > MOST_BYTES_PER_PIXEL * limit:
        raise TooManyPixels(f"{name}: the file has tiles of {nbytes} bytes, and the limit is {limit} pixels")
    if page.compression in (*limits.JPEG, *limits.PICTURES):
        places = page.dataoffsets, page.databytecounts
        limits.check_pictures(page.parent.filehandle, *places, page.compression, limit)
