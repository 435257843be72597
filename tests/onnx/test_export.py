"""In ONNX Runtime, the exported encoder and decoder give the same masks as this package."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import related_models
from golden import PHOTOS, iou, relative_l2

onnxruntime = pytest.importorskip("onnxruntime", reason="the extra test-all is not installed")
import onnx  # noqa: E402
from onnx import TensorProto, numpy_helper  # noqa: E402

import mobilesam  # noqa: E402
from mobilesam import kernels  # noqa: E402
from mobilesam.architecture import ARCHITECTURES, MOBILE_SAM, Architecture  # noqa: E402
from mobilesam.checkpoints.fused import open_checkpoint  # noqa: E402
from mobilesam.checkpoints.reader import convert  # noqa: E402
from mobilesam.images.canvas import to_encoder_input  # noqa: E402
from mobilesam.images.geometry import resized_size, to_canvas  # noqa: E402
from mobilesam.images.photo import open_rgb  # noqa: E402
from mobilesam.onnx import export  # noqa: E402
from mobilesam.onnx.decoder import MASK_COUNTS, build_decoder  # noqa: E402
from mobilesam.onnx.export import export_onnx  # noqa: E402

pytestmark = pytest.mark.extras

LOGIT_ERROR, SCORE_ERROR = 1e-3, 5e-4
NO_MASK = np.zeros((1, 1, 256, 256), np.float32)


def planes(x: np.ndarray) -> np.ndarray:
    """The array (1, C, H, W) of an array (H, W, C)."""
    return np.ascontiguousarray(x.transpose(2, 0, 1)[None])


class Decoder:
    """An exported decoder, applied to the features of one photo."""

    def __init__(self, model: bytes, embedding: mobilesam.Embedding) -> None:
        self.session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        self.features = {"image_embeddings": planes(embedding.features)}
        if embedding.hq_features is not None:
            self.features["hq_features"] = planes(embedding.hq_features)

    def __call__(
        self,
        coords: Sequence[Sequence[float]],
        labels: Sequence[float],
        size: tuple[int, int],
        mask: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Run the decoder for one prompt.

        Args:
            coords: x and y of the points, in pixels of the canvas.
            labels: Label of each point.
            size: Height and width of the photo.
            mask: Logits (256, 256) of a mask prompt.

        Returns:
            Logits at the photo's size (C, h, w), scores (C,), and logits (C, 256, 256).
        """
        outputs = self.session.run(
            ["masks", "iou_predictions", "low_res_masks"],
            {
                **self.features,
                "point_coords": np.array(coords, np.float32).reshape(1, -1, 2),
                "point_labels": np.array(labels, np.float32).reshape(1, -1),
                "mask_input": NO_MASK if mask is None else mask[None, None],
                "has_mask_input": np.array([mask is not None], np.float32),
                "orig_im_size": np.array(size, np.float32),
            },
        )
        return outputs[0][0], outputs[1][0], outputs[2][0]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return export_onnx(open_checkpoint(), tmp_path_factory.mktemp("onnx"), mask_rule="all")


@pytest.fixture(scope="module")
def all_masks(pair: tuple[Path, Path], embedding: mobilesam.Embedding) -> Decoder:
    return Decoder(pair[1].read_bytes(), embedding)


@pytest.fixture(scope="module", params=["single", "multi"])
def some_masks(request: pytest.FixtureRequest, embedding: mobilesam.Embedding) -> tuple[str, Decoder]:
    model = build_decoder(open_checkpoint(), request.param)
    return request.param, Decoder(model.SerializeToString(), embedding)


def test_encoder_gives_our_features(pair: tuple[Path, Path], embedding: mobilesam.Embedding) -> None:
    x, _ = to_encoder_input(open_rgb(PHOTOS["chelsea"]))
    session = onnxruntime.InferenceSession(pair[0], providers=["CPUExecutionProvider"])
    (features,) = session.run(["output"], {"input": planes(x)})
    assert relative_l2(features[0].transpose(1, 2, 0), embedding.features) <= 1e-5


POINT, BACKGROUND, BOX = (220, 140), (30, 40), (90, 20, 400, 290)
PROMPTS = {
    "point": {"points": [POINT], "labels": [1]},
    "points": {"points": [POINT, BACKGROUND, (300, 200)], "labels": [1, 0, 1]},
    "box": {"box": BOX},
    "points and box": {"points": [POINT, BACKGROUND], "labels": [1, 0], "box": BOX},
    "24 points": {"points": [(10 * i, 5 * i) for i in range(1, 25)], "labels": [1, 0] * 12},
}


def coords_and_labels(embedding: mobilesam.Embedding, prompt: str) -> tuple[np.ndarray, list[int]]:
    """The decoder's inputs for a prompt: point_coords (N, 2) and point_labels (N)."""
    given, size, kind = PROMPTS[prompt], embedding.original_size, embedding.model.kind.architecture
    points = to_canvas(np.array(given.get("points", []), float).reshape(-1, 2), size, kind)
    if "box" not in given:
        return np.concatenate([points, np.zeros((1, 2))]), [*given["labels"], -1]
    corners = to_canvas(np.array(given["box"], float).reshape(2, 2), size, kind, corners=True)
    return np.concatenate([points, corners]), [*given.get("labels", []), 2, 3]


@pytest.mark.parametrize("refine", [False, True], ids=["", "refined"])
@pytest.mark.parametrize("prompt", PROMPTS)
def test_decoder_gives_our_masks(all_masks: Decoder, embedding: mobilesam.Embedding, prompt: str, refine: bool) -> None:
    mask = embedding.segment(**PROMPTS[prompt]).low_res[0] if refine else None
    three = embedding.segment(**PROMPTS[prompt], mask_input=mask)
    one = embedding.segment(**PROMPTS[prompt], mask_input=mask, multimask=False)
    logits, scores, low_res = all_masks(*coords_and_labels(embedding, prompt), embedding.original_size, mask)

    np.testing.assert_allclose(scores, [*one.scores, *three.scores], rtol=0, atol=SCORE_ERROR)
    np.testing.assert_allclose(low_res, [*one.low_res, *three.low_res], rtol=0, atol=LOGIT_ERROR)
    assert iou(logits > 0, np.concatenate([one.masks, three.masks])).min() >= 0.9995


def test_a_mask_alone_is_a_prompt(all_masks: Decoder, embedding: mobilesam.Embedding) -> None:
    mask = embedding.segment([POINT]).low_res[0]
    expected = embedding.segment(mask_input=mask).low_res
    _, _, low_res = all_masks([], [], embedding.original_size, mask)
    np.testing.assert_allclose(low_res[1:], expected, rtol=0, atol=LOGIT_ERROR)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_mask_rules(all_masks: Decoder, some_masks: tuple[str, Decoder], count: int) -> None:
    """The rule "multi" gives the masks of tokens 1 to 3, and the rule "single" gives one mask.

    For one point and the padding point, "single" gives the best mask of tokens 1 to 3, for more points that of token 0.
    """
    rule, decoder = some_masks
    points = [(500, 320), (560, 300), (600, 400)][:count]
    prompt = [*points, (0, 0)], [1] * count + [-1]
    _, scores, low_res = all_masks(*prompt, (300, 451))
    best = 1 + int(scores[1:].argmax()) if count + 1 < 2.5 else 0
    expected = [1, 2, 3] if rule == "multi" else [best]
    logits, got_scores, got_low_res = decoder(*prompt, (300, 451))
    assert logits.shape == (len(expected), 300, 451)
    np.testing.assert_array_equal(got_scores, scores[expected])
    np.testing.assert_allclose(got_low_res, low_res[expected], rtol=0, atol=LOGIT_ERROR)


def check_masks_in_full(decoder: Decoder, kind: Architecture, size: tuple[int, int]) -> None:
    logits, _, low_res = decoder([(100, 60), (0, 0)], [1, -1], size)
    side = kind.img_size
    expected = kernels.resize_logits(low_res, crop=resized_size(*size, side), size=size, padded=(side, side))
    # There are two resizes along two axes. The error of a coordinate is at most 2·2⁻²⁴·2048 pixels.
    # Neighbouring pixels differ by at most the range of the logits.
    bound = 4 * 2 * 2.0**-24 * 2048 * np.ptp(low_res)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=bound)


ODD_SIZES = [(1, 1), (7, 2000), (2000, 7), (1023, 1025), (1, 3000)]


@pytest.mark.parametrize("size", ODD_SIZES)
def test_masks_at_odd_sizes(all_masks: Decoder, size: tuple[int, int]) -> None:
    check_masks_in_full(all_masks, MOBILE_SAM, size)


@pytest.fixture(scope="module", params=["lite_medsam", "hq_sam"])
def related(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> mobilesam.Embedding:
    """The embedding of a model of another architecture."""
    file = tmp_path_factory.mktemp("onnx") / "weights.safetensors"
    return mobilesam.load(related_models.write(file, ARCHITECTURES[request.param])).encode(PHOTOS["chelsea"])


@pytest.fixture(scope="module")
def related_decoders(related: mobilesam.Embedding) -> dict[str, Decoder]:
    """The exported decoder for each mask rule."""
    tensors = dict(related.model.checkpoint)
    models = {rule: build_decoder(tensors, rule) for rule in MASK_COUNTS}
    for model in models.values():
        onnx.checker.check_model(model, full_check=True)
    return {rule: Decoder(model.SerializeToString(), related) for rule, model in models.items()}


def test_encoder_of_a_related_model(related: mobilesam.Embedding, tmp_path: Path) -> None:
    kind = related.model.kind.architecture
    encoder, _ = export_onnx(dict(related.model.checkpoint), tmp_path)
    onnx.checker.check_model(encoder, full_check=True)
    session = onnxruntime.InferenceSession(encoder, providers=["CPUExecutionProvider"])
    x, _ = to_encoder_input(open_rgb(PHOTOS["chelsea"]), kind)
    features, *hq_features = session.run(None, {"input": planes(x)})
    assert relative_l2(features, planes(related.features)) <= 1e-5
    assert len(hq_features) == kind.hq
    if kind.hq:
        assert relative_l2(hq_features[0], planes(related.hq_features)) <= 1e-5


@pytest.mark.parametrize(
    ("prompt", "refine"), [*((prompt, False) for prompt in PROMPTS), ("point", True), ("points and box", True)]
)
def test_decoder_of_a_related_model(
    related: mobilesam.Embedding, related_decoders: dict[str, Decoder], prompt: str, refine: bool
) -> None:
    mask = related.segment(**PROMPTS[prompt]).low_res[0] if refine else None
    three, one = (related.segment(**PROMPTS[prompt], mask_input=mask, multimask=each) for each in (True, False))
    inputs = *coords_and_labels(related, prompt), related.original_size, mask
    answers = {rule: decoder(*inputs) for rule, decoder in related_decoders.items()}
    expected = {"single": [one], "multi": [three], "all": [one, three]}
    if related.model.kind.architecture.hq:
        if len(inputs[1]) < 2.5:
            expected["single"] = [three]
        assert [len(array) for array in answers["all"]] == [4, 4, 4]
        # The package predicts only the best mask of tokens 1 to 3.
        wanted = [0, 1 + int(answers["all"][1][1:].argmax())]
        answers["all"] = tuple(array[wanted] for array in answers["all"])
    for rule, (logits, scores, low_res) in answers.items():
        our_scores, our_low_res, our_masks = (
            np.concatenate([getattr(each, name) for each in expected[rule]]) for name in ("scores", "low_res", "masks")
        )
        np.testing.assert_allclose(scores, our_scores, rtol=0, atol=SCORE_ERROR)
        np.testing.assert_allclose(low_res, our_low_res, rtol=0, atol=LOGIT_ERROR)
        assert iou(logits > 0, our_masks).min() >= 0.9995


@pytest.mark.parametrize("size", ODD_SIZES)
def test_masks_of_a_related_model_at_odd_sizes(
    related: mobilesam.Embedding, related_decoders: dict[str, Decoder], size: tuple[int, int]
) -> None:
    check_masks_in_full(related_decoders["all"], related.model.kind.architecture, size)


def test_graphs_are_valid_and_use_single_nodes_for_gelu_and_layer_norm(pair: tuple[Path, Path]) -> None:
    for path, gelus, norms in zip(pair, (23, 4), (22, 12)):
        model = onnx.load(path)
        onnx.checker.check_model(model, full_check=True)
        assert [(opset.domain, opset.version >= 20) for opset in model.opset_import] == [("", True)]
        branches = [a.g for node in model.graph.node for a in node.attribute if a.type == a.GRAPH]
        ops = [node.op_type for graph in (model.graph, *branches) for node in graph.node]
        assert "Erf" not in ops
        assert ops.count("Gelu") == gelus
        assert ops.count("LayerNormalization") == norms


def test_float16_weights_are_widened(pair: tuple[Path, Path]) -> None:
    checkpoint = open_checkpoint()
    name = "image_encoder.layers.2.blocks.3.mlp.fc1.weight"
    assert checkpoint[name].dtype == np.float16
    tensors = {tensor.name: tensor for tensor in onnx.load(pair[0]).graph.initializer}
    assert TensorProto.FLOAT16 not in {tensor.data_type for tensor in tensors.values()}
    np.testing.assert_array_equal(numpy_helper.to_array(tensors[name]), checkpoint[name])


def test_unknown_mask_rule_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mask_rule must be one of single, multi, all, got 'best'"):
        export_onnx({}, tmp_path, mask_rule="best")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, data: bytes) -> int:
        self.touch()
        raise OSError("no space left")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="no space left"):
        export_onnx(open_checkpoint(), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--weights", "no-such.pt", "."], "no-such.pt"),
        (["no-such-folder"], "no-such-folder"),
    ],
)
def test_command_says_what_is_wrong(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert export.main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("export_onnx: error: ")
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_command_writes_the_pair(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export.main([str(tmp_path), "--mask-rule", "multi"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["decoder.onnx", "encoder.onnx"]
    assert str(tmp_path / "decoder.onnx") in capsys.readouterr().out
    outputs = onnx.load(tmp_path / "decoder.onnx").graph.output
    assert [output.type.tensor_type.shape.dim[1].dim_value for output in outputs] == [3, 3, 3]


def test_tinysam_has_no_mask_of_token_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = str(convert(open_checkpoint().path, tmp_path / "tinysam.safetensors", model="tinysam").path)
    assert export.main([str(tmp_path), "--weights", weights]) == 2
    assert "--mask-rule must be multi for tinysam" in capsys.readouterr().err
    assert export.main([str(tmp_path), "--weights", weights, "--mask-rule", "multi"]) == 0
