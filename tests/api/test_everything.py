"""Everything-mode agrees with MobileSAM in PyTorch and with a simple implementation, and raises errors."""

import json
from collections.abc import Iterable
from itertools import product
from typing import Any

import grids
import numpy as np
import pytest
from golden import DATA, PHOTOS, iou
from PIL import Image

import mobilesam
from mobilesam import SamAutomaticMaskGenerator, kernels
from mobilesam.compat import SamHierarchicalMaskGenerator
from mobilesam.compat.utils import amg
from mobilesam.images.photo import open_rgb
from mobilesam.masks import rle
from mobilesam.masks.objects import Record
from mobilesam.masks.regions import remove_small_regions
from mobilesam.network import mask_decoder as decoder

GOLDEN = json.loads((DATA / "everything.json").read_text())
LOOSE = {"pred_iou_thresh": 0.5, "stability_score_thresh": 0.6}


def check_against_golden(records: list[Record], golden: list[dict[str, Any]]) -> None:
    """Assert that both lists hold the same records in the same order."""
    assert len(records) == len(golden)
    for record, expected in zip(records, golden):
        assert rle.iou(record["segmentation"], expected["segmentation"])[0, 0] >= 0.999
        assert abs(record["area"] - expected["area"]) <= 1e-3 * expected["area"]
        for score in ("predicted_iou", "stability_score"):
            assert abs(record[score] - expected[score]) <= 1e-3
        assert record["crop_box"] == expected["crop_box"]
        np.testing.assert_allclose(record["point_coords"], expected["point_coords"], rtol=0, atol=1e-9)
        check_alone(record)


def check_alone(record: Record) -> None:
    """Assert that area and bbox of a record match its mask, and that the record can be written as JSON."""
    mask = record["segmentation"]
    assert record["area"] == rle.area(mask)
    x, y, width, height = rle.bbox(mask)
    assert record["bbox"] == [x, y, width - 1, height - 1]
    assert json.loads(json.dumps(record)) == record


def run(name: str, model: mobilesam.MobileSAM) -> list[Record]:
    generator = SamAutomaticMaskGenerator(model, **GOLDEN[name]["parameters"], output_mode="coco_rle")
    return generator.generate(PHOTOS[GOLDEN[name]["photo"]])


# Names of the golden cases that are quick. The slower cases include the reference's defaults (a grid of 32×32 points).
SHORT = ("rocket", "coffee, crops and small regions")


@pytest.mark.parametrize("name", grids.first(sorted(GOLDEN, key=lambda name: name not in SHORT), len(SHORT)))
def test_golden_records(name, model):
    check_against_golden(run(name, model), GOLDEN[name]["records"])


@pytest.mark.exhaustive
@pytest.mark.parametrize("isa_name", kernels.isa.available()[1:])
def test_every_isa(isa_name):
    with kernels.isa.use(isa_name):
        check_against_golden(run("rocket", mobilesam.load()), GOLDEN["rocket"]["records"])


def test_any_number_of_threads_and_batch_gives_the_same_bits(model):
    records = [
        SamAutomaticMaskGenerator(mobilesam.load(threads=threads), 5, batch, **LOOSE, output_mode="coco_rle").generate(
            PHOTOS["rocket"]
        )
        for threads, batch in ((1, 64), (2, 1), (3, 7))
    ]
    assert len(records[0]) > 5
    assert records[0] == records[1] == records[2]


# A simple implementation of everything-mode, which computes every candidate mask at full size


def candidates(photo: np.ndarray, model: mobilesam.MobileSAM, crop: list[int], grid: np.ndarray) -> Iterable[dict]:
    """Yield the three masks of every grid point (x and y from 0 to 1) in a crop (x0, y0, x1, y1)."""
    x0, y0, x1, y1 = crop
    embedding = model.encode(np.ascontiguousarray(photo[y0:y1, x0:x1]))
    for point in grid * (x1 - x0, y1 - y0):
        answer = embedding.segment([point])
        logits = kernels.resize_logits(answer.low_res, crop=embedding.input_size, size=(y1 - y0, x1 - x0))
        for score, logit in zip(answer.scores, logits):
            mask = np.zeros(photo.shape[:2], bool)
            mask[y0:y1, x0:x1] = logit > 0
            stability = (logit > 1).sum() / max((logit > -1).sum(), 1)
            yield {"iou": score, "stability": stability, "mask": mask, "point": np.add(point, (x0, y0)), "crop": crop}


def xyxy(mask: np.ndarray) -> list[int]:
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    return [columns[0], rows[0], columns[-1], rows[-1]]


def cut_off(box: list[int], crop: list[int], size: tuple[int, int]) -> bool:
    """Whether a box is within 20 pixels of an edge of the crop that is not an edge of the image."""
    image = [0, 0, size[1], size[0]]
    return any(abs(b - c) <= 20 and not abs(b - i) <= 20 for b, c, i in zip(box, crop, image))


def box_iou(a: list[int], b: list[int]) -> float:
    sides = [max(0, min(a[i + 2], b[i + 2]) - max(a[i], b[i])) for i in (0, 1)]
    both = sides[0] * sides[1]
    either = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b)) - both
    return both / either if either else 0.0


def without_duplicates(found: list[dict], rank: str, threshold: float) -> list[dict]:
    """Non-maximum suppression of the boxes, in descending order of the value of the key `rank`."""
    kept: list[dict] = []
    for one in sorted(found, key=lambda one: -one[rank]):
        if all(box_iou(xyxy(one["mask"]), xyxy(other["mask"])) <= threshold for other in kept):
            kept.append(one)
    return kept


def plainly(photo: np.ndarray, model: mobilesam.MobileSAM, min_area: int) -> list[dict]:
    """Run everything-mode with 4 points per side in the image, 2 in each of four crops, and LOOSE thresholds.

    Returns:
        The masks with their scores, points and crops.
    """
    height, width = photo.shape[:2]
    overlap = int(512 / 1500 * min(height, width))
    crop_w, crop_h = -(-(overlap + width) // 2), -(-(overlap + height) // 2)
    corners = product((0, crop_w - overlap), (0, crop_h - overlap))
    crops = [[0, 0, width, height], *([x, y, min(x + crop_w, width), min(y + crop_h, height)] for x, y in corners)]
    found = []
    for crop, n in zip(crops, (4, 2, 2, 2, 2)):
        grid = np.array([((i + 0.5) / n, (j + 0.5) / n) for j in range(n) for i in range(n)])
        good = [
            one
            for one in candidates(photo, model, crop, grid)
            if one["iou"] > 0.5 and one["stability"] >= 0.6 and not cut_off(xyxy(one["mask"]), crop, (height, width))
        ]
        for one in without_duplicates(good, "iou", 0.7):
            found.append(one | {"rank": 1 / ((crop[2] - crop[0]) * (crop[3] - crop[1]))})
    found = without_duplicates(found, "rank", 0.7)
    if min_area:
        for one in found:
            holes, had_holes = remove_small_regions(one["mask"], min_area, "holes")
            one["mask"], had_islands = remove_small_regions(holes, min_area, "islands")
            one["unchanged"] = not (had_holes or had_islands)
        found = without_duplicates(found, "unchanged", 0.7)
    return found


@pytest.mark.exhaustive
@pytest.mark.parametrize("min_area", [0, 100])
def test_crops_and_small_regions_agree_with_the_simple_implementation(model, min_area):
    with Image.open(PHOTOS["astronaut"]) as image:
        photo = np.asarray(image.resize((401, 300)))
    expected = plainly(photo, model, min_area)
    records = SamAutomaticMaskGenerator(
        model, 4, **LOOSE, crop_n_layers=1, crop_n_points_downscale_factor=2, min_mask_region_area=min_area
    ).generate(photo)
    assert len(records) == len(expected) > 8
    assert len({tuple(record["crop_box"]) for record in records}) > 3
    if min_area:
        unchanged = [one["unchanged"] for one in expected]
        assert unchanged == sorted(unchanged, reverse=True)
        assert 0 < sum(unchanged) < len(unchanged)
    for record, one in zip(records, expected):
        mask = record["segmentation"]
        assert iou(mask[None], one["mask"][None])[0] >= 0.9995
        assert record["predicted_iou"] == one["iou"]
        assert record["stability_score"] == pytest.approx(one["stability"], abs=5e-4)
        np.testing.assert_allclose(record["point_coords"], [one["point"]], rtol=0, atol=1e-9)
        x0, y0, x1, y1 = one["crop"]
        assert record["crop_box"] == [x0, y0, x1 - x0, y1 - y0]


# Other guarantees


@pytest.fixture(scope="module")
def records(model):
    return SamAutomaticMaskGenerator(model, 6, **LOOSE).generate(PHOTOS["rocket"])


def test_the_function_gives_the_records_of_the_class(records):
    """The function uses the packaged model, and gives the same records for an array as the class for a file."""
    again = mobilesam.everything(open_rgb(PHOTOS["rocket"]), points_per_side=6, **LOOSE)
    assert len(again) == len(records) > 5
    for one, other in zip(again, records):
        np.testing.assert_array_equal(one.pop("segmentation"), other["segmentation"])
        assert one == {key: value for key, value in other.items() if key != "segmentation"}


def test_output_modes_hold_the_same_masks(model, records):
    for mode in ("uncompressed_rle", "coco_rle"):
        others = SamAutomaticMaskGenerator(model, 6, **LOOSE, output_mode=mode).generate(PHOTOS["rocket"])
        assert len(others) == len(records)
        for record, other in zip(records, others):
            plain = rle.encode(record["segmentation"])
            assert other["segmentation"] == (rle.compress(plain) if mode == "coco_rle" else plain)
            check_alone(other)


def test_binary_masks_have_the_size_of_the_image(records):
    for record in records:
        assert record["segmentation"].dtype == bool
        assert record["segmentation"].shape == (427, 640)


def test_records_are_yielded_after_each_crop(model):
    generator = SamAutomaticMaskGenerator(model, 3, **LOOSE, crop_n_layers=1, output_mode="coco_rle")
    steps: list[tuple[int, int]] = []
    arrived = []
    for _ in generator.generate_iter(PHOTOS["rocket"], progress=lambda *step: steps.append(step)):
        arrived.append(len(steps))
    assert steps == [(i, 45) for i in range(1, 46)]
    assert set(arrived) <= {9, 18, 27, 36, 45}
    assert len(set(arrived)) > 2
    assert arrived == sorted(arrived)


def test_a_candidate_with_a_low_score_is_never_drawn(model, monkeypatch):
    def draw(self: object, *_: object) -> None:
        raise AssertionError("drawn")

    monkeypatch.setattr(decoder.Candidates, "draw", draw)
    assert SamAutomaticMaskGenerator(model, 2, pred_iou_thresh=2).generate(PHOTOS["rocket"]) == []
    with pytest.raises(AssertionError, match="drawn"):
        SamAutomaticMaskGenerator(model, 2, pred_iou_thresh=0).generate(PHOTOS["rocket"])


def test_no_records_if_no_mask_is_stable_enough(model):
    parameters = {"stability_score_thresh": 1.01, "crop_n_layers": 1, "min_mask_region_area": 5}
    assert SamAutomaticMaskGenerator(model, 1, **parameters).generate(PHOTOS["rocket"]) == []


def test_thresholds_of_zero_let_everything_pass(model):
    """One point gives three masks. With these thresholds, no mask is removed, not even an empty or duplicate mask."""
    off = {"pred_iou_thresh": 0, "stability_score_thresh": 0, "box_nms_thresh": 1}
    records = SamAutomaticMaskGenerator(model, 1, **off, output_mode="coco_rle").generate(PHOTOS["rocket"])
    assert len(records) == 3
    assert [record["point_coords"] for record in records] == [[[320.0, 213.5]]] * 3


def test_point_grids(model):
    grids = [np.array([(0.25, 0.5), (1, 0)]), np.array([(0.5, 0.5)])]
    generator = SamAutomaticMaskGenerator(
        model, None, point_grids=grids, crop_n_layers=1, pred_iou_thresh=0, stability_score_thresh=0
    )
    points = {tuple(*record["point_coords"]) for record in generator.generate(PHOTOS["rocket"])}
    assert points & {(160.0, 213.5), (640.0, 0.0)}
    centres = {((x + width / 2), (y + height / 2)) for x, y, width, height in (
        (0, 0, 393, 286), (248, 0, 392, 286), (0, 141, 393, 286), (248, 141, 392, 286)
    )}  # fmt: skip
    assert points <= {(160.0, 213.5), (640.0, 0.0)} | centres


@pytest.mark.parametrize("size", grids.first([pytest.param((1, 1)), pytest.param((3, 700))]))
def test_tiny_images_with_many_layers(model, size):
    """Some crops of a tiny image have no pixels. The reference implementation fails on such crops."""
    photo = np.full((*size, 3), 127, np.uint8)
    photo[:, ::2] = 255
    generator = SamAutomaticMaskGenerator(model, 1, crop_n_layers=2, pred_iou_thresh=0, stability_score_thresh=0)
    for record in generator.generate(photo):
        assert record["segmentation"].shape == size
        x, y, width, height = record["crop_box"]
        assert width > 0
        assert height > 0
        assert x + width <= size[1]
        assert y + height <= size[0]


REFUSED = {
    "points_per_side must be a whole number of at least 1, got 0": {"points_per_side": 0},
    "points_per_side must be a whole number of at least 1, got 2.5": {"points_per_side": 2.5},
    "give points_per_side or point_grids": {"points_per_side": None},
    "and None for the other": {"point_grids": [np.full((1, 2), 0.5)]},
    "points_per_batch must be a whole number of at least 1, got True": {"points_per_batch": True},
    "pred_iou_thresh must be a number of at least 0, got '0.5'": {"pred_iou_thresh": "0.5"},
    "pred_iou_thresh must be a number of at least 0, got nan": {"pred_iou_thresh": np.nan},
    "stability_score_thresh must be a number of at least 0, got -0.1": {"stability_score_thresh": -0.1},
    "stability_score_offset must be a number of at least 0, got inf": {"stability_score_offset": np.inf},
    "box_nms_thresh must be a number of at least 0, got None": {"box_nms_thresh": None},
    "crop_n_layers must be a whole number of at least 0, got -1": {"crop_n_layers": -1},
    "crop_nms_thresh must be a number of at least 0, got -1": {"crop_nms_thresh": -1},
    "crop_overlap_ratio must be a number from 0 to 1, got 1.5": {"crop_overlap_ratio": 1.5},
    "crop_n_points_downscale_factor must be a whole number of at least 1, got 0": {"crop_n_points_downscale_factor": 0},
    "points_per_side must leave a point per side in each layer: at least 9 with crop_n_layers 2 and "
    "crop_n_points_downscale_factor 3, got 8": {
        "points_per_side": 8, "crop_n_layers": 2, "crop_n_points_downscale_factor": 3,
    },
    "crop_n_layers must be a whole number of at most 8, got 9": {"crop_n_layers": 9},
    "crop_n_layers must be a whole number of at most 8, got 18446744073709551616": {"crop_n_layers": 2**64},
    "points_per_side must be a whole number of at most 1024, got 1025": {"points_per_side": 1025},
    "points_per_batch must be a whole number of at most 2147483647, got 2147483648": {"points_per_batch": 2**31},
    "crop_n_points_downscale_factor must be a whole number of at most 2147483647, got 2147483648": {
        "crop_n_points_downscale_factor": 2**31,
    },
    "min_mask_region_area must be a number of at least 0, got 1000000000": {"min_mask_region_area": 10**400},
    "stability_score_offset must be a number of at least 0, got a int": {"stability_score_offset": 10**5000},
    "point_grids must be a list with one (N, 2) array per layer, got int": {"points_per_side": None, "point_grids": 5},
    "point_grids must hold arrays (N, 2) of numbers, got 'ab'": {"points_per_side": None, "point_grids": ["ab"]},
    "min_mask_region_area must be a number of at least 0, got -5": {"min_mask_region_area": -5},
    "output_mode must be one of binary_mask, uncompressed_rle, coco_rle, got 'png'": {"output_mode": "png"},
    "point_grids must have a grid for each of the 2 layers, got 1": {
        "points_per_side": None, "point_grids": [[(0.5, 0.5)]], "crop_n_layers": 1,
    },
    "point_grids must have x and y from 0 to 1, got (0.5, 3)": {"points_per_side": None, "point_grids": [[(0.5, 3)]]},
    "point_grids must hold arrays (N, 2) of at least one point, got shape (1, 3)": {
        "points_per_side": None, "point_grids": [[(0.5, 0.5, 0.5)]],
    },
    "point_grids must be a list with one (N, 2) array per layer, got shape (4, 2)": {
        "points_per_side": None, "point_grids": np.full((4, 2), 0.5),
    },
}  # fmt: skip


@pytest.mark.parametrize("message", REFUSED)
def test_wrong_parameters_are_refused(model, message):
    with pytest.raises(ValueError) as error:
        SamAutomaticMaskGenerator(model, **REFUSED[message])
    assert message in str(error.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, "8", None, True, 10**400])
def test_a_threshold_of_logits_is_a_finite_number(model, value):
    with pytest.raises(ValueError, match="high_score_thresh must be a finite number, got "):
        SamHierarchicalMaskGenerator(model, high_score_thresh=value)
    assert SamHierarchicalMaskGenerator(model, high_score_thresh=-2).high_score_thresh == -2.0


REFUSED_GRIDS = {
    "n_layers must be a whole number of at most 8, got 9": lambda: amg.generate_crop_boxes((30, 40), 9, 0.3),
    "n_layers must be a whole number of at least 0, got '1'": lambda: amg.generate_crop_boxes((30, 40), "1", 0.3),
    "height must be a whole number of at most": lambda: amg.generate_crop_boxes((2**31, 40), 1, 0.3),
    "overlap_ratio must be a number from 0 to 1, got nan": lambda: amg.generate_crop_boxes((30, 40), 1, np.nan),
    "n_per_side must be a whole number of at most 1024, got 1025": lambda: amg.build_point_grid(1025),
    "n_per_side must be a whole number of at least 1, got 0": lambda: amg.build_all_layer_point_grids(0, 0, 1),
    "n_per_side must leave a point per side in each layer": lambda: amg.build_all_layer_point_grids(4, 3, 2),
    "n_layers must be a whole number of at most 8": lambda: amg.build_all_layer_point_grids(8, 10**9, 1),
    "scale_per_layer must be a whole number": lambda: amg.build_all_layer_point_grids(8, 1, 0),
    "batch_size must be a whole number of at least 1": lambda: next(amg.batch_iterator(0, [1])),
}


@pytest.mark.parametrize("message", REFUSED_GRIDS)
def test_wrong_arguments_of_grids_and_crops_are_refused(message):
    with pytest.raises(ValueError) as error:
        REFUSED_GRIDS[message]()
    assert message in str(error.value)


def test_a_model_of_another_kind_is_refused():
    with pytest.raises(TypeError, match=r"model must be a MobileSAM from mobilesam\.load\(\), got str"):
        SamAutomaticMaskGenerator("mobile_sam.pt")


def test_an_image_is_read_before_the_first_record_is_requested(model, tmp_path):
    with pytest.raises(FileNotFoundError):
        SamAutomaticMaskGenerator(model).generate_iter(tmp_path / "no.png")
