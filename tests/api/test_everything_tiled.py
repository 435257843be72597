"""Everything-mode on large images: discs at known places across seams, the fields of records, and errors."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from golden import PHOTOS
from PIL import Image

import mobilesam
from mobilesam.masks import rle
from mobilesam.masks.objects import Record
from mobilesam.tiles.grid import Grid

Disc = tuple[float, float, float]  # x, y and radius
GROUND, COLOURS = (28, 36, 44), ((240, 220, 90), (230, 110, 80), (120, 220, 140), (235, 235, 235))
DISCS = {"points_per_side": 16, "adaptive": True, "pred_iou_thresh": 0.95}
LOOSE = {"points_per_side": 4, "pred_iou_thresh": 0.5, "stability_score_thresh": 0.6}


def discs(size: tuple[int, int], count: int, tile: int, radii: tuple[float, float], gap: float, seed: int) -> list[Disc]:
    """Discs at every corner of tiles and in the middle of every seam within the image, and others at random places."""
    rng, (height, width), high = np.random.default_rng(seed), size, radii[1]
    columns, rows = range(tile, width - int(high), tile), range(tile, height - int(high), tile)
    at = [(x, y) for x in columns for y in rows]
    at += [(x, y + tile / 2) for x in columns for y in range(0, height - tile // 2, tile)]
    at += [(x + tile / 2, y) for x in range(0, width - tile // 2, tile) for y in rows]
    found: list[Disc] = []
    while len(found) < count:
        r = rng.uniform(*radii)
        low, ends = high + 8, (width - high - 8, height - high - 8)
        x, y = at[len(found)] if len(found) < len(at) else (rng.uniform(low, ends[0]), rng.uniform(low, ends[1]))
        if all((x - a) ** 2 + (y - b) ** 2 > (r + c + gap) ** 2 for a, b, c in found):
            found.append((x, y, r))
    return found


def cover(disc: Disc, size: tuple[int, int]) -> np.ndarray:
    """The share of each pixel that the disc covers, about."""
    (x, y, r), (height, width) = disc, size
    distance = np.hypot(np.arange(width)[None] + 0.5 - x, np.arange(height)[:, None] + 0.5 - y)
    return np.clip(r - distance + 0.5, 0, 1)


def picture(places: Sequence[Disc], size: tuple[int, int]) -> np.ndarray:
    image = np.full((*size, 3), GROUND, np.uint8)
    for i, disc in enumerate(places):
        x0, y0, x1, y1 = (int(edge) for edge in bounds(disc))
        part = cover((disc[0] - x0, disc[1] - y0, disc[2]), (y1 - y0, x1 - x0))[..., None]
        window = image[y0:y1, x0:x1]
        window[:] = np.rint(window * (1 - part) + np.array(COLOURS[i % len(COLOURS)]) * part)
    return image


def bounds(disc: Disc) -> tuple[float, float, float, float]:
    x, y, r = disc
    return x - r - 2, y - r - 2, x + r + 3, y + r + 3


def check(places: Sequence[Disc], records: Sequence[Record], size: tuple[int, int]) -> None:
    """Each disc has exactly one record, and each record is a disc."""
    assert len(records) == len(places)
    left = list(records)
    for disc in places:
        expected = rle.encode(cover(disc, size) >= 0.5)
        ious = rle.iou([record["segmentation"] for record in left], [expected])[:, 0]
        assert ious.max() >= 0.96, disc
        left.pop(int(ious.argmax()))
