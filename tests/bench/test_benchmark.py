"""The benchmark's calculations, tables and commands, and the masks of its baselines. No timings are checked."""

import json
import math
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import related_models
from golden import PHOTOS, iou
from processes import output
from tolerances import assert_sum

pytest.importorskip("onnxruntime", reason="the extra test-all is not installed")
import onnx

import mobilesam
from mobilesam.architecture import ARCHITECTURES, LITE_MEDSAM, MOBILE_SAM, Architecture
from mobilesam.bench import engines, harness, layers, onnx_segment, precisions, run, sections
from mobilesam.bench.harness import Row, Table
from mobilesam.bench.layers import Cost, LayersTable
from mobilesam.checkpoints.fused import open_checkpoint
from mobilesam.cli.main import main
from mobilesam.images.canvas import to_encoder_input
from mobilesam.images.photo import open_rgb
from mobilesam.onnx.decoder import build_decoder
from mobilesam.onnx.encoder import build_encoder

pytestmark = pytest.mark.extras


def test_rounds_are_interleaved_after_a_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(harness, "PAUSE", 0)
    calls: list[str] = []
    times = harness.interleave({name: lambda name=name: calls.append(name) for name in "abc"}, 2, "letters")
    assert "".join(calls) == "abc" + "abc" + "bca"
    assert {name: len(samples) for name, samples in times.items()} == {"a": 2, "b": 2, "c": 2}


def test_ratio_is_of_the_medians_to_the_first_row() -> None:
    table = Table("title", "ms", [Row("ours", [3.0, 1.0, 2.0]), Row("theirs", [5.0, 9.0, 4.0], 1e-6)])
    _, _, ours, theirs = table.lines()
    assert ours.split() == ["ours", "1.00", "2.00", "1.00x"]
    assert theirs.split() == ["theirs", "4.00", "5.00", "2.50x", "1.0e-06"]
    assert table.as_json()["rows"][1]["ratio"] == 2.5


@pytest.mark.parametrize("threads", [1, 3])
def test_depthwise_baselines_compute_the_convolution(threads: int) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((5, 2 * engines.BAND, 19), np.float32)
    weight = rng.standard_normal((5, 3, 3), np.float32)
    channels_last = np.moveaxis(x, 0, -1), np.moveaxis(weight, 0, -1)
    with ThreadPoolExecutor(threads) as pool:
        for call in (
            engines.im2col_depthwise(x, weight, pool, threads, blocked=False),
            engines.im2col_depthwise(x, weight, pool, threads, blocked=True),
            engines.onnx_depthwise(x, weight, threads),
        ):
            assert_sum(np.moveaxis(call(), 0, -1), "depthwise_conv2d", 9, *channels_last, pad=1)


def test_pruned_decoder_gives_the_same_without_the_masks_in_full() -> None:
    model = build_decoder(open_checkpoint(), "all")
    outputs = ["low_res_masks", "iou_predictions"]
    cut = engines.pruned(model, outputs)
    assert {node.op_type for node in model.graph.node} - {node.op_type for node in cut.graph.node} >= {"Resize"}
    onnx.checker.check_model(cut)
    features = np.random.default_rng(0).standard_normal((1, 256, 64, 64), np.float32)
    inputs = onnx_segment.decoder_inputs([features], (640, 480), (320, 240), 1024)
    whole = onnx_segment.load(model.SerializeToString(), 1)(outputs, inputs)
    del inputs["orig_im_size"]
    part = onnx_segment.load(cut.SerializeToString(), 1)(outputs, inputs)
    for name, expected, got in zip(outputs, whole, part):
        np.testing.assert_array_equal(got, expected, err_msg=name)


def test_the_script_compared_with_gives_our_mask(embedding: mobilesam.Embedding) -> None:
    photo, point = PHOTOS["chelsea"], (220, 140)
    x, _ = to_encoder_input(open_rgb(photo))

    def run_encoder(outputs: list[str], inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        np.testing.assert_array_equal(inputs["input"][0].transpose(1, 2, 0), x)
        return [np.ascontiguousarray(embedding.features.transpose(2, 0, 1)[None])]

    decoder = onnx_segment.load(build_decoder(open_checkpoint(), "multi").SerializeToString(), 1)
    encoder = onnx_segment.Encoder(run_encoder, 1024, ["output"])
    mask = onnx_segment.segment(encoder, decoder, str(photo), point)
    assert iou(mask[None], embedding.segment([point]).mask[None]).min() >= 0.9995


@pytest.mark.parametrize("opencv", [True, False])
def test_the_script_has_our_canvas_of_lite_medsam(opencv: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if opencv:
        pytest.importorskip("cv2")
    else:
        monkeypatch.setitem(sys.modules, "cv2", None)
    photo = open_rgb(PHOTOS["chelsea"])
    x, _ = to_encoder_input(photo, LITE_MEDSAM)
    canvas = onnx_segment.encoder_input(photo, LITE_MEDSAM.img_size)[0].transpose(1, 2, 0)
    assert np.abs(canvas - x).max() <= 1.5 / 255 if opencv else np.abs(canvas - x).mean() <= 2 / 255


@pytest.mark.parametrize("architecture", ["lite_medsam", "hq_sam"])
def test_every_section_measures_other_architectures(
    architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To save time, each engine's call is made once, to compare its result, and each command runs once."""
    for module in (sections, precisions):
        monkeypatch.setattr(module, "interleave", lambda cases, runs, title: {name: [1.0] for name in cases})
    run_once = lru_cache(lambda folder, *command: harness.child(command, folder))
    monkeypatch.setattr(sections, "child", lambda command, folder: run_once(folder, *command))
    weights = related_models.write(tmp_path / "weights.safetensors", ARCHITECTURES[architecture])
    bench = sections.Bench(harness.Options(1, 2, PHOTOS["chelsea"], str(weights)), tmp_path)
    for name in (*run.DEFAULT_SECTIONS, "precisions"):
        for table in bench.section(name):
            others = [row for row in table.rows if row.engine.startswith("onnxruntime")]
            assert bool(others) == ("decoder, one point, on" not in table.title), table.title
            assert all(row.difference is None or row.difference <= 1e-3 for row in others), table.title


def test_layers_of_lite_medsam(tmp_path: Path) -> None:
    weights = related_models.write(tmp_path / "weights.safetensors", LITE_MEDSAM)
    bench = layers.LayersBench(harness.Options(1, 2, PHOTOS["chelsea"], str(weights)))
    (table,) = bench.layers()
    costs = layers.pass_costs(LITE_MEDSAM)
    assert table.costs[layers.WHOLE] == sum(costs.values(), Cost(0, 0))
    assert list(table.samples) == [*costs, layers.SUM, layers.WHOLE]


def test_command_writes_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for variable in run.BLAS_THREADS:
        monkeypatch.setenv(variable, "1")  # makes monkeypatch restore the variables that the command sets
    monkeypatch.setattr(sections, "DEPTHWISE_CASES", ((64, 16), (128, 3)))
    file = tmp_path / "times.json"
    options = ["--only", "depthwise", "--runs", "1", "--threads", "1", "--json", str(file)]
    assert main(["bench", *options, "--image", str(PHOTOS["chelsea"])]) == 0
    record = json.loads(file.read_text())
    assert record["environment"]["threads"] == "1"
    titles = [table["title"] for table in record["tables"]]
    assert titles == ["depthwise 3x3, 64x64x16", "depthwise 3x3, 128x128x3"]
    printed = capsys.readouterr().out
    for table in record["tables"]:
        assert all(len(row["samples"]) == 1 and row["min"] > 0 for row in table["rows"])
        assert all(row["difference"] < 1e-6 for row in table["rows"][1:])
        assert table["title"] in printed
    assert list(tmp_path.iterdir()) == [file]


def of_pass(name: str, module: str) -> bool:
    """Whether a module belongs to a pass. The name of a pass may combine modules, like `parent.a+b`."""
    parent, _, modules = name.rpartition(".")
    return any(f"{module}.".startswith(f"{parent}.{own}.") for own in modules.split("+"))


@pytest.mark.parametrize("architecture", [MOBILE_SAM, LITE_MEDSAM], ids=lambda each: each.name)
def test_flops_of_every_pass_are_those_of_the_exported_graph(architecture: Architecture) -> None:
    """The test counts FLOPs from the shapes of the graph's nodes, without the padding tokens of attention windows."""
    graph = onnx.shape_inference.infer_shapes(build_encoder(related_models.weights(architecture))).graph
    shapes = {
        value.name: tuple(axis.dim_value for axis in value.type.tensor_type.shape.dim)
        for value in (*graph.input, *graph.output, *graph.value_info)
    }
    shapes |= {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    costs, flops = layers.pass_costs(architecture), Counter[str]()
    name, tokens = "", 0  # pass and number of rows of the previous Conv or Gemm node
    for node in graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul"):
            continue
        x, weight, y = (shapes[name] for name in (*node.input[:2], node.output[0]))
        if node.op_type == "MatMul":  # MatMul nodes occur in attention only, after the Gemm node of qkv
            windows, _, per_window, _ = y
            flops[name] += 2 * math.prod(y) * x[-1] * tokens // (windows * per_window)
        else:
            name, tokens = next(name for name in costs if of_pass(name, node.name)), y[0]
            flops[name] += 2 * math.prod(y) * math.prod(weight[1:])
    assert flops == {name: cost.flops for name, cost in costs.items()}


def test_bytes_of_a_pass_are_its_maps_and_weights() -> None:
    costs = layers.pass_costs()
    weights = 4 * 7**2 + 2 * 128 + 3 * 128 * (128 + 1) + 128 * (128 + 1)
    assert costs["image_encoder.layers.1.blocks.0.attn"].traffic == 4 * (2 * 128**3 + weights)
    weights = 160 * (128 + 1) + 160 * (9 + 1) + 160 * (160 + 1)
    assert costs["image_encoder.layers.1.downsample"].traffic == 4 * (128**3 + 64**2 * 160 + weights)


def test_passes_one_after_the_other_are_the_encoder(embedding: mobilesam.Embedding) -> None:
    y, _ = to_encoder_input(open_rgb(PHOTOS["chelsea"]))
    calls = layers.passes(mobilesam.load().image_encoder)
    assert list(calls) == list(layers.pass_costs())
    for call in calls.values():
        y = call(y, 2)
    np.testing.assert_array_equal(y, embedding.features)


def test_rates_are_of_the_median_time() -> None:
    table = LayersTable("title", {"a.pass": [4.0, 1.0, 2.0]}, {"a.pass": Cost(10**9, 3 * 10**6)}, 2e12)
    title, header, line = table.lines()
    assert title == "title [the FMA peak is 2000.0 GFLOP/s]"
    assert header.split() == ["pass", "min", "ms", "median", "GFLOP", "GFLOP/s", "of", "peak", "MB", "GB/s"]
    assert line.split() == ["a.pass", "1.00", "2.00", "1.000", "500.0", "25.0%", "3.0", "1.5"]
    assert len(line) == len(header)


ALONE = "import sys; sys.modules.update(onnx=None, onnxruntime=None); from mobilesam.cli.main import main; "


def test_without_other_engines_this_package_is_timed_alone(tmp_path: Path) -> None:
    file = tmp_path / "times.json"
    options = ["bench", "--runs", "1", "--json", str(file)]
    printed = output(f"{ALONE}sys.exit(main({options!r}))")
    record = json.loads(file.read_text())
    assert "onnxruntime" not in record["environment"]["versions"]
    assert record["environment"]["image"] == "photo.jpg (1024x683)"
    engines = [[row["engine"] for row in table["rows"]] for table in record["tables"]]
    repeated = "mobilesam, on a repeated image"
    segment = ["mobilesam segment"]
    assert engines == [["mobilesam"], ["mobilesam", repeated], ["mobilesam"], segment, segment]
    assert all(row["min"] > 0 for table in record["tables"] for row in table["rows"])
    assert all(table["title"] in printed for table in record["tables"])
    options = ["bench", "--only", "depthwise"]
    code = f"{ALONE}print(main({options!r}))"
    assert output(code).splitlines()[-1] == "2"


def test_layers_need_no_other_engine(tmp_path: Path) -> None:
    file = tmp_path / "layers.json"
    options = ["bench", "--layers", "--runs", "1", "--image", str(PHOTOS["chelsea"]), "--json", str(file)]
    printed = output(f"{ALONE}sys.exit(main({options!r}))")
    record = json.loads(file.read_text())
    assert "onnxruntime" not in record["environment"]["versions"]
    (table,) = record["tables"]
    *passes, total, whole = table["rows"]
    assert [row["pass"] for row in passes] == list(layers.pass_costs())
    assert total["samples"] == pytest.approx([sum(row["median"] for row in passes)])
    assert total["flops"] == whole["flops"] == sum(row["flops"] for row in passes)
    assert all(row["pass"] in printed and row["min"] > 0 for row in table["rows"])
    assert list(tmp_path.iterdir()) == [file]


def test_everything_needs_no_other_engine(tmp_path: Path) -> None:
    file, photo = tmp_path / "everything.json", tmp_path / "low.png"
    open_rgb(PHOTOS["rocket"]).crop((0, 200, 640, 300)).save(photo)
    options = ["bench", "--everything", "--runs", "1", "--image", str(photo), "--json", str(file)]
    code = (
        f"{ALONE}from mobilesam.bench import everything as b; "
        "b.GRIDS, b.MIDDLE, b.MIDDLE_GRID, b.LARGE = (1, 2), (64, 32), 1, (320, 80); "
        "b.OPTIONS = dict.fromkeys(b.OPTIONS, ['--points-per-side', '1']); "
    )
    printed = output(f"{code}sys.exit(main({options!r}))")
    *times, commands, memory = json.loads(file.read_text())["tables"]
    assert [[row["engine"] for row in table["rows"]] for table in times] == [
        ["points_per_side 1", "points_per_side 2"],
        ["points_per_side 1"],
        ["decode", "compute the masks with a high score", "run lengths and tests"],
    ]
    for table in (commands, memory):
        assert [row["engine"] for row in table["rows"]] == [
            "640x100, --points-per-side 1",
            "320x80, --points-per-side 1",
        ]
    assert all(50 < row["median"] < 1000 for row in memory["rows"])
    for table in (*times, commands, memory):
        assert table["title"] in printed
        assert all(len(row["samples"]) == 1 and row["min"] > 0 for row in table["rows"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--image", "no-such.png"], "no-such.png"),
        (["--onnx", "."], "--onnx .: the folder has no encoder.onnx"),
        (["--json", "no-such-folder/times.json"], "no-such-folder"),
        (["--weights", "no-such.safetensors"], "no-such.safetensors"),
        (["--onnx", ".", "--layers"], "--onnx cannot be used with --layers"),
        (["--onnx", ".", "--everything"], "--onnx cannot be used with --everything"),
        (["--everything"], "--everything needs --image"),
        (["--threads", "0"], "threads: expected"),
    ],
)
def test_command_says_what_is_wrong(
    options: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for variable in run.BLAS_THREADS:
        monkeypatch.setenv(variable, "1")
    monkeypatch.chdir(tmp_path)
    assert main(["bench", *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("mobilesam: error: ")
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "options",
    [
        ["--only", "encoder,sweep"],
        ["--runs", "0"],
        ["--threads", "two"],
        ["--only", "encoder", "--layers"],
        ["--layers", "--everything"],
    ],
)
def test_impossible_options_are_refused(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["bench", *options])
    assert stopped.value.code == 2
    assert options[-1].split(",")[-1] in capsys.readouterr().err
