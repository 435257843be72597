"""LiteMedSAM: its canvas and modes with random weights, and with the published weights the outputs of PyTorch."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import related_models
from golden import PHOTOS

import mobilesam
from mobilesam import SamPredictor
from mobilesam.api.model import MobileSAM
from mobilesam.architecture import LITE_MEDSAM
from mobilesam.checkpoints.published import is_downloaded
from mobilesam.images.canvas import to_encoder_input
from mobilesam.kernels import reference
from mobilesam.volumes.segment import segment_volume

GOLDEN = np.load(Path(__file__).parents[1] / "data" / "lite_medsam.npz")
IMAGES = ("ct", "mr", "histology")
SIDE = 256


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> MobileSAM:
    """A model with random weights in the patch embedding."""
    return mobilesam.load(related_models.write(tmp_path_factory.mktemp("lite") / "a.safetensors", LITE_MEDSAM))


@pytest.fixture(scope="module")
def published() -> MobileSAM:
    if not is_downloaded("lite_medsam") and not os.environ.get("MOBILESAM_REQUIRE_LITE_MEDSAM"):
        pytest.skip("needs the published weights: mobilesam download lite_medsam")
    return mobilesam.load("lite_medsam")


def image(name: str) -> np.ndarray:
    return GOLDEN[f"{name}/image"]


@pytest.mark.extras
@pytest.mark.parametrize("name", IMAGES)
def test_the_published_weights_give_the_outputs_of_pytorch(published: MobileSAM, name: str) -> None:
    embedding, expected = published.encode(image(name)), GOLDEN[f"{name}/embedding"].astype(np.float32)
    error = np.linalg.norm(embedding.features.ravel()[::61] - expected) / np.linalg.norm(expected)
    assert error <= (1e-4 if name == "ct" else 1e-3)  # the others are stored in float16
    for i, box in enumerate(GOLDEN[f"{name}/boxes"]):
        answer = embedding.segment(box=box)
        low_res = GOLDEN[f"{name}/low_res"][i].astype(np.float32)
        assert np.abs(answer.low_res[0, ::8, ::8] - low_res).max() <= 2e-3 * np.ptp(low_res)
        assert abs(answer.scores[0] - GOLDEN[f"{name}/iou"][i]) <= 1e-3
        mask = np.unpackbits(GOLDEN[f"{name}/masks"][i], axis=-1, count=answer.mask.shape[1]).astype(bool)
        assert (answer.mask & mask).sum() >= 0.999 * (answer.mask | mask).sum()


@pytest.mark.extras
def test_a_volume_with_the_published_weights(published: MobileSAM) -> None:
    volume = GOLDEN["volume/imgs"]
    labels = segment_volume(volume, GOLDEN["volume/boxes"], model=published) > 0
    expected = np.unpackbits(GOLDEN["volume/segs"], axis=-1, count=volume.shape[2]).astype(bool)
    for got, segmented in zip(labels, expected):
        assert (got & segmented).sum() >= 0.998 * (got | segmented).sum()


def test_the_tensors_tell_the_architecture(model: MobileSAM) -> None:
    assert (model.architecture, model.kind.name, model.canvas_size) == ("lite_medsam", "lite_medsam", (SIDE, SIDE))


def test_the_patch_embedding(model: MobileSAM) -> None:
    x = np.random.default_rng(0).normal(size=(8, 8, 3)).astype(np.float32)
    weights = related_models.weights(LITE_MEDSAM)
    layers = [
        (weights[f"image_encoder.patch_embed.seq.{i}.c.weight"].transpose(0, 2, 3, 1), weights[bias])
        for i in (0, 2)
        for bias in [f"image_encoder.patch_embed.seq.{i}.c.bias"]
    ]
    expected = reference.conv2d(reference.gelu(reference.conv2d(x, *layers[0])), *layers[1])
    np.testing.assert_allclose(model.image_encoder.patch_embed(x, 1), expected, atol=1e-5)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("filled", [1, 4, 100, 144, 171, 192])
def test_an_embedding_does_not_depend_on_the_zero_canvas_shortcut(model: MobileSAM, axis: int, filled: int) -> None:
    canvas = np.random.default_rng(axis).normal(size=(SIDE, SIDE, 3)).astype(np.float32)
    (canvas if axis == 0 else canvas.swapaxes(0, 1))[filled:] = 0
    encoder = model.image_encoder
    saved = encoder.partial_canvas[axis](canvas, filled)
    assert saved is not None
    whole = encoder.patch_embed(canvas, encoder.threads)
    for layer in encoder.layers[:2]:
        whole = layer(whole, encoder.threads)
    np.testing.assert_array_equal(saved, whole)


@pytest.mark.parametrize("shape", [(300, 200, 3), (64, 64, 3), (100, 256), (2, 900, 3)])
def test_preprocessing(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(1).integers(30, 200, shape).astype(np.uint8)
    x, (height, width) = to_encoder_input(pixels, LITE_MEDSAM)
    assert (max(height, width), x.shape) == (SIDE, (SIDE, SIDE, 3))
    assert (x[:height, :width].min(), x[:height, :width].max()) == (0, 1)
    assert not x[height:].any() and not x[:, width:].any()


def test_a_uniform_image_has_no_range(model: MobileSAM) -> None:
    answer = model.encode(np.full((40, 40), 7, np.uint8)).segment(box=(5, 5, 20, 20))
    assert np.isfinite(answer.low_res).all()


def test_one_mask_is_the_default(model: MobileSAM) -> None:
    embedding = model.encode(image("mr"))
    assert len(embedding.segment(box=(10, 5, 55, 60)).scores) == 1
    assert len(embedding.segment(box=(10, 5, 55, 60), multimask=True).scores) == 3
    assert len(next(embedding.segment_many(boxes=[(10, 5, 55, 60)])).scores) == 1
    assert len(embedding.segment_rle(box=(10, 5, 55, 60))) == 1
    with pytest.raises(ValueError, match="hq_token_only is for hq_sam, and this model is lite_medsam"):
        embedding.segment(box=(10, 5, 55, 60), hq_token_only=True)


def test_corners_of_boxes_are_truncated_to_whole_canvas_pixels(model: MobileSAM) -> None:
    embedding = model.encode(PHOTOS["chelsea"])  # 451x300: a canvas pixel has 1.76 pixels
    first = embedding.segment(box=(60.0, 20.0, 400.0, 290.0))
    same = embedding.segment(box=(60.5, 20.5, 400.5, 290.5))
    other = embedding.segment(box=(62.0, 22.0, 402.0, 292.0))
    np.testing.assert_array_equal(first.low_res, same.low_res)
    assert not np.array_equal(first.low_res, other.low_res)


def test_masks_have_the_images_size_and_agree_with_the_predictor(model: MobileSAM) -> None:
    embedding, predictor = model.encode(PHOTOS["chelsea"]), SamPredictor(model)
    predictor.set_image(PHOTOS["chelsea"])
    answer = embedding.segment([(220, 140)], box=(60, 20, 400, 290))
    masks, scores, low_res = predictor.predict(np.array([[220, 140]]), np.ones(1), np.array([60, 20, 400, 290]))
    assert answer.masks.shape == (1, 300, 451)
    np.testing.assert_array_equal(masks, answer.masks)
    np.testing.assert_array_equal(low_res, answer.low_res)
    np.testing.assert_array_equal(scores, answer.scores)


def test_everything(model: MobileSAM) -> None:
    records = mobilesam.everything(
        PHOTOS["chelsea"], model=model, points_per_side=2, pred_iou_thresh=0, stability_score_thresh=0,
        box_nms_thresh=1, crop_n_layers=1,
    )  # fmt: skip
    assert records and all(record["segmentation"].shape == (300, 451) for record in records)
