"""Large images in tiles: each answer is that of the tile as a photo, in pixels of the whole image."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import PHOTOS
from PIL import Image

import mobilesam
from mobilesam.api.tiled import TiledEmbedding, TiledSegmentation
from mobilesam.masks import rle

with Image.open(PHOTOS["coffee"]) as photo:
    COFFEE = np.asarray(photo.convert("RGB"))  # 600x400
STRIP = COFFEE[150:210]
SIZE = {"tile": 256, "halo": 64}  # 3×2 tiles
NARROW = {"tile": (60, 150), "halo": (30, 25)}  # 4 tiles of the strip, which are quick to encode
MIDDLE = (192, 0, 576, 320)  # the outer box of tile 1, whose core has x from 256 to 512 and y from 0 to 256


class Counting:
    """A model that notes the shape of each image it encodes."""

    def __init__(self, model: mobilesam.MobileSAM) -> None:
        self._model, self.encoded = model, list[tuple[int, ...]]()

    def encode(self, image: np.ndarray, **options: Any) -> mobilesam.Embedding:
        self.encoded.append(image.shape)
        return self._model.encode(image, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)  # for embeddings, whose model this is


def counted(tiled: TiledEmbedding) -> list[tuple[int, ...]]:
    """The shapes of the images that are encoded from now on."""
    tiled.model = counting = Counting(tiled.model)
    return counting.encoded


def part(box: tuple[int, int, int, int], image: np.ndarray = COFFEE) -> np.ndarray:
    x0, y0, x1, y1 = box
    return image[y0:y1, x0:x1]


def check_same(got: TiledSegmentation, expected: mobilesam.Segmentation, outer: tuple[int, int, int, int]) -> None:
    """The answer must be the bits of the part's answer, and zero outside the part."""
    assert (got.offset, got.size) == (outer[:2], COFFEE.shape[:2])
    np.testing.assert_array_equal(got.scores, expected.scores)
    np.testing.assert_array_equal(got.tile.low_res, expected.low_res)
    assert got.best == expected.best
    whole = np.zeros(COFFEE.shape[:2], bool)
    part(outer, whole)[:] = expected.mask
    assert 0 < whole.sum() < expected.mask.size
    np.testing.assert_array_equal(got.mask, whole)
    assert got.rle == rle.encode(whole)


@pytest.fixture(scope="module")
def tiled(model: mobilesam.MobileSAM) -> TiledEmbedding:
    return model.encode_tiled(COFFEE, **SIZE)


@pytest.fixture(scope="module")
def middle(model: mobilesam.MobileSAM) -> mobilesam.Embedding:
    """The middle tile of the upper row as a photo."""
    return model.encode(part(MIDDLE))


@pytest.fixture(scope="module")
def strip(model: mobilesam.MobileSAM) -> TiledEmbedding:
    """The strip, encoded ahead."""
    done: list[tuple[int, int]] = []
    tiled = model.encode_tiled(STRIP, **NARROW, ahead=True, progress=lambda *now: done.append(now))
    assert done == [(i, 4) for i in range(1, 5)]
    return tiled


PROMPTS: dict[str, dict[str, Any]] = {
    "a point": {"points": [(384, 170)]},
    "points": {"points": [(300, 100), (500.5, 20)], "labels": [1, 0]},
    "a box": {"box": (280, 60, 505, 240)},
    "a box and a point": {"box": (256, 0, 512, 256), "points": [(330, 200)]},
    "a single mask": {"points": [(256, 255.9)], "multimask": False},
}


@pytest.mark.parametrize("name", PROMPTS)
def test_a_prompt_in_one_tile_is_answered_as_on_a_photo(
    tiled: TiledEmbedding, middle: mobilesam.Embedding, name: str
) -> None:
    prompt = PROMPTS[name]
    local = dict(prompt)
    if "points" in prompt:
        local["points"] = np.array(prompt["points"]) - MIDDLE[:2]
    if "box" in prompt:
        local["box"] = np.array(prompt["box"]) - np.tile(MIDDLE[:2], 2)
    check_same(tiled.segment(**prompt), middle.segment(**local), MIDDLE)


def test_each_tile_is_encoded_once_when_it_is_needed(model: mobilesam.MobileSAM) -> None:
    tiled = model.encode_tiled(COFFEE, **SIZE)
    encoded = counted(tiled)
    tiled.segment([(600, 400)])
    assert encoded == [(208, 152, 3)]
    tiled.segment([(520, 260)])
    assert len(encoded) == 1


@pytest.mark.parametrize("point", [(0, 0), (600, 0), (0, 400), (256, 256)])
def test_points_on_edges_are_in_a_tile(tiled: TiledEmbedding, point: tuple[int, int]) -> None:
    answer = tiled.segment([point])
    x0, y0 = answer.offset
    height, width = answer.tile.embedding.original_size
    assert x0 <= point[0] <= x0 + width and y0 <= point[1] <= y0 + height
    assert answer.mask.shape == (400, 600)


SPANNING: dict[str, tuple[dict[str, Any], tuple[int, int, int, int]]] = {
    "a box": ({"box": (200, 100, 420, 300)}, (118, 8, 502, 392)),
    "a large box": ({"box": (20, 30, 580, 390)}, (0, 0, 600, 400)),
    "points": ({"points": [(250, 120), (262, 120)]}, (64, 0, 448, 384)),
    "a box and a point": ({"box": (260, 10, 300, 50), "points": [(250, 20)]}, (83, 0, 467, 384)),
}


@pytest.mark.parametrize("name", SPANNING)
def test_a_prompt_that_spans_tiles_is_answered_on_a_tile_made_for_it(
    model: mobilesam.MobileSAM, tiled: TiledEmbedding, name: str
) -> None:
    prompt, outer = SPANNING[name]
    answer = tiled.segment(**prompt)
    local = {key: np.array(value) - np.resize(outer[:2], np.shape(value)) for key, value in prompt.items()}
    check_same(answer, model.encode(part(outer)).segment(**local), outer)


def test_tiles_made_for_boxes_are_kept_for_a_while(model: mobilesam.MobileSAM) -> None:
    tiled = model.encode_tiled(STRIP, **NARROW)
    encoded = counted(tiled)
    boxes = [(100 + i, 10, 200 + i, 50) for i in range(0, 50, 10)]  # one more than are kept
    for box in (*boxes, boxes[-1], boxes[1]):
        tiled.segment(box=box)
    assert len(encoded) == 5
    tiled.segment(box=boxes[0])
    assert len(encoded) == 6


def test_refine_in_pixels_of_the_whole_image(tiled: TiledEmbedding, middle: mobilesam.Embedding) -> None:
    answer, expected = tiled.segment([(384, 170)]), middle.segment([(192, 170)])
    more = {"points": [(230, 310), (570, 5)], "labels": [0, 1]}  # in the halo
    local = more | {"points": [(38, 310), (378, 5)]}
    check_same(answer.refine(**more), expected.refine(**local), MIDDLE)
    box = answer.refine(box=(270, 70, 500, 230), multimask=True)
    expected_box = expected.refine(box=(78, 70, 308, 230), multimask=True)
    check_same(box, expected_box, MIDDLE)
    check_same(box.refine(**more), expected_box.refine(**local), MIDDLE)
    check_same(answer.refine(), expected.refine(), MIDDLE)


@pytest.mark.parametrize("point", [(191, 170), (384, 321), (577, 5)])
def test_a_point_outside_the_tile_cannot_refine(tiled: TiledEmbedding, point: tuple[int, int]) -> None:
    answer = tiled.segment([(384, 170)])
    with pytest.raises(ValueError, match="points inside the tile that answered, x 192 to 576, y 0 to 320, got"):
        answer.refine([point])


WRONG: dict[str, dict[str, Any]] = {
    "outside the image": {"points": [(601, 5)]},
    "no prompt": {},
    "labels without points": {"labels": [1]},
    "box must": {"box": (1, 2, 3)},
    "a label is 1": {"points": [(5, 5)], "labels": [2]},
}


@pytest.mark.parametrize("message", WRONG)
def test_a_wrong_prompt_is_refused_before_anything_is_encoded(model: mobilesam.MobileSAM, message: str) -> None:
    tiled = model.encode_tiled(COFFEE, **SIZE)
    encoded = counted(tiled)
    with pytest.raises(ValueError, match=message):
        tiled.segment(**WRONG[message])
    assert encoded == []


@pytest.mark.parametrize(
    ("tile", "halo", "message"),
    [
        (256, 129, "halo must be at most half of tile"),
        (256, -1, "halo must be at least 0"),
        (0, 0, "tile must be at least 1"),
        (256.0, 64, "tile must be a whole number"),
        ((256, 100), 60, "halo must be at most half of tile"),
        (256, (64, "1"), "halo must be a whole number"),
    ],
)
def test_a_wrong_tile_or_halo_is_refused(model: mobilesam.MobileSAM, tile: Any, halo: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model.encode_tiled(COFFEE, tile, halo)


def test_a_wrong_image_is_refused(model: mobilesam.MobileSAM, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.tif"):
        model.encode_tiled(tmp_path / "gone.tif")
    with pytest.raises(IndexError, match="tile must be from 0 to 5, got 6"):
        model.encode_tiled(COFFEE, **SIZE).tile(6)


def test_features_in_files_give_the_same_bits(
    model: mobilesam.MobileSAM, strip: TiledEmbedding, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    done: list[tuple[int, int]] = []
    small = model.encode_tiled(STRIP, **NARROW, memory=1)
    small.tile(2)
    assert list(tmp_path.iterdir()) == []
    encoded = counted(small)
    small.encode_all(lambda *now: done.append(now))
    assert (done, len(encoded)) == ([(i, 4) for i in range(2, 5)], 3)
    assert len(list(tmp_path.rglob("*.npy"))) == 3
    for number in (0, 2, 1, 3, 0):
        some, others = small.tile(number), strip.tile(number)
        np.testing.assert_array_equal(some.features, others.features)
        assert not some.features.flags.writeable
        for name in ("original_size", "input_size", "name", "value_range"):
            assert getattr(some, name) == getattr(others, name)
        x0, y0, x1, y1 = small.grid[number].core
        point = [((x0 + x1) / 2, (y0 + y1) / 2)]
        np.testing.assert_array_equal(small.segment(point).tile.low_res, strip.segment(point).tile.low_res)
    small.encode_all()
    assert len(encoded) == 3
    del small, some
    assert list(tmp_path.iterdir()) == []


DEEP = STRIP.astype(np.uint16) * 8  # values up to 2040


@pytest.mark.parametrize("value_range", [(100, 1500), "minmax"])
def test_the_value_range_is_that_of_encode_for_each_tile(model: mobilesam.MobileSAM, value_range: Any) -> None:
    tiled = model.encode_tiled(DEEP, **NARROW, value_range=value_range)
    expected = model.encode(DEEP[:, 125:325], value_range=value_range)
    np.testing.assert_array_equal(tiled.tile(1).features, expected.features)
    assert tiled.tile(1).value_range == expected.value_range == value_range


def test_bands_are_those_of_encode(model: mobilesam.MobileSAM, middle: mobilesam.Embedding) -> None:
    tiled = model.encode_tiled(np.concatenate([COFFEE[:, :, ::-1]] * 2, axis=2), **SIZE, bands=(2, 4, 3))
    np.testing.assert_array_equal(tiled.tile(1).features, middle.features)


def test_an_image_of_one_tile_is_a_photo(model: mobilesam.MobileSAM) -> None:
    tiled = model.encode_tiled(str(PHOTOS["coffee"]))
    answer, expected = tiled.segment([(300, 200)]), model.encode(COFFEE).segment([(300, 200)])
    check_same(answer, expected, (0, 0, 600, 400))
    assert tiled.name == answer.tile.embedding.name == "coffee.png"
    made = answer.as_object("cup")
    assert (made.name, made.file_name, made.score) == ("cup", "coffee.png", float(answer.scores[answer.best]))
    assert made.mask == answer.rle


def test_threads_share_one_image(model: mobilesam.MobileSAM, strip: TiledEmbedding) -> None:
    shared = model.encode_tiled(STRIP, **NARROW, memory=1)
    encoded = counted(shared)
    points = [(70, 30), (220, 30), (400, 40), (580, 10)]

    def answers(order: list[int]) -> dict[int, np.ndarray]:
        return {i: shared.segment([points[i]]).tile.low_res for i in order}

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(answers, ([0, 1, 2, 3], [3, 1, 0, 2])))
    assert len(encoded) == 4
    for i, point in enumerate(points):
        expected = strip.segment([point]).tile.low_res
        assert all(np.array_equal(result[i], expected) for result in results)


def test_what_is_printed_names_the_sizes(tiled: TiledEmbedding) -> None:
    assert repr(tiled) == "<TiledEmbedding of an image of 600x400 pixels in 6 tiles>"
    assert tiled.original_size == (400, 600)
    said = repr(tiled.segment([(384, 170)]))
    assert said.startswith("<TiledSegmentation: <Segmentation: masks of 384x320 pixels, scores ")
    assert said.endswith(" at (192, 0) of an image of 600x400 pixels>")
