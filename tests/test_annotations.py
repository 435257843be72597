"""Records as a label map, a picture and COCO's JSON."""

import contextlib
import io
import json

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from mobilesam import annotations, rle
from mobilesam.annotations import coco, draw_labels, label_map

SIZE = (40, 60)


def record(mask: np.ndarray, **changes: object) -> dict:
    x, y, width, height = rle.bbox(rle.encode(mask))
    return {
        "segmentation": mask,
        "area": int(mask.sum()),
        "bbox": [x, y, width - 1, height - 1],
        "predicted_iou": 0.9,
        "point_coords": [[1.5, 2.5]],
        "stability_score": 0.97,
        "crop_box": [0, 0, 60, 40],
        **changes,
    }


def box(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[y0:y1, x0:x1] = True
    return mask


MASKS = [box(10, 5, 20, 15), box(0, 0, 60, 30), box(12, 7, 14, 9), box(15, 10, 45, 35)]


@pytest.mark.parametrize("form", [lambda mask: mask, rle.encode, lambda mask: rle.compress(rle.encode(mask))])
def test_smaller_masks_lie_on_larger_ones(form):
    labels = label_map([record(mask, segmentation=form(mask)) for mask in MASKS], SIZE)
    assert labels.dtype == np.uint16
    expected = np.zeros(SIZE, int)
    for number in (2, 4, 1, 3):  # by falling area
        expected[MASKS[number - 1]] = number
    np.testing.assert_array_equal(labels, expected)


def test_no_mask_and_too_many():
    assert not label_map([], SIZE).any()
    with pytest.raises(ValueError, match="holds at most 65535 masks, got 65536"):
        label_map([record(MASKS[0])] * 65536, SIZE)


def test_the_picture_is_the_photo_tinted_inside_and_lined_at_the_ends():
    labels = label_map([record(mask) for mask in MASKS], SIZE)
    photo = Image.new("RGB", SIZE[::-1], (100, 100, 100))
    drawn = np.asarray(draw_labels(photo, labels)).astype(int)
    assert (drawn[36:] == 100).all()  # no mask
    tints = [drawn[at] for at in ((6, 11), (2, 50), (8, 13), (20, 30))]
    assert [labels[at] for at in ((6, 11), (2, 50), (8, 13), (20, 30))] == [1, 2, 3, 4]
    for i, tint in enumerate(tints):
        assert all(abs(tint - other).sum() > 50 for other in tints[:i])
        assert abs(tint - 100).max() < 160 * annotations.FILL_ALPHA  # the photo is seen through
    line = (drawn == annotations.LINE_COLOUR).all(axis=2)
    expected = np.zeros(SIZE, bool)
    expected[1:] |= labels[1:] != labels[:-1]
    expected[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    np.testing.assert_array_equal(line, expected)
    assert (np.asarray(photo) == 100).all()


@pytest.mark.parametrize("side", [100, 3000])
def test_bands_leave_no_seam(side, monkeypatch):
    """At 3000 pixels lines are thick."""
    rng = np.random.default_rng(0)
    labels = np.kron(rng.integers(0, 9, (20, 10)), np.ones((4, side // 10), int)).astype(np.uint16)
    photo = Image.fromarray(rng.integers(0, 256, (*labels.shape, 3), np.uint8))
    whole = np.asarray(draw_labels(photo, labels))
    monkeypatch.setattr(annotations, "BAND", 7)
    np.testing.assert_array_equal(np.asarray(draw_labels(photo, labels)), whole)


def test_a_photo_of_another_size_is_refused():
    with pytest.raises(ValueError, match="the labels are 60x40 but the photo is 40x60 pixels"):
        draw_labels(Image.new("RGB", SIZE), label_map([], SIZE))


def test_coco_reads_the_annotations(tmp_path):
    records = [record(mask) for mask in MASKS]
    records.append(record(np.zeros(SIZE, bool), stability_score=float("nan"), bbox=[0, 0, 0, 0]))
    data = coco(records, SIZE, "photo.jpg", {"points_per_side": 32})
    assert data["info"]["parameters"] == {"points_per_side": 32}
    file = tmp_path / "photo.json"
    file.write_text(json.dumps(data, allow_nan=False))
    with contextlib.redirect_stdout(io.StringIO()):
        loaded = COCO(file)
    assert loaded.loadImgs(1)[0] == {"id": 1, "file_name": "photo.jpg", "width": 60, "height": 40}
    for i, one in enumerate(records, 1):
        annotation = loaded.loadAnns(i)[0]
        np.testing.assert_array_equal(loaded.annToMask(annotation), one["segmentation"])
        assert annotation["area"] == one["area"]
        x, y, width, height = one["bbox"]
        assert annotation["bbox"] == ([x, y, width + 1, height + 1] if one["area"] else [0, 0, 0, 0])
        assert annotation["stability_score"] == (0.97 if one["area"] else None)
        assert {annotation[key] for key in ("image_id", "category_id")} == {1}
        for key in ("predicted_iou", "point_coords", "crop_box"):
            assert annotation[key] == one[key]
    assert len(loaded.getAnnIds(imgIds=1, catIds=1)) == len(records)
