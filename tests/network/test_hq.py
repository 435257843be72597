"""Light HQ-SAM against outputs of the package segment-anything-hq in PyTorch (tests/data/make_hq.py)."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import related_models
from golden import PHOTOS
from hq_prompts import PROMPTS
from processes import output

import mobilesam
from mobilesam import SamPredictor
from mobilesam.api.embedding import Embedding
from mobilesam.api.model import MobileSAM
from mobilesam.architecture import HQ_SAM

GOLDEN = np.load(Path(__file__).parents[1] / "data" / "hq.npz")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return related_models.write(tmp_path_factory.mktemp("hq") / "hq.safetensors", HQ_SAM)


@pytest.fixture(scope="module")
def model(checkpoint: Path) -> MobileSAM:
    return mobilesam.load(checkpoint)


@pytest.fixture(scope="module")
def embedding(model: MobileSAM) -> Embedding:
    return model.encode(PHOTOS["chelsea"])


def assert_close(low_res: np.ndarray, expected: np.ndarray) -> None:
    assert np.abs(low_res[:, ::8, ::8] - expected).max() <= 1e-3 * np.ptp(expected)


def test_the_tensors_tell_the_architecture(model: MobileSAM, embedding: Embedding) -> None:
    assert (model.architecture, model.kind.name) == ("hq_sam", "sam_hq_vit_tiny")
    error = embedding.features.ravel()[::61] - GOLDEN["embedding"]
    assert np.linalg.norm(error) <= 1e-5 * np.linalg.norm(GOLDEN["embedding"])
    assert embedding.hq_features is not None and not embedding.hq_features.flags.writeable


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("multimask", [True, False])
@pytest.mark.parametrize("hq_token_only", [True, False])
def test_masks_and_scores(embedding: Embedding, prompt: str, multimask: bool, hq_token_only: bool) -> None:
    answer = embedding.segment(**PROMPTS[prompt], multimask=multimask, hq_token_only=hq_token_only)
    key = f"{prompt}/{int(multimask)}{int(hq_token_only)}"
    assert answer.low_res.shape == (1, 256, 256)
    assert_close(answer.low_res, GOLDEN[f"{key}/low_res"])
    np.testing.assert_allclose(answer.scores, GOLDEN[f"{key}/iou"], atol=1e-4)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_mask_as_input(embedding: Embedding, prompt: str) -> None:
    first = embedding.segment(**PROMPTS[prompt])
    again = embedding.segment(**PROMPTS[prompt], mask_input=first.low_res, multimask=False)
    assert_close(again.low_res, GOLDEN[f"{prompt}/refined/low_res"])
    more = first.refine()
    np.testing.assert_array_equal(more.low_res, again.low_res)


def test_predictor(model: MobileSAM, embedding: Embedding) -> None:
    predictor = SamPredictor(model)
    predictor.set_image(PHOTOS["chelsea"])
    box = np.array(PROMPTS["box"]["box"])
    for multimask in (True, False):
        for only in (True, False):
            masks, scores, low_res = predictor.predict(box=box, multimask_output=multimask, hq_token_only=only)
            expected = embedding.segment(box=box, multimask=multimask, hq_token_only=only)
            np.testing.assert_array_equal(low_res, expected.low_res)
            np.testing.assert_array_equal(masks, expected.masks)
            np.testing.assert_array_equal(scores, expected.scores)
    predictor.features = predictor.features  # without the HQ features
    with pytest.raises(ValueError, match="no HQ features"):
        predictor.predict(box=box)


def test_many_prompts_and_everything_have_one_mask_for_each(model: MobileSAM, embedding: Embedding) -> None:
    boxes = [(60, 20, 400, 290), (10, 10, 200, 200)]
    for box, answer in zip(boxes, embedding.segment_many(boxes=boxes, hq_token_only=True)):
        np.testing.assert_array_equal(answer.low_res, embedding.segment(box=box, hq_token_only=True).low_res)
    records = mobilesam.everything(
        PHOTOS["chelsea"], model=model, points_per_side=2, pred_iou_thresh=0, stability_score_thresh=0,
        box_nms_thresh=1,
    )  # fmt: skip
    assert 0 < len(records) <= 4


def test_an_embedding_file_keeps_the_hq_features(model: MobileSAM, embedding: Embedding, tmp_path: Path) -> None:
    embedding.save(tmp_path / "a")
    loaded = Embedding.load(tmp_path / "a", model)
    np.testing.assert_array_equal(loaded.hq_features, embedding.hq_features)
    with pytest.raises(ValueError, match="made with the checkpoint"):
        Embedding.load(tmp_path / "a")


def test_a_pickle_keeps_the_hq_features(checkpoint: Path, embedding: Embedding, tmp_path: Path) -> None:
    (tmp_path / "embedding").write_bytes(pickle.dumps(embedding))
    np.save(tmp_path / "expected", embedding.segment([(220, 140)]).low_res)
    code = f"""
import os, pickle
import numpy as np

os.chdir({str(tmp_path)!r})
embedding = pickle.load(open("embedding", "rb"))
assert embedding.model.architecture == "hq_sam" and not embedding.hq_features.flags.writeable
np.testing.assert_array_equal(embedding.segment([(220, 140)]).low_res, np.load("expected.npy"))
"""
    assert output(code) == ""
