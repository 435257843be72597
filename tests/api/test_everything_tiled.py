"""Everything-mode on large images: discs at known places across seams, the fields of records, and errors."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import PHOTOS
from PIL import Image

import mobilesam
from mobilesam.masks import rle
from mobilesam.masks.objects import Record

Disc = tuple[float, float, float]  # x, y and radius
GROUND, COLOURS = (28, 36, 44), ((240, 220, 90), (230, 110, 80), (120, 220, 140), (235, 235, 235))
DISCS = {"points_per_side": 12, "adaptive": True, "pred_iou_thresh": 0.97}
LOOSE = {"points_per_side": 4, "pred_iou_thresh": 0.5, "stability_score_thresh": 0.6}


def discs(
    size: tuple[int, int], count: int, tile: int, radii: tuple[float, float], gap: float, seed: int
) -> list[Disc]:
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
    (x, y, r), share = disc, np.zeros(size)
    x0, y0, x1, y1 = int(x - r) - 2, int(y - r) - 2, int(x + r) + 3, int(y + r) + 3
    distance = np.hypot(np.arange(x0, x1)[None] + 0.5 - x, np.arange(y0, y1)[:, None] + 0.5 - y)
    share[y0:y1, x0:x1] = np.clip(r - distance + 0.5, 0, 1)
    return share


def picture(places: Sequence[Disc], size: tuple[int, int]) -> np.ndarray:
    image = np.full((*size, 3), GROUND, np.uint8)
    for i, disc in enumerate(places):
        share = cover(disc, size)
        at = share > 0
        colour, part = np.array(COLOURS[i % len(COLOURS)]), share[at][:, None]
        image[at] = np.rint(image[at] * (1 - part) + colour * part)
    return image


def check(places: Sequence[Disc], records: Sequence[Record], size: tuple[int, int]) -> None:
    """Each disc has exactly one record, and each record is a disc."""
    assert len(records) == len(places)
    left = list(records)
    for disc in places:
        expected = rle.encode(cover(disc, size) >= 0.5)
        ious = rle.iou([record["segmentation"] for record in left], [expected])[:, 0]
        assert ious.max() >= 0.96, disc
        left.pop(int(ious.argmax()))


# The pictures were chosen among random ones. In some others, the model also finds two discs as one object, or the
# ground.
def test_discs_at_seams_and_corners_are_found_once(model: mobilesam.MobileSAM) -> None:
    size = 560, 600
    places = discs(size, 20, 320, (20, 25), 14, seed=4)
    records = mobilesam.everything(picture(places, size), model=model, tile=320, halo=80, **DISCS)
    check(places, records, size)


@pytest.mark.exhaustive
def test_200_discs_are_found_once(model: mobilesam.MobileSAM) -> None:
    size = 1920, 2560
    places = discs(size, 200, 640, (40, 50), 28, seed=2)
    parameters = DISCS | {"points_per_side": 16}
    records = mobilesam.everything(picture(places, size), model=model, tile=640, halo=160, **parameters)
    check(places, records, size)


with Image.open(PHOTOS["coffee"]) as photo:
    STRIP = np.asarray(photo.convert("RGB"))[170:250, 150:406]
NARROW = {"tile": (80, 128), "halo": (20, 32)}  # two tiles of the strip, which are quick to encode


@pytest.fixture(scope="module")
def records(model: mobilesam.MobileSAM) -> list[Record]:
    done: list[tuple[int, int]] = []
    found = mobilesam.everything(STRIP, model=model, **NARROW, **LOOSE, progress=lambda *now: done.append(now))
    assert done == [(1, 2), (2, 2)]
    return found


def test_records_are_in_pixels_of_the_whole_image(records: list[Record]) -> None:
    crops = {
        (left, top, right - left, bottom - top) for left, top, right, bottom in ((0, 0, 160, 80), (96, 0, 256, 80))
    }
    assert {tuple(record["crop_box"]) for record in records} == crops
    for record in records:
        mask = record["segmentation"]
        assert (mask["size"], type(mask["counts"])) == ([80, 256], str)
        assert record["area"] == rle.area(mask)
        x, y, width, height = rle.bbox(mask)
        assert record["bbox"] == [x, y, width - 1, height - 1]
        ((px, py),) = record["point_coords"]
        left, top, across, down = record["crop_box"]
        # The points of a tile are the centres of 4×4 parts of it.
        assert (px - left) / across * 4 % 1 == pytest.approx(0.5)
        assert (py - top) / down * 4 % 1 == pytest.approx(0.5)
        assert record["predicted_iou"] > 0.5 and record["stability_score"] >= 0.6
    assert len(records) > 3
    assert max(record["bbox"][0] + record["bbox"][2] for record in records) > 160  # masks of the right tile are shifted


def test_a_mask_within_one_tile_is_that_of_the_tile_alone(model: mobilesam.MobileSAM, records: list[Record]) -> None:
    alone = mobilesam.everything(STRIP[:, 96:], model=model, output_mode="coco_rle", **LOOSE)
    whole = np.zeros((len(alone), 80, 256), bool)
    whole[:, :, 96:] = [rle.decode(record["segmentation"]) for record in alone]
    masks = {rle.compress(rle.encode(mask))["counts"]: record for mask, record in zip(whole, alone)}
    of_tile = [record for record in records if record["crop_box"][0] == 96 and record["bbox"][0] > 96]
    assert of_tile
    for record in of_tile:
        same = masks[record["segmentation"]["counts"]]
        assert (record["predicted_iou"], record["stability_score"]) == (same["predicted_iou"], same["stability_score"])
        ((x, y),) = same["point_coords"]
        assert record["point_coords"] == [[x + 96, y]]


@pytest.mark.parametrize("mode", ["binary_mask", "uncompressed_rle"])
def test_the_other_output_modes_show_the_same_masks(
    model: mobilesam.MobileSAM, records: list[Record], mode: str
) -> None:
    others = mobilesam.everything(STRIP, model=model, **NARROW, **LOOSE, output_mode=mode)
    assert len(others) == len(records)
    for other, record in zip(others, records):
        expected = rle.decode(record["segmentation"])
        if mode == "binary_mask":
            np.testing.assert_array_equal(other["segmentation"], expected)
            assert other["segmentation"].dtype == bool
        else:
            assert other["segmentation"] == rle.encode(expected)
        assert {key: other[key] for key in other if key != "segmentation"} == {
            key: record[key] for key in record if key != "segmentation"
        }


@pytest.mark.parametrize("adaptive", [False, True])
def test_an_image_of_one_tile_gives_the_records_without_tiles(model: mobilesam.MobileSAM, adaptive: bool) -> None:
    parameters: dict[str, Any] = {**LOOSE, "points_per_side": 6, "adaptive": adaptive, "output_mode": "coco_rle"}
    whole = mobilesam.everything(STRIP, model=model, **parameters)
    tiled = mobilesam.everything(STRIP, model=model, tile=256, halo=8, **parameters)
    assert len(whole) > 5
    assert sorted(map(repr, tiled)) == sorted(map(repr, whole))


def test_records_come_with_any_source_and_value_range(
    model: mobilesam.MobileSAM, records: list[Record], tmp_path: Path
) -> None:
    """16-bit values in six bands of a file."""
    np.save(tmp_path / "a.npy", np.concatenate([STRIP[:, :, ::-1]] * 2, axis=2).astype(np.uint16) * 4)
    options: dict[str, Any] = {"value_range": (0, 1020), "bands": (5, 1, 0)}
    assert mobilesam.everything(str(tmp_path / "a.npy"), model=model, **options, **NARROW, **LOOSE) == records


WRONG: dict[str, dict[str, Any]] = {
    r"halo must be at least 1 to join masks of neighbouring tiles, got \(0, 0\)": {"tile": 64, "halo": 0},
    r"neighbouring tiles, got \(8, 0\)": {"tile": 64, "halo": (8, 0)},
    "halo must be at most half of tile": {"tile": 64, "halo": 33},
    "halo must be at least 0": {"tile": 64, "halo": -1},
    r"halo must be at most half of tile, \(64, 64\), got \(256, 256\)": {"tile": 64},
    "tile must be a whole number": {"tile": 64.0, "halo": 8},
    "output_mode must be one of": {"tile": 64, "halo": 8, "output_mode": "png"},
    "points_per_side must be": {"tile": 64, "halo": 8, "points_per_side": 0},
    "value_range must be": {"tile": 64, "halo": 8, "value_range": "all"},
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_arguments_are_refused(model: mobilesam.MobileSAM, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mobilesam.everything(STRIP, model=model, **WRONG[message])
