"""The hierarchical mode against TinySAM's records, and the adaptive mode against the exact mode."""

import dataclasses
import json
from typing import Any

import grids
import numpy as np
import pytest
import related_models
from golden import DATA, PHOTOS

import mobilesam
from mobilesam import SamAutomaticMaskGenerator, SamHierarchicalMaskGenerator
from mobilesam.api import crop_search, everything
from mobilesam.api.crop_search import Crop, Thresholds
from mobilesam.api.decoding import decoder_image
from mobilesam.architecture import HQ_SAM, LITE_MEDSAM
from mobilesam.images.geometry import resized_size
from mobilesam.images.photo import open_rgb
from mobilesam.masks import rle
from mobilesam.masks.objects import Record

GOLDEN: list[dict[str, Any]] = json.loads((DATA / "hierarchical.json").read_text())
LOOSE = {"points_per_side": 16, "pred_iou_thresh": 0.8, "stability_score_thresh": 0.9, "output_mode": "coco_rle"}


def without(record: Record) -> dict[str, Any]:
    """A record that can be compared with ==."""
    return {key: value for key, value in record.items() if key != "segmentation"} | {
        "segmentation": record["segmentation"]["counts"]
    }


def ious(some: list[Record], others: list[Record]) -> np.ndarray:
    """The IoU (len(some), len(others)) of the masks."""
    return np.array([[rle.iou(a["segmentation"], b["segmentation"])[0, 0] for b in others] for a in some])


# The cases with 16 points per side are quick.
@pytest.mark.parametrize("case", grids.first([2, 3, 0, 1], 2))
def test_hierarchical_records_are_tinysams(model, case: int) -> None:
    golden = GOLDEN[case]
    generator = SamHierarchicalMaskGenerator(model, output_mode="coco_rle", **golden["parameters"])
    records = generator.hierarchical_generate(PHOTOS[golden["photo"]])
    assert len(records) == len(golden["records"])
    for record, expected in zip(records, golden["records"]):
        assert rle.iou(record["segmentation"], rle.compress(expected["segmentation"]))[0, 0] >= 0.999
        for score in ("predicted_iou", "stability_score"):
            assert abs(record[score] - expected[score]) <= 1e-3
        np.testing.assert_allclose(record["point_coords"], expected["point_coords"], rtol=0, atol=1e-9)
        np.testing.assert_allclose(record["bbox"], expected["bbox"], rtol=0, atol=1)


def test_hierarchical_crops(model) -> None:
    """Without a threshold that settles pixels, the records are those of the plain mode at the same points."""
    parameters = {**LOOSE, "points_per_side": 8, "crop_n_layers": 1}
    photo = open_rgb(PHOTOS["rocket"]).crop((0, 0, 640, 424))
    crops = everything.generate_crop_boxes((424, 640), 1, 512 / 1500)
    sizes = [{(y1 - y0, x1 - x0) for (x0, y0, x1, y1), layer in crops if layer == which} for which in (0, 1)]
    grids = []
    for (size,) in sizes:  # all crops of a layer have the same size
        coarse = crop_search.build_point_grid(2) * size[::-1]
        points = np.concatenate([coarse, crop_search._points_around(coarse, 8, size)])
        grids.append(points / size[::-1])
    assert [len(grid) for grid in grids] == [49, 56]  # 8×8 points, without those on the right and lower border
    plain = SamAutomaticMaskGenerator(model, **parameters | {"points_per_side": None}, point_grids=grids)
    done = []
    generator = SamHierarchicalMaskGenerator(model, **parameters, high_score_thresh=1e9)
    records = list(generator.generate_iter(photo, progress=lambda *now: done.append(now)))
    assert done[-1] == (5 * 64, 5 * 64)
    expected = plain.generate(photo)
    assert len(records) == len(expected) > 10
    assert [record["crop_box"] for record in records] == [record["crop_box"] for record in expected]
    assert (np.diagonal(ious(records, expected)) >= 0.99).all()
    settled = SamHierarchicalMaskGenerator(model, **parameters, high_score_thresh=2.0).generate(photo)
    assert len(settled) <= len(records)


@pytest.mark.parametrize("value", ["8", None, True])
def test_a_wrong_high_score_is_refused(model, value: object) -> None:
    with pytest.raises(ValueError, match="high_score_thresh must be a finite number"):
        SamHierarchicalMaskGenerator(model, high_score_thresh=value)


def test_a_preview_is_every_fourth_pixel(model, embedding) -> None:
    """In the low-rank form, in the plain form, and with several prompts together."""
    decoder, label = model.mask_decoder, np.ones(1, np.int32)
    points = [np.array([[x, 400.0]], np.float32) for x in (100, 500, 900)]
    prompts = [model.prompt_encoder.sparse(point, label, None) for point in points]
    prompts.append(np.concatenate([*prompts, *prompts, *prompts]))  # too many tokens for the low-rank form
    for candidates in decoder.candidates(decoder_image(model.network, embedding), prompts, multimask=True):
        low_res, preview = candidates.draw(), candidates.preview()
        assert preview.shape == (3, 64, 64)
        assert np.abs(preview - low_res[:, 1::4, 1::4]).max() <= 1e-5 * np.abs(low_res).max()
        for lines in (1, 43):
            assert np.array_equal(candidates.draw([0, 2], lines), low_res[[0, 2], : 4 * lines])
            assert np.array_equal(candidates.preview(lines), preview[:, :lines])


@pytest.mark.parametrize("size", [(64, 48), (48, 64), (640, 3), (3, 640), (301, 451), (1199, 1600)])
def test_masks_need_only_the_lines_of_the_photo(model, embedding, size: tuple[int, int]) -> None:
    """The runs of a mask are the same from the lines that the photo fills as from all lines."""
    filled = resized_size(*size)
    changed = dataclasses.replace(embedding, original_size=size, input_size=filled)
    crop = Crop(changed, (0, 0, size[1], size[0]), size, Thresholds(0.0, 0.0, 1.0, 0.7), 64)
    rows = 4 * crop.lines
    assert filled[0] / 4 <= rows <= filled[0] / 4 + 5
    low_res = np.random.default_rng(size).normal(0, 4, (2, 256, 256)).astype(np.float32)
    runs, counts = crop.runs(np.ascontiguousarray(low_res[:, :rows]), 0.5, 1.0)
    low_res[:, rows:] = np.nan
    all_runs, all_counts = crop.runs(low_res, 0.5, 1.0)
    assert np.array_equal(counts, all_counts)
    assert all(map(np.array_equal, runs, all_runs))


def test_adaptive_records_are_masks_of_the_exact_mode(model) -> None:
    exact = SamAutomaticMaskGenerator(model, **LOOSE).generate(PHOTOS["rocket"])
    every = SamAutomaticMaskGenerator(model, **LOOSE, box_nms_thresh=1).generate(PHOTOS["rocket"])
    known = {json.dumps(without(record)) for record in every}
    records = mobilesam.everything(PHOTOS["rocket"], model=model, **LOOSE, adaptive=True)
    assert {json.dumps(without(record)) for record in records} <= known
    found = (ious(exact, records) >= 0.9).any(axis=1)
    assert found.mean() >= 0.9
    scores = [record["predicted_iou"] for record in records]
    assert scores == sorted(scores, reverse=True)


def test_adaptive_decodes_and_draws_less(model, monkeypatch) -> None:
    from mobilesam.network.answers import Candidates

    drawn, asked = [], []
    draw, decode = Candidates.draw, type(model.mask_decoder).candidates

    def counted(self, image, prompts, **mode):
        for candidates in decode(self, image, prompts, **mode):
            asked.append(1)
            yield candidates

    def draw_and_count(self, wanted, lines):
        drawn.extend(wanted)
        return draw(self, wanted, lines)

    monkeypatch.setattr(Candidates, "draw", draw_and_count)
    monkeypatch.setattr(type(model.mask_decoder), "candidates", counted)
    SamAutomaticMaskGenerator(model, **LOOSE).generate(PHOTOS["chelsea"])
    exact = len(asked), len(drawn)
    asked.clear(), drawn.clear()
    SamAutomaticMaskGenerator(model, **LOOSE, adaptive=True).generate(PHOTOS["chelsea"])
    assert len(asked) < exact[0] == 256
    assert len(drawn) < exact[1] / 2


def test_adaptive_gives_the_same_bits_for_any_threads_and_batch() -> None:
    results = []
    for threads, batch in ((1, 64), (2, 1), (3, 7)):
        generator = SamAutomaticMaskGenerator(
            mobilesam.load(threads=threads), points_per_batch=batch, adaptive=True, **LOOSE | {"points_per_side": 8}
        )
        results.append(generator.generate(PHOTOS["rocket"]))
    assert len(results[0]) > 3
    assert results[0] == results[1] == results[2]


def test_progress_counts_settled_points_too(model) -> None:
    for generator in (
        SamAutomaticMaskGenerator(model, adaptive=True, **LOOSE),
        SamHierarchicalMaskGenerator(model, high_score_thresh=0.0, **LOOSE),
    ):
        done = []
        list(generator.generate_iter(PHOTOS["chelsea"], progress=lambda *now, done=done: done.append(now)))
        assert done == [(i + 1, 256) for i in range(256)]


def test_points_without_a_grid_are_all_asked(model) -> None:
    grid = crop_search.build_point_grid(5)
    parameters = {**LOOSE, "points_per_side": None, "point_grids": [grid], "adaptive": True}
    records = mobilesam.everything(PHOTOS["chelsea"], model=model, **parameters)
    exact = mobilesam.everything(PHOTOS["chelsea"], model=model, **parameters | {"adaptive": False})
    assert records and (ious(exact, records) >= 0.9).any(axis=1).mean() >= 0.9


def test_thresholds_of_zero_keep_every_mask_that_no_other_duplicates(model) -> None:
    zero = {"pred_iou_thresh": 0, "stability_score_thresh": 0, "box_nms_thresh": 1.0, "output_mode": "coco_rle"}
    exact, adaptive = (
        mobilesam.everything(PHOTOS["chelsea"], model=model, points_per_side=3, **zero, adaptive=adaptive)
        for adaptive in (False, True)
    )
    assert len(exact) == len(adaptive)


def test_a_known_embedding_is_not_computed_again(model, embedding, monkeypatch) -> None:
    generator = SamAutomaticMaskGenerator(model, **LOOSE | {"points_per_side": 4})
    expected = generator.generate(PHOTOS["chelsea"])
    monkeypatch.setattr(model, "encode", None)
    assert list(generator.generate_iter(PHOTOS["chelsea"], embedding=embedding)) == expected
    with pytest.raises(ValueError, match="embedding: expected an image of 640x427 pixels"):
        generator.generate_iter(PHOTOS["rocket"], embedding=embedding)


def test_drafts_come_before_the_records(model) -> None:
    generator, order = SamAutomaticMaskGenerator(model, adaptive=True, **LOOSE), []
    drafts: list[Record] = []
    records = generator.generate_iter(
        open_rgb(PHOTOS["rocket"]), progress=lambda done, total: order.append(done), draft=drafts.append
    )
    records = list(records)
    assert len(records) / 2 < len(drafts) < 3 * len(records)
    assert (ious(records, drafts).max(axis=1) >= 0.5).all()
    boxes = np.array([draft["bbox"] for draft in drafts])
    assert len(np.unique(boxes, axis=0)) == len(boxes)


@pytest.mark.parametrize("kind", [LITE_MEDSAM, HQ_SAM], ids=lambda kind: kind.name)
def test_other_architectures(kind, tmp_path) -> None:
    other = mobilesam.load(related_models.write(tmp_path / "a.safetensors", kind))
    zero = {"points_per_side": 4, "pred_iou_thresh": 0, "stability_score_thresh": 0, "output_mode": "coco_rle"}
    exact, adaptive = (
        mobilesam.everything(PHOTOS["chelsea"], model=other, **zero, adaptive=adaptive) for adaptive in (False, True)
    )
    assert exact
    assert (ious(exact, adaptive) >= 0.9).any(axis=1).mean() >= 0.8
