"""A small picture of a large image with its objects."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..images.photo import open_rgb
from ..masks.draw import colours
from .source import Source
from .spill import ObjectFile

LONGEST = 2048  # pixels of the longest side
OPACITY = 0.45
ROWS = 128  # rows of the image that are read at a time
_PALETTE = 251  # colours; a prime number, so that numbers that repeat in a pattern get different colours


def overview(source: Source, objects: ObjectFile) -> Image.Image:
    """The image at a whole fraction of its size, with each object in a colour and with an outline.

    A pixel is the mean of a block of the image, and shows the object at the block's centre.
    """
    height, width = source.size
    step = -(-max(height, width) // LONGEST)
    pixels, labels = [], []
    rows = step * max(1, ROWS // step)
    for top in range(0, height // step * step or 1, rows):
        bottom = min(top + rows, height)
        window = source.read((0, top, width, bottom))
        pixels.append(_means(window.reshape(*window.shape[:2], -1), step))
        count = len(pixels[-1])
        strip = objects.labels(top, bottom, width)
        centres = strip[step // 2 :: step, step // 2 :: step][:count, : pixels[-1].shape[1]]
        labels.append(centres.copy())  # `centres` is a view, which would keep the whole strip in memory
    picture = np.array(open_rgb(np.concatenate(pixels), value_range=source.value_range))
    label = np.concatenate(labels)
    palette = np.array([(0, 0, 0), *colours(_PALETTE)], np.float32)
    for line, numbers in zip(picture, label):
        inside = numbers > 0
        line[inside] = np.rint(line[inside] * (1 - OPACITY) + palette[1 + (numbers[inside] - 1) % _PALETTE] * OPACITY)
    picture[:, 1:][label[:, 1:] != label[:, :-1]] = 255
    picture[1:][label[1:] != label[:-1]] = 255
    return Image.fromarray(picture)


def _means(values: NDArray[Any], step: int) -> NDArray[Any]:
    """The means of blocks of step×step pixels. Blocks at the right and lower edge that are not whole are left out."""
    height, width, channels = values.shape
    if step == 1 or min(height, width) < step:
        return values[:: max(step, 1), :: max(step, 1)]
    blocks = values[: height // step * step, : width // step * step]
    means = blocks.reshape(height // step, step, width // step, step, channels).mean(axis=(1, 3), dtype=np.float32)
    return (np.rint(means) if values.dtype.kind in "iu" else means).astype(values.dtype)
