"""Segmenting volumes, with LiteMedSAM's architecture and random weights in its patch embedding."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import related_models

import mobilesam
from mobilesam.api.model import MobileSAM
from mobilesam.architecture import LITE_MEDSAM
from mobilesam.volumes import segment
from mobilesam.volumes.segment import segment_picture, segment_volume

DEPTH, HEIGHT, WIDTH = 9, 40, 56


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> MobileSAM:
    return mobilesam.load(related_models.write(tmp_path_factory.mktemp("lite") / "a.safetensors", LITE_MEDSAM))


@pytest.fixture(scope="module")
def volume() -> np.ndarray:
    noise = np.random.default_rng(0).integers(0, 60, (DEPTH, HEIGHT, WIDTH))
    noise[2:7, 10:30, 20:45] += 150
    return noise.astype(np.uint8)


def by_hand(volume: np.ndarray, box: list[int], model: MobileSAM) -> np.ndarray:
    """The masks of one box, with the public interface and one slice after the other."""
    x0, y0, z0, x1, y1, z1 = box
    middle, scale = int((z1 - z0) / 2 + z0), 256 / max(volume.shape[1:])
    first = [int(v * scale) for v in (x0, y0, x1, y1)]
    masks = np.zeros(volume.shape, bool)

    def mask_of(z: int, canvas_box: list[int]) -> np.ndarray:
        in_pixels = [v / scale for v in canvas_box]
        embedding = model.encode(volume[z])
        return embedding.segment(box=in_pixels, multimask=False).mask

    def following(mask: np.ndarray) -> list[int]:
        height, width = round(mask.shape[0] * scale), round(mask.shape[1] * scale)
        rows = np.flatnonzero(mask.any(1)[(np.arange(height) / scale).astype(int)])
        columns = np.flatnonzero(mask.any(0)[(np.arange(width) / scale).astype(int)])
        if not len(rows):
            return first
        limits = (0, 256)
        box = columns[0] - 3, rows[0] - 3, columns[-1] + 3, rows[-1] + 3
        return [int(np.clip(v, *limits)) for v in box]

    masks[middle] = mask_of(middle, first)
    for way in (range(middle + 1, z1), range(middle - 1, z0, -1)):
        before = masks[middle]
        for z in way:
            before = masks[z] = mask_of(z, following(before))
    return masks


def test_a_box_is_followed_from_slice_to_slice(volume: np.ndarray, model: MobileSAM) -> None:
    box = [18, 8, 1, 48, 32, 8]
    labels, expected = segment_volume(volume, [box], model=model), by_hand(volume, box, model)
    assert labels.dtype == np.uint8 and set(np.unique(labels)) <= {0, 1}
    assert {z for z in range(DEPTH) if labels[z].any()} <= set(range(2, 8))
    # A pixel at the border of a mask, or of the enlarged mask that gives a box, may fall either way.
    assert (labels.astype(bool) != expected).mean() < 0.01
    np.testing.assert_array_equal(segment_volume(volume, box, model=model), labels)


def test_each_slice_is_encoded_once_for_many_boxes(volume, model, monkeypatch) -> None:
    boxes = [[18, 8, 1, 48, 32, 8], [0, 0, 0, 30, 30, 5], [5, 5, 3, 50, 39, 9]]
    alone = [segment_volume(volume, [box], model=model) > 0 for box in boxes]
    encoded, steps, plain = Counter(), [], model.encode

    def encode(image: np.ndarray):
        encoded[image.tobytes()] += 1
        return plain(image)

    monkeypatch.setattr(model, "encode", encode)
    labels = segment_volume(volume, boxes, model=model, progress=lambda done, total: steps.append((done, total)))
    assert set(encoded.values()) == {1}
    assert steps == [(i + 1, len(steps)) for i in range(len(steps))]
    expected = np.zeros_like(labels)
    for number, masks in enumerate(alone, 1):
        expected[masks] = number
    assert (labels != expected).mean() < 0.01  # several boxes are decoded together, which rounds differently


def test_an_empty_mask_starts_again_with_the_first_box(model: MobileSAM) -> None:
    each = segment._Object(1, [10, 8, 0, 40, 30, 6], (HEIGHT, WIDTH), model)
    first = each.box(3)
    each.follow(3, np.zeros((HEIGHT, WIDTH), bool))
    np.testing.assert_array_equal(each.box(4), first)
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[10:20, 0:8] = True
    each.follow(4, mask)
    scale = 256 / WIDTH
    expected = [0, int(10 * scale) - 3, 8 * scale - 1 + 3, 20 * scale - 1 + 3]
    assert np.abs(each.box(5) - expected).max() <= 1
    np.testing.assert_array_equal(each.box(2), first)


def test_the_higher_number_counts_in_any_order() -> None:
    """A slice may be reached by box 2 on the way up before box 1 reaches it on the way down."""
    labels, mask = np.zeros((2, 2), np.uint8), np.array([[True, True], [False, False]])
    segment._label(labels, mask, 2)
    segment._label(labels, np.ones((2, 2), bool), 1)
    assert labels.tolist() == [[2, 2], [1, 1]]


def test_more_than_255_boxes_are_numbered_in_uint16(model: MobileSAM) -> None:
    labels = segment_picture(np.zeros((8, 8), np.uint8), [[0, 0, 8, 8]] * 256, model=model)
    assert labels.dtype == np.uint16


def test_a_volume_of_one_slice_takes_the_boxes_of_a_picture(volume: np.ndarray, model: MobileSAM) -> None:
    labels = segment_volume(volume[4:5], [18, 8, 48, 32], model=model)
    np.testing.assert_array_equal(labels[0] > 0, segment_picture(volume[4], [18, 8, 48, 32], model=model) > 0)


def test_a_picture(volume: np.ndarray, model: MobileSAM) -> None:
    boxes = [[18, 8, 48, 32], [0, 0, 30, 30]]
    labels, embedding = segment_picture(volume[4], boxes, model=model), model.encode(volume[4])
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    for number, answer in enumerate(embedding.segment_many(boxes=boxes), 1):
        expected[answer.mask] = number
    assert (labels != expected).mean() < 0.002
    rgb = np.repeat(volume[4][..., None], 3, axis=2)
    np.testing.assert_array_equal(segment_picture(rgb, boxes, model=model), labels)


def test_other_models_segment_volumes_too(volume: np.ndarray) -> None:
    labels = segment_volume(volume, [18, 8, 3, 48, 32, 6], model=mobilesam.load())
    assert labels[4].any() and not labels[3].any()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((np.zeros((2, 3, 4)), [0, 0, 0, 1, 1, 1]), TypeError, "volume must be a uint8 array"),
        (([[1]], [0, 0, 0, 1, 1, 1]), TypeError, "volume must be a uint8 array"),
        (
            (np.zeros((3, 4), np.uint8), [0, 0, 0, 1, 1, 1]),
            ValueError,
            r"volume must be \(D, H, W\), got shape \(3, 4\)",
        ),
        ((np.zeros((0, 3, 4), np.uint8), [0, 0, 0, 1, 1, 1]), ValueError, r"got shape \(0, 3, 4\)"),
        ((np.zeros((2, 3, 4), np.uint8), [0, 0, 0, 1, 1, 0]), ValueError, r"box 1 .*: expected z0 < z1"),
        ((np.zeros((2, 3, 4), np.uint8), [0, 0, 1, 1]), ValueError, "expected"),
        ((np.zeros((2, 3, 4), np.uint8), []), ValueError, "no boxes"),
        ((np.zeros((2, 3, 4), np.uint8), None), ValueError, "no boxes"),
        ((np.zeros((2, 3, 4), np.uint8), [["a"] * 6]), ValueError, "box 1: expected numbers"),
        ((np.zeros((2, 3, 4), np.uint8), [[0, 0, 0, 1, 1, 1]] * 65536), ValueError, "at most 65535 boxes, got 65536"),
    ],
)
def test_wrong_arguments_are_refused_before_work_starts(arguments, error, message) -> None:
    with pytest.raises(error, match=message) as caught:
        mobilesam.segment_volume(*arguments, model=None)
    assert "\n" not in str(caught.value)


def test_without_the_default_model_the_command_to_download_it_is_named(volume, monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(segment, "_default_model", lambda: mobilesam.load(segment.MODEL))
    with pytest.raises(FileNotFoundError, match="mobilesam download lite_medsam"):
        segment_volume(volume, [18, 8, 1, 48, 32, 8])
