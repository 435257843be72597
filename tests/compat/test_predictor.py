"""SamPredictor and sam_model_registry: outputs of MobileSAM's SamPredictor, its notebook's steps, and errors."""

import pickle
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from checkpoint_files import write_torch
from golden import DATA, PHOTOS, PROMPTS, Golden, iou, relative_l2
from PIL import Image
from predictor_prompts import BATCHED, BOX, LOGITS, POINT, SINGLE

from mobilesam import SamAutomaticMaskGenerator, SamPredictor, build_sam_vit_t, sam_model_registry
from mobilesam.checkpoints.errors import CheckpointError
from mobilesam.checkpoints.reader import read
from mobilesam.compat.utils.transforms import ResizeLongestSide

CHELSEA = np.asarray(Image.open(PHOTOS["chelsea"]))  # 451x300 pixels
LABEL = np.array([1])


@pytest.fixture(scope="module")
def predictor(model) -> SamPredictor:
    predictor = SamPredictor(model)
    predictor.set_image(CHELSEA)
    return predictor


@pytest.fixture(scope="module")
def reference() -> dict[str, np.ndarray]:
    with np.load(DATA / "predictor.npz") as arrays:
        return dict(arrays)


def assert_answers(got: tuple, expected: tuple) -> None:
    for one, other in zip(got, expected, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


# Outputs of MobileSAM's own SamPredictor


def check(answers: tuple, name: str, reference: dict[str, np.ndarray]) -> None:
    masks, scores, low_res = answers
    assert (masks.dtype, scores.dtype, low_res.dtype) == (np.bool_, np.float32, np.float32)
    assert masks.shape == (*scores.shape, 300, 451)
    assert low_res.shape == (*scores.shape, 256, 256)
    seen = masks[..., ::4, ::4]
    expected = np.unpackbits(reference[f"{name}/masks"], axis=-1, count=seen.shape[-1]).astype(bool)
    assert seen.shape == expected.shape
    # At most one of the 8475 pixels may differ, because the sign of a logit near 0 depends on rounding.
    assert (seen != expected).sum(axis=(-2, -1)).max() <= 1
    np.testing.assert_allclose(scores, reference[f"{name}/iou"], rtol=0, atol=5e-4)
    assert relative_l2(low_res[..., ::16, ::16], reference[f"{name}/low_res"]) <= 1e-4


@pytest.mark.parametrize("name", SINGLE)
def test_predict(predictor, reference, name):
    check(predictor.predict(**SINGLE[name]), name, reference)


@pytest.mark.parametrize("name", BATCHED)
def test_predict_torch_on_arrays(predictor, reference, name):
    check(predictor.predict_torch(**BATCHED[name]), name, reference)


def test_return_logits(predictor, reference):
    masks, scores, low_res = predictor.predict(**SINGLE["point"])
    logits, *others = predictor.predict(**SINGLE["point"], return_logits=True)
    assert (logits.shape, logits.dtype) == ((3, 300, 451), np.float32)
    np.testing.assert_array_equal(logits > 0, masks)
    assert relative_l2(logits[:, ::16, ::16], reference["point/logits"]) <= 1e-4
    assert_answers(tuple(others), (scores, low_res))
    batch, _, _ = predictor.predict_torch(**BATCHED["boxes"], return_logits=True)
    assert (batch.shape, batch.dtype) == ((3, 1, 300, 451), np.float32)


@pytest.mark.parametrize("photo", PHOTOS)
def test_the_golden_prompts(model, photo):
    predictor, golden = SamPredictor(model), Golden(photo)
    predictor.set_image(np.asarray(Image.open(PHOTOS[photo])))
    golden.check_embedding(predictor.get_image_embedding()[0].transpose(1, 2, 0))
    for name in PROMPTS:
        arguments = golden.prompts[name]
        given = {key: arguments[key] for key in ("point_coords", "point_labels", "box") if key in arguments}
        masks, scores, low_res = predictor.predict(
            **given, multimask_output=bool(arguments.get("multimask_output", True))
        )
        expected = np.unpackbits(arguments["masks"], axis=-1, count=masks.shape[-1]).astype(bool)
        assert iou(masks, expected).min() >= 0.9995
        np.testing.assert_allclose(scores, arguments["iou"], rtol=0, atol=5e-4)
        _, refined_scores, _ = predictor.predict(
            **given, mask_input=low_res[None, scores.argmax()], multimask_output=False
        )
        np.testing.assert_allclose(refined_scores, arguments["refined_iou"], rtol=0, atol=5e-4)


# A script for MobileSAM, with the steps of MobileSAM's notebook


def test_the_notebook(model):
    sam = sam_model_registry["vit_t"](checkpoint=None)
    sam.to(device="cpu")
    assert sam.eval() is sam
    predictor = SamPredictor(sam)
    predictor.set_image(CHELSEA)
    masks, scores, logits = predictor.predict(point_coords=POINT, point_labels=LABEL, multimask_output=True)
    mask_input = logits[np.argmax(scores), :, :]
    masks, _, _ = predictor.predict(
        point_coords=np.array([[220, 140], [420, 40]]),
        point_labels=np.array([1, 0]),
        mask_input=mask_input[None, :, :],
        multimask_output=False,
    )
    assert masks.shape == (1, 300, 451)
    masks, _, _ = predictor.predict(point_coords=None, point_labels=None, box=BOX[None, :], multimask_output=False)
    assert masks.shape == (1, 300, 451)
    boxes = np.array([[99, 54, 351, 258], [9, 5, 135, 125]])
    transformed = predictor.transform.apply_boxes_torch(boxes, CHELSEA.shape[:2])
    batch, scores, logits = predictor.predict_torch(
        point_coords=None, point_labels=None, boxes=transformed, multimask_output=False
    )
    assert (batch.shape, scores.shape, logits.shape) == ((2, 1, 300, 451), (2, 1), (2, 1, 256, 256))
    np.testing.assert_array_equal(batch[0], masks)


class Tensor:
    """The methods of torch.Tensor that the predictor uses, so that the tests do not need PyTorch."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.array(self.array, dtype)

    def reshape(self, *shape: int) -> "Tensor":
        return Tensor(self.array.reshape(*shape))

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape


def test_tensors_give_tensors(model, predictor, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(Tensor=Tensor, from_numpy=Tensor))
    boxes = np.array([[99, 54, 351, 258], [9, 5, 135, 125]])
    transformed = predictor.transform.apply_boxes_torch(Tensor(boxes), CHELSEA.shape[:2])
    assert (type(transformed), transformed.array.dtype) == (Tensor, np.float32)
    answers = predictor.predict_torch(None, None, boxes=transformed, multimask_output=False)
    assert [type(answer) for answer in answers] == [Tensor] * 3
    arrays = predictor.predict_torch(None, None, boxes=transformed.array, multimask_output=False)
    assert_answers(tuple(answer.array for answer in answers), arrays)
    other = SamPredictor(model)
    resized = Tensor(other.transform.apply_image(CHELSEA).transpose(2, 0, 1)[None])
    other.set_torch_image(resized, CHELSEA.shape[:2])
    np.testing.assert_array_equal(other.get_image_embedding(), predictor.get_image_embedding())


def test_attributes_of_the_image(model):
    predictor = SamPredictor(model)
    assert (predictor.model, predictor.is_image_set, predictor.features) == (model, False, None)
    assert predictor.device == "cpu"
    predictor.set_image(CHELSEA)
    assert predictor.is_image_set
    assert (predictor.original_size, predictor.input_size) == ((300, 451), (681, 1024))
    features = predictor.get_image_embedding()
    assert (features.shape, features.dtype) == ((1, 256, 64, 64), np.float32)
    np.testing.assert_array_equal(features[0].transpose(1, 2, 0), predictor.embedding.features)
    np.testing.assert_array_equal(features, predictor.features)
    predictor.reset_image()
    assert not predictor.is_image_set


@pytest.mark.parametrize("wrap", [np.asarray, lambda features: features.astype(np.float64)])
def test_a_stored_embedding_gives_the_same_masks(model, predictor, wrap):
    expected = predictor.predict(POINT, LABEL)
    stored = SamPredictor(model)
    values = {"is_image_set": True, "input_size": predictor.input_size, "original_size": predictor.original_size,
              "features": wrap(predictor.get_image_embedding())}  # fmt: skip
    for name, value in values.items():
        setattr(stored, name, value)
    for got, same in zip(stored.predict(POINT, LABEL), expected, strict=True):
        np.testing.assert_array_equal(got, same)
    np.testing.assert_array_equal(stored.features, predictor.features)
    assert (stored.is_image_set, stored.original_size) == (True, predictor.original_size)
    assert stored.embedding is stored.embedding  # kept, so that further prompts reuse the image's maps
    stored.is_image_set = False
    with pytest.raises(RuntimeError, match="An image must be set"):
        stored.predict(POINT, LABEL)


def test_a_stored_embedding_must_be_whole(model):
    predictor = SamPredictor(model)
    predictor.is_image_set = True
    with pytest.raises(RuntimeError, match="set features, original_size and input_size too"):
        predictor.predict(POINT, LABEL)
    for name, value, message in (
        ("features", np.zeros((256, 64, 64)), "features must be of shape (1, 256, 64, 64), got (256, 64, 64)"),
        ("features", np.full((1, 256, 64, 64), np.nan), "features must be finite"),
        ("original_size", (300,), "original_size must be (height, width), whole numbers, got (300,)"),
        ("original_size", (0, 5), "got (0, 5)"),
        ("input_size", (681, 1025), "input_size must be (height, width), whole numbers of at most 1024"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            setattr(predictor, name, value)
    predictor.features = predictor.original_size = predictor.input_size = None
    assert predictor.features is None


def test_results_equal_those_of_the_embedding(predictor, embedding):
    result = embedding.segment([(220, 140)])
    assert_answers(predictor.predict(POINT, LABEL), (result.masks, result.scores, result.low_res))
    result = embedding.segment([(220, 140)], [0], box=BOX, mask_input=LOGITS, multimask=False)
    given = {"point_coords": POINT, "point_labels": [0], "box": BOX, "mask_input": LOGITS, "multimask_output": False}
    assert_answers(predictor.predict(**given), (result.masks, result.scores, result.low_res))


def test_bgr(model, predictor):
    other = SamPredictor(model)
    other.set_image(CHELSEA[..., ::-1], "BGR")
    np.testing.assert_array_equal(other.get_image_embedding(), predictor.get_image_embedding())


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_set_torch_image(model, predictor, dtype):
    other = SamPredictor(model)
    resized = other.transform.apply_image(CHELSEA).astype(dtype).transpose(2, 0, 1)[None]
    other.set_torch_image(resized, CHELSEA.shape[:2])
    assert (other.original_size, other.input_size) == ((300, 451), (681, 1024))
    assert_answers(other.predict(POINT, LABEL), predictor.predict(POINT, LABEL))


def test_resize_longest_side():
    transform = ResizeLongestSide(512)
    assert transform.get_preprocess_shape(300, 451, 512) == (341, 512)
    assert transform.apply_image(CHELSEA).shape == (341, 512, 3)
    given = np.array([[10, 20], [451, 300]])
    coords = transform.apply_coords(given, (300, 451))
    assert coords.dtype == np.float64
    np.testing.assert_allclose(coords, [[10 * 512 / 451, 20 * 341 / 300], [512, 341]], rtol=1e-15)
    np.testing.assert_array_equal(given, [[10, 20], [451, 300]])
    np.testing.assert_array_equal(transform.apply_boxes(given.reshape(4), (300, 451)), coords.reshape(1, 4))
    assert transform.apply_boxes_torch(given.reshape(1, 4), (300, 451)).dtype == np.float32


def test_threads_predict_while_the_image_changes(model):
    photos = [CHELSEA, CHELSEA[:, ::-1]]
    expected = []
    predictor = SamPredictor(model)
    for photo in photos:
        predictor.set_image(photo)
        expected.append(predictor.predict(POINT, LABEL))
    with ThreadPoolExecutor(2) as pool:
        answers = pool.submit(lambda: [predictor.predict(POINT, LABEL) for _ in range(40)])
        for photo in photos * 2:
            predictor.set_image(photo)
    for _, _, low_res in answers.result():
        assert any((low_res == other).all() for _, _, other in expected)


# Errors

REFUSED = [
    ({"point_coords": POINT}, AssertionError, "point_labels must be supplied if point_coords is supplied."),
    ({"point_coords": POINT[0], "point_labels": LABEL}, ValueError, "point_coords must be of shape (N, 2), got (2,)"),
    ({"point_coords": [[1, 2, 3]], "point_labels": LABEL}, ValueError, "(N, 2), got (1, 3)"),
    ({"point_coords": POINT, "point_labels": [1, 0]}, ValueError, "point_labels must be of shape (1), got (2,)"),
    ({"point_coords": POINT, "point_labels": [2]}, ValueError, "a label is 1 (on the object), 0 (not on it) or -1"),
    ({"point_coords": [["a", "b"]], "point_labels": LABEL}, TypeError, "point_coords must be numbers, got dtype <U1"),
    ({"point_coords": [[np.nan, 2]], "point_labels": LABEL}, ValueError, "point_coords must be finite"),
    ({"box": [1, 2, 3]}, ValueError, "box must be of shape (4), got (3,)"),
    ({"box": [[1, 2, 3, 4], [5, 6, 7, 8]]}, ValueError, "box must be of shape (4), got (2, 4)"),
    ({"mask_input": LOGITS[0]}, ValueError, "mask_input must be of shape (1, 256, 256), got (256, 256)"),
    ({"mask_input": LOGITS + np.inf}, ValueError, "mask_input must be finite"),
]
REFUSED_BATCHES = [
    ({"point_coords": POINT[None]}, AssertionError, "point_labels must be supplied"),
    ({"point_coords": POINT, "point_labels": LABEL}, ValueError, "must be of shape (B, N, 2), got (1, 2)"),
    ({"boxes": BOX}, ValueError, "boxes must be of shape (B, 4), got (4,)"),
    ({"boxes": [BOX] * 3, "mask_input": [LOGITS] * 2}, ValueError, "kind of prompt, got 3 boxes, 2 mask_input"),
]


@pytest.mark.parametrize(("prompt", "error", "message"), REFUSED, ids=[message for *_, message in REFUSED])
def test_a_wrong_prompt_is_refused(predictor, prompt, error, message):
    with pytest.raises(error, match=re.escape(message)):
        predictor.predict(**prompt)


@pytest.mark.parametrize(
    ("prompt", "error", "message"), REFUSED_BATCHES, ids=[message for *_, message in REFUSED_BATCHES]
)
def test_a_wrong_batch_is_refused(predictor, prompt, error, message):
    with pytest.raises(error, match=re.escape(message)):
        predictor.predict_torch(**prompt)


def test_nothing_is_predicted_before_an_image_is_set(model):
    predictor = SamPredictor(model)
    calls = (
        lambda: predictor.predict(POINT, LABEL),
        lambda: predictor.predict_torch(POINT[None], LABEL[None]),
        predictor.get_image_embedding,
        lambda: predictor.embedding,
        lambda: predictor.original_size,
        lambda: predictor.input_size,
    )
    for call in calls:
        with pytest.raises(RuntimeError, match=re.escape("An image must be set with .set_image(...)")):
            call()


def test_a_wrong_image_keeps_the_previous_one(model):
    predictor = SamPredictor(model)
    predictor.set_image(CHELSEA)
    with pytest.raises(AssertionError, match=re.escape("image_format must be in ['RGB', 'BGR'], is HSV.")):
        predictor.set_image(CHELSEA, "HSV")
    with pytest.raises(ValueError, match="must lie in"):
        predictor.set_image(CHELSEA.astype(float))
    for shape in ((3, 681, 1024), (1, 3, 300, 451), (1, 681, 1024, 3), (2, 3, 681, 1024)):
        with pytest.raises(AssertionError, match="set_torch_image input must be 1CHW with long side 1024"):
            predictor.set_torch_image(np.zeros(shape, np.uint8), (300, 451))
    assert predictor.original_size == (300, 451)


def test_an_object_that_is_not_a_model_is_refused():
    with pytest.raises(TypeError, match=re.escape("sam_model must be a MobileSAM from mobilesam.load(), got str")):
        SamPredictor("mobile_sam.pt")


# The registry


def test_the_published_checkpoint_is_accepted_unconverted(tmp_path, model):
    tensors = read(model.checkpoint.path)
    sam = sam_model_registry["vit_t"](checkpoint=str(write_torch(tmp_path / "mobile_sam.pt", tensors)))
    assert (sam.checkpoint.path, sam.checkpoint.metadata["source"]) == (tmp_path / "mobile_sam.pt", "mobile_sam.pt")
    np.testing.assert_array_equal(sam.encode(CHELSEA).features, model.encode(CHELSEA).features)


def test_a_converted_checkpoint_is_accepted(model):
    assert build_sam_vit_t(model.checkpoint.path).checkpoint.path == model.checkpoint.path


def test_another_model_or_file_is_refused(tmp_path):
    with pytest.raises(KeyError, match="vit_h: this package has only vit_t"):
        sam_model_registry["vit_h"]
    with pytest.raises(FileNotFoundError, match="nowhere"):
        build_sam_vit_t(tmp_path / "nowhere.pt")
    with pytest.raises(CheckpointError, match="chelsea"):
        build_sam_vit_t(PHOTOS["chelsea"])


def test_the_model_has_the_methods_that_scripts_call():
    sam = sam_model_registry["vit_t"]()
    assert sam.to("cpu") is sam.to(device="cpu") is sam.cpu() is sam.float() is sam.eval() is sam
    assert (sam.device, sam.mask_threshold, sam.image_format) == ("cpu", 0.0, "RGB")
    for refused in (lambda: sam.to(device="cuda"), sam.cuda, sam.half):
        with pytest.raises(ValueError, match="support"):
            refused()
    assert type(pickle.loads(pickle.dumps(sam))) is type(sam)
    assert SamAutomaticMaskGenerator(sam).predictor.model is sam
