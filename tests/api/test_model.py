"""The public interface: prompts, errors, results, unusual image sizes, immutability, several threads."""

import dataclasses
import json
import pickle
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grids
import numpy as np
import pytest
from golden import PHOTOS
from noise import noise
from PIL import Image
from tolerances import pass_bound

import mobilesam
from mobilesam import kernels
from mobilesam.api import embedding as api_embedding
from mobilesam.api import model as api_model
from mobilesam.api.prompts import check_prompt
from mobilesam.checkpoints import errors
from mobilesam.checkpoints.models import MODELS
from mobilesam.images.canvas import to_encoder_input
from mobilesam.images.geometry import resized_size
from mobilesam.kernels import reference
from mobilesam.masks import rle
from mobilesam.network import mask_decoder
from mobilesam.util.deferred import Once

CHELSEA = PHOTOS["chelsea"]  # 451x300 pixels
LOGITS = np.zeros((256, 256), np.float32)


def assert_same(one: mobilesam.Segmentation, other: mobilesam.Segmentation) -> None:
    np.testing.assert_array_equal(one.low_res, other.low_res)
    np.testing.assert_array_equal(one.scores, other.scores)
    np.testing.assert_array_equal(one.masks, other.masks)


# Errors


NOT_A_PROMPT = [
    ({}, ValueError, "no prompt: give points, a box or a mask_input"),
    ({"labels": [1]}, ValueError, "labels without points"),
    ({"points": (20, 30)}, ValueError, r"points must be (P, 2), one (x, y) per row, got shape (2,)"),
    ({"points": [(20, 30, 1)]}, ValueError, "got shape (1, 3)"),
    ({"points": np.empty((0, 2))}, ValueError, "no prompt"),
    ({"points": np.ones((2, 3, 2))}, ValueError, "got shape (2, 3, 2); for many prompts, call segment_many(points="),
    ({"points": [(1, 2), (3,)]}, ValueError, "points must be a regular array of numbers, got [(1, 2), (3,)]"),
    ({"points": [("a", "b")]}, TypeError, "points must be numbers, got dtype <U1"),
    ({"points": [(1j, 2)]}, TypeError, "points must be numbers, got dtype complex128"),
    ({"points": [(np.nan, 5)]}, ValueError, "point (nan, 5) lies outside the image of 451x300 pixels"),
    ({"points": [(5, np.inf)]}, ValueError, "point (5, inf) lies outside"),
    ({"points": [(5, 5), (451.5, 5)]}, ValueError, "point (451.5, 5) lies outside"),
    ({"points": [(300, 451)]}, ValueError, "point (300, 451) lies outside"),
    ({"points": [(-1, 5)]}, ValueError, "point (-1, 5) lies outside"),
    (
        {"points": [(1, 2)], "labels": [1, 0]},
        ValueError,
        "labels must be (1,), one for each point, got shape (2,)",
    ),
    ({"points": [(1, 2)], "labels": 1}, ValueError, "got shape ()"),
    ({"points": [(1, 2)], "labels": [2]}, ValueError, "a label is 1 (on the object) or 0 (not on it), got 2"),
    ({"points": [(1, 2)], "labels": [0.5]}, ValueError, "got 0.5"),
    ({"points": [(1, 2)], "labels": [np.nan]}, ValueError, "got nan"),
    ({"box": (1, 2, 3)}, ValueError, "box must be (x0, y0, x1, y1), got shape (3,)"),
    ({"box": [(1, 2, 3, 4)]}, ValueError, "got shape (1, 4); for many prompts, call segment_many(boxes=...)"),
    ({"box": (30, 2, 3, 40)}, ValueError, "box must have x0 <= x1 and y0 <= y1, got (30, 2, 3, 40)"),
    ({"box": (500, 2, 600, 40)}, ValueError, "box (500, 2, 600, 40) lies outside the image of 451x300 pixels"),
    ({"box": (1, -9, 50, -1)}, ValueError, "box (1, -9, 50, -1) lies outside the image of 451x300 pixels"),
    ({"box": (1, np.nan, 50, 40)}, ValueError, "box must be finite, got (1, nan, 50, 40)"),
    ({"box": (1, 2, np.inf, 40)}, ValueError, "box must be finite, got (1, 2, inf, 40)"),
    ({"mask_input": LOGITS[:64]}, ValueError, "must be (256, 256) or (1, 256, 256), got shape (64, 256)"),
    ({"mask_input": LOGITS > 0}, ValueError, "must have the image's size (h, w), (300, 451), got (256, 256)"),
    ({"mask_input": LOGITS.astype(np.int32)}, TypeError, "or a boolean mask of the image's size, got dtype int32"),
    ({"mask_input": np.full_like(LOGITS, np.nan)}, ValueError, "mask_input holds NaN or infinity"),
]


class NeverEncodes:
    kind = MODELS["mobile_sam"]

    def encode(self, image, **options):
        raise AssertionError("work began before the prompt was checked")


@pytest.mark.parametrize(("prompt", "error", "message"), NOT_A_PROMPT, ids=[case[2] for case in NOT_A_PROMPT])
def test_a_wrong_prompt_is_refused_before_work_starts(embedding, prompt, error, message):
    calls = (
        embedding.segment,
        lambda **given: mobilesam.segment(CHELSEA, **given, model=NeverEncodes()),
        lambda **given: embedding.segment_many([{"points": [(1, 1)]}, given]),
    )
    for call in calls:
        with pytest.raises(error, match=re.escape(message)) as caught:
            call(**prompt)
        assert "\n" not in str(caught.value)


def test_an_error_in_one_of_many_prompts_names_its_index(embedding):
    with pytest.raises(ValueError, match=r"^prompt 1: no prompt"):
        embedding.segment_many([{"points": [(1, 1)]}, {}])
    with pytest.raises(
        ValueError, match=r"^prompt 0: unknown name 'point', accepted are points, labels, box, mask_input$"
    ):
        embedding.segment_many([{"point": (1, 1)}])
    with pytest.raises(TypeError, match=r"^prompt 0: expected a mapping .*, got tuple$"):
        embedding.segment_many([(1, 1)])


@pytest.mark.parametrize("threads", [0, -1, 10**6, 1.5, "many"])
def test_an_impossible_number_of_threads_is_refused(threads):
    with pytest.raises(ValueError, match="threads"):
        mobilesam.load(threads=threads)


def test_wrong_weights_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        mobilesam.load(tmp_path / "nowhere.safetensors")
    with pytest.raises(errors.CheckpointError, match="chelsea"):
        mobilesam.load(CHELSEA)


def test_the_source_folder_says_how_to_import_the_installed_package(tmp_path):
    (tmp_path / "mobilesam").mkdir()
    for name in ("__init__.py", "version.py"):
        (tmp_path / "mobilesam" / name).write_bytes(Path(mobilesam.__file__).with_name(name).read_bytes())
    command = [sys.executable, "-S", "-c", "import mobilesam"]  # -S hides installed packages
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "pip install -e ." in run.stderr.splitlines()[-1]


# Results


@pytest.mark.parametrize(("multimask", "count"), [(True, 3), (False, 1)])
def test_shapes_and_dtypes(embedding, multimask, count):
    result = embedding.segment([(220, 140)], multimask=multimask)
    assert (result.masks.shape, result.masks.dtype) == ((count, 300, 451), np.bool_)
    assert (result.scores.shape, result.scores.dtype) == ((count,), np.float32)
    assert (result.low_res.shape, result.low_res.dtype) == ((count, 256, 256), np.float32)
    with pytest.raises(ValueError, match="read-only"):
        result.low_res[0] = 0  # read-only, because `masks` is computed from `low_res` later


def test_mask_is_the_best_by_score(embedding):
    low_res = np.full((3, 256, 256), -1, np.float32)
    low_res[1] = 1
    scores = np.array([0.5, 1.02, 0.9], np.float32)
    result = dataclasses.replace(embedding.segment([(220, 140)]), low_res=low_res, scores=scores)
    assert result.best == 1
    assert result.mask.all()
    assert not result.masks[::2].any()


@pytest.mark.parametrize("multimask", [True, False])
def test_a_mask_is_the_same_alone_and_among_all(embedding, multimask):
    alone, among = (embedding.segment([(220, 140)], multimask=multimask) for _ in range(2))
    masks = among.masks
    np.testing.assert_array_equal(alone.mask, masks[alone.best])
    np.testing.assert_array_equal(alone.masks, masks)
    np.testing.assert_array_equal(among.mask, masks[among.best])
    assert alone.mask is alone.mask
    assert alone.masks is alone.masks


def test_embedding(model, embedding):
    assert (embedding.features.shape, embedding.features.dtype) == ((64, 64, 256), np.float32)
    assert (embedding.original_size, embedding.input_size) == ((300, 451), (681, 1024))
    assert embedding.model is model
    np.testing.assert_array_equal(embedding.features, model.image_encoder(to_encoder_input(Image.open(CHELSEA))[0]))


def test_repr_is_one_line(embedding):
    result = embedding.segment([(220, 140)])
    scores = ", ".join(f"{score:.3f}" for score in result.scores)
    assert repr(result) == f"<Segmentation: masks of 451x300 pixels, scores {scores}>"
    assert repr(embedding) == "<Embedding of an image of 451x300 pixels>"


def test_embedding_is_immutable(embedding):
    with pytest.raises(ValueError, match="read-only"):
        embedding.features[0, 0, 0] = 0
    with pytest.raises(dataclasses.FrozenInstanceError):
        embedding.original_size = (1, 1)


def test_a_box_that_ends_outside_the_image_is_clipped_with_a_warning(embedding):
    inside = embedding.segment(box=(0, 20, 451, 300))
    with pytest.warns(UserWarning, match=r"box \(-5, 20, 460\.5, 300\) was clipped to the image of 451x300 pixels"):
        clipped = embedding.segment(box=(-5, 20, 460.5, 300))
    np.testing.assert_array_equal(clipped.low_res, inside.low_res)
    np.testing.assert_array_equal(clipped.prompt.box, (0, 20, 451, 300))


@pytest.mark.parametrize("empty", [np.empty((0, 2)), [], np.empty((0, 2), np.int32)])
def test_an_empty_array_of_points_means_no_points(embedding, empty):
    expected = embedding.segment(box=(60, 20, 430, 290)).low_res
    np.testing.assert_array_equal(embedding.segment(empty, box=(60, 20, 430, 290)).low_res, expected)
    np.testing.assert_array_equal(embedding.segment(empty, [], box=(60, 20, 430, 290)).low_res, expected)


def test_arrays_with_a_row_for_each_prompt(embedding):
    points = np.array([[(220, 140), (420, 40)], [(100, 100), (10, 10)]])
    labels = np.array([[1, 0], [1, 1]])
    boxes = np.array([(60, 20, 430, 290), (0, 0, 200, 200)])
    for arrays in ({"points": points}, {"points": points, "labels": labels}, {"boxes": boxes},
                   {"points": points, "labels": labels, "boxes": boxes}):  # fmt: skip
        answers = list(embedding.segment_many(**arrays))
        assert len(answers) == 2
        for i, answer in enumerate(answers):
            alone = {"box" if name == "boxes" else name: rows[i] for name, rows in arrays.items()}
            np.testing.assert_array_equal(answer.low_res, embedding.segment(**alone).low_res)
    for none in (np.empty((0, 4)), []):
        assert list(embedding.segment_many(boxes=none)) == []


WRONG_ARRAYS = {
    "give prompts, or the arrays points, labels and boxes, but not both": {},
    "but not both": {"prompts": [{"points": [(1, 2)]}], "boxes": [(1, 2, 3, 4)]},
    "points must be (N, K, 2), one row for each prompt, got shape (1, 2)": {"points": [(1, 2)]},
    "boxes must be (N, 4), one row for each prompt, got shape (4,)": {"boxes": (1, 2, 3, 4)},
    "must have one row for each prompt, got 2 points, 1 boxes": {"points": np.ones((2, 1, 2)), "boxes": [(1, 2, 3, 4)]},
    "prompt 1: box (900, 2, 930, 4) lies outside": {"boxes": [(1, 2, 3, 4), (900, 2, 930, 4)]},
    "prompt 0: labels without points": {"labels": [[1]]},
}


@pytest.mark.parametrize("message", WRONG_ARRAYS)
def test_wrong_arrays_are_refused(embedding, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        embedding.segment_many(**WRONG_ARRAYS[message])


def test_a_mask_of_the_photo_is_a_mask_input(model, embedding):
    """The conversion is micro-sam's: longest side 256, threshold 0.5, padding with background, logits ±6.9."""
    first = embedding.segment([(220, 140)])
    given = embedding.segment([(220, 140)], mask_input=first.mask, multimask=False)
    logits = given.prompt.mask_input
    assert sorted(np.unique(logits)) == pytest.approx([-np.log(999), np.log(999)])
    assert (logits[170:] < 0).all()  # 300x451 pixels become 170x256
    small = np.asarray(Image.fromarray(first.mask).resize((256, 170), Image.Resampling.BILINEAR))
    assert (small == (logits[:170] > 0)).mean() > 0.99  # Pillow resizes a mask of mode 1 without interpolation
    np.testing.assert_array_equal(
        given.low_res, embedding.segment([(220, 140)], mask_input=logits, multimask=False).low_res
    )
    assert (given.mask & first.mask).sum() > 0.9 * (given.mask | first.mask).sum()


@pytest.mark.parametrize("size", [(1, 1), (3, 900), (700, 20), (256, 256), (255, 257)])
def test_masks_of_odd_sizes_are_mask_inputs(model, size):
    image = noise(*size)
    for mask in (np.zeros(size, bool), np.ones(size, bool)):
        logits = model.encode(image).segment(mask_input=mask).prompt.mask_input
        height, width = resized_size(*size, 256)
        assert ((logits > 0).sum(), logits.shape) == (height * width * mask.flat[0], (256, 256))


def test_the_name_of_the_file_stays_with_the_embedding(model, tmp_path):
    path = tmp_path / "cat.png"
    path.write_bytes(PHOTOS["chelsea"].read_bytes())
    with path.open("rb") as file:
        named = [model.encode(path), model.encode(str(path)), model.encode(file), model.encode(Image.open(path))]
    for embedding in (*named, pickle.loads(pickle.dumps(named[0]))):
        assert embedding.name == "cat.png"
    assert model.encode(path.read_bytes()).name == ""
    named[0].save(tmp_path / "cat.embedding")
    loaded = mobilesam.Embedding.load(tmp_path / "cat.embedding", model)
    loaded.segment([(220, 140)]).save(tmp_path / "cat.json")
    assert json.loads((tmp_path / "cat.json").read_text())["images"][0]["file_name"] == "cat.png"


def test_labels_default_to_one(embedding):
    points = [(220, 140), (100, 200)]
    assert_same(embedding.segment(points), embedding.segment(points, [1, 1]))
    assert_same(embedding.segment(points, [1, 0]), embedding.segment(np.array(points), np.array([True, False])))
    assert (embedding.segment(points).low_res != embedding.segment(points, [1, 0]).low_res).any()


@pytest.mark.parametrize("point", [(0, 0), (451, 300)])
def test_the_edges_of_the_image_are_inside(embedding, point):
    assert embedding.segment([point]).masks.shape == (3, 300, 451)
    assert embedding.segment(box=(0, 0, *point)).masks.shape == (3, 300, 451)


def test_a_prompt_reaches_the_model_in_pixels_of_the_canvas(model, monkeypatch):
    seen = []
    sparse = model.prompt_encoder.sparse
    monkeypatch.setattr(model.prompt_encoder, "sparse", lambda *given: seen.append(given) or sparse(*given))
    portrait = model.encode(np.zeros((640, 427, 3), np.uint8))  # resized to 683x1024 on the canvas
    portrait.segment([(427, 640), (100, 30)], [1, 0], box=(0, 0, 427, 320))
    points, labels, box = seen[0]
    np.testing.assert_array_equal(points, np.float32([(683, 1024), (100 * (683 / 427), 30 * (1024 / 640))]))
    np.testing.assert_array_equal(labels, [1, 0])
    np.testing.assert_array_equal(box, np.float32([0, 0, 683, 512]))


def test_a_mask_prompt_has_one_meaning(embedding):
    logits = embedding.segment([(220, 140)]).low_res[1:2]
    alone = embedding.segment(mask_input=logits)
    assert_same(alone, embedding.segment(mask_input=logits[0].astype(np.float64)))
    assert (alone.low_res != embedding.segment(mask_input=-logits).low_res).any()


@pytest.mark.parametrize("multimask", [True, False])
def test_many_prompts_give_the_bits_of_each_alone_in_order(embedding, multimask):
    logits = embedding.segment([(220, 140)]).low_res[0]
    prompts = [
        {"points": [(220, 140)]},
        {"box": (60, 20, 430, 290)},
        {"points": [(220, 140), (20, 30)], "labels": [1, 0], "box": (60, 20, 430, 290)},
        {"mask_input": logits},
        {"points": [(20 * i + 10, 150) for i in range(20)]},
        {"points": [(100, 100)], "labels": None, "mask_input": logits},
    ]
    answers = list(embedding.segment_many(iter(prompts), multimask=multimask))
    assert len(answers) == len(prompts)
    for answer, prompt in zip(answers, prompts, strict=True):
        assert_same(answer, embedding.segment(**prompt, multimask=multimask))
    assert list(embedding.segment_many([])) == []


@pytest.mark.parametrize("count", [1, 8, 9, 29, 30, 60])
def test_both_forms_of_the_decoder_agree(embedding, monkeypatch, count):
    """The decoder's low-rank form and plain form give the same logits up to a relative error of 1e-4."""
    points = [(7 + (31 * i) % 440, 5 + (17 * i) % 290) for i in range(count)]
    prompt = check_prompt(embedding.original_size, points, None, None, None)
    monkeypatch.setattr(mask_decoder, "FEW_TOKENS", 99)
    low_rank = embedding.segment(points).low_res
    plain = api_embedding.answer(embedding, prompt, True, once=True).low_res
    assert np.linalg.norm(plain - low_rank) < 1e-4 * np.linalg.norm(low_rank)
    assert (plain != low_rank).any()  # equal logits would mean that one form ran twice


def test_many_prompts_are_answered_a_few_at_a_time(model, embedding, monkeypatch):
    encoded: list[int] = []
    sparse = model.prompt_encoder.sparse
    monkeypatch.setattr(model.prompt_encoder, "sparse", lambda *given: encoded.append(1) or sparse(*given))
    answers = embedding.segment_many([{"points": [(x, 9)]} for x in range(2 * mask_decoder.TOGETHER + 1)])
    assert encoded == []
    taken = [len(encoded) for _ in answers]
    few = mask_decoder.TOGETHER
    assert taken == [*[few] * few, *[2 * few] * few, 2 * few + 1]


@pytest.mark.parametrize("multimask", [True, False])
def test_run_lengths_are_those_of_the_masks(embedding, multimask):
    prompt = {"points": [(220, 140), (400, 40)], "labels": [1, 0], "box": (60, 20, 430, 290), "multimask": multimask}
    expected = embedding.segment(**prompt)
    found = embedding.segment_rle(**prompt)
    assert [one.index for one in found] == list(range(len(expected.masks)))
    assert [one.score for one in found] == expected.scores.tolist()
    assert [one.rle for one in found] == [rle.encode(mask) for mask in expected.masks]
    assert embedding.segment_rle(**prompt, only_best=True) == [found[expected.best]]
    smaller = kernels.resize_logits(expected.low_res, crop=embedding.input_size, size=(67, 100), threshold=0.0)
    assert [one.rle for one in embedding.segment_rle(**prompt, size=(67, 100))] == [rle.encode(one) for one in smaller]


def test_refining_is_the_same_prompt_with_the_best_logits_and_the_new_points(embedding):
    first = embedding.segment([(220, 140)], box=(60, 20, 430, 290))
    best = first.low_res[first.best]
    again = first.refine()
    expected = embedding.segment([(220, 140)], box=(60, 20, 430, 290), mask_input=best, multimask=False)
    assert_same(again, expected)
    more = again.refine([(400, 30)], [0], multimask=True)
    points, labels = [(220, 140), (400, 30)], [1, 0]
    expected = embedding.segment(points, labels, box=(60, 20, 430, 290), mask_input=again.low_res[0])
    assert_same(more, expected)
    boxed = first.refine(box=(50, 10, 440, 295))
    assert_same(boxed, embedding.segment([(220, 140)], box=(50, 10, 440, 295), mask_input=best, multimask=False))
    with pytest.raises(ValueError, match=r"point \(500, 30\) lies outside"):
        first.refine([(500, 30)])
    with pytest.raises(ValueError, match="labels without points"):
        first.refine(labels=[1])


def test_segmenting_a_photo_once_does_not_compute_the_low_rank_constants():
    model = mobilesam.load()
    answer = mobilesam.segment(CHELSEA, [(220, 140)], model=model)
    constants = model.mask_decoder.low_rank.constants
    assert not constants._values
    answer.embedding.segment([(220, 140)])
    assert constants._values


def test_a_path_a_picture_and_an_array_give_the_same(model, embedding):
    expected = mobilesam.segment(CHELSEA, [(220, 140)], model=model)
    kept = embedding.segment([(220, 140)])
    error = np.linalg.norm(kept.low_res - expected.low_res) / np.linalg.norm(kept.low_res)
    assert error <= pass_bound(*[256] * 24)  # two forms of the decoder, of about 24 sums each
    with Image.open(CHELSEA) as picture:
        for image in (str(CHELSEA), picture, np.asarray(picture)):
            assert_same(mobilesam.segment(image, [(220, 140)], model=model), expected)


def test_the_default_model_is_loaded_once(monkeypatch, model):
    loads = []
    monkeypatch.setattr(api_model, "_packaged_model", Once(lambda: loads.append(1) or model))
    for _ in range(2):
        assert mobilesam.segment(np.zeros((8, 8, 3), np.uint8), [(4, 4)]).masks.shape == (3, 8, 8)
    assert loads == [1]


ODD_SIZES = [(1, 1), (7, 2000), (1, 5000), (1023, 1025), (640, 427), (2000, 7), (5000, 3000)]


@pytest.mark.parametrize("size", grids.first([pytest.param(size) for size in ODD_SIZES], 5))
def test_odd_sizes(model, size):
    height, width = size
    rgb = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    embedding = model.encode(rgb)
    assert (embedding.original_size, embedding.input_size) == (size, resized_size(height, width))
    result = embedding.segment([(width / 2, height / 2)], box=(0, 0, width, height))
    assert result.masks.shape == (3, height, width)
    assert np.isfinite(result.low_res).all()
    assert np.isfinite(result.scores).all()
    # Logits are resized from 256x256 to 1024x1024, cropped, and resized to the photo's size. The mask is logit > 0.
    logits = reference.resize_logits(result.low_res, crop=embedding.input_size, size=size)
    decided = abs(logits) > 1e-5 * abs(result.low_res).max()
    np.testing.assert_array_equal(result.masks[decided], logits[decided] > 0)


def test_prompts_in_any_order_give_the_results_of_each_alone(model, embedding):
    """The decoder reuses plans. The results of a prompt must not depend on earlier prompts."""
    prompts = [{"points": [(x, 99)] * n, "multimask": m} for x in (80, 222) for n in (1, 2, 20) for m in (True, False)]
    same = embedding.features, embedding.original_size, embedding.input_size, model
    alone = [mobilesam.Embedding(*same).segment(**prompt) for prompt in prompts]
    assert len({bytes(answer.low_res) for answer in alone}) == len(prompts)
    for order in (range(len(prompts)), [0, 6, 0, 1, 7, 0, 6]):
        for i in order:
            got = embedding.segment(**prompts[i])
            np.testing.assert_array_equal(got.low_res, alone[i].low_res)
            np.testing.assert_array_equal(got.scores, alone[i].scores)
    kept = [(embedding.segment(**prompts[i]), alone[i]) for i in (0, 6, 0)]
    for got, expected in kept:  # later prompts do not overwrite earlier results
        np.testing.assert_array_equal(got.low_res, expected.low_res)
        np.testing.assert_array_equal(got.scores, expected.scores)


def test_many_python_threads_share_a_model(model, embedding):
    prompts = [[(20 + 50 * i, 140)] for i in range(8)]
    expected = [embedding.segment(points) for points in prompts]
    with ThreadPoolExecutor(4) as pool:
        features = pool.submit(lambda: model.encode(CHELSEA).features)
        for result, other in zip(pool.map(embedding.segment, prompts), expected, strict=True):
            assert_same(result, other)
        np.testing.assert_array_equal(features.result(), embedding.features)


def test_overlay_and_save(embedding, tmp_path):
    result = embedding.segment([(220, 140)])
    assert result.overlay(CHELSEA).size == (451, 300)
    result.save(tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as saved:
        np.testing.assert_array_equal(np.asarray(saved), np.where(result.mask, 255, 0))
