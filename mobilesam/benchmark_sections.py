"""What the benchmark measures: a method of `Bench` for each section, all on one photo and one point.

Every engine gets the same image, point, weights and number of threads, in float32, and its answer is compared
with this package's. ONNX Runtime and OpenVINO run the pair that this package exports, which is written for
ONNX Runtime's speed, and any pair given with --onnx, whose weights, where they differ, show as a difference.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import onnx
import onnxruntime  # type: ignore[import-untyped]
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from onnx import ModelProto, helper, numpy_helper

from . import api, kernels, onnx_segment
from .benchmark import Options, Row, Table, child, interleave
from .benchmark_layers import LayersBench
from .console import show
from .decoder import ImageTokens
from .image import to_encoder_input
from .onnx_export import DECODER, ENCODER, export_onnx
from .onnx_graph import IR_VERSION, OPSET, value_info
from .onnx_segment import F32, Run

openvino: Any = import_module("openvino") if find_spec("openvino") else None
Answer = NDArray[Any]
OURS = "mobilesam"
FULL = ("masks", "iou_predictions")
DEPTHWISE_CASES = ((256, 256), (1024, 3))  # side, channels: those of github.com/ggml-org/ggml/pull/1152
BAND = 64  # rows of a channel that the im2col baseline unfolds at a time


@dataclass(frozen=True)
class Case:
    """What is timed, and how its result becomes an array that compares with this package's."""

    call: Callable[[], Any]
    answer: Callable[[Any], Answer]


@dataclass(frozen=True)
class Pair:
    """An encoder and a decoder in a folder, and the runtime that loads them."""

    name: str
    folder: Path
    load: Callable[[bytes, int], Run]

    def encoder(self, threads: int) -> Run:
        return self.load((self.folder / ENCODER).read_bytes(), threads)

    def decoder(self, threads: int, *outputs: str) -> Run:
        """The decoder, cut down to what these outputs need."""
        model = pruned(onnx.load(self.folder / DECODER), outputs)
        return self.load(model.SerializeToString(), threads)


class Bench(LayersBench):
    """One photo and one point, the model, the engines, the sections; `folder` is for files of its own."""

    engines: ClassVar[Mapping[str, ModuleType]] = {
        "onnxruntime": onnxruntime,
        **({"openvino": openvino} if openvino else {}),
    }

    def __init__(self, options: Options, folder: Path) -> None:
        super().__init__(options)
        self.folder = folder
        for path in options.onnx:
            for name in (ENCODER, DECODER):
                if not (path / name).is_file():
                    raise FileNotFoundError(f"--onnx {path}: no {name} in it")
        self.point = self.photo.width / 2, self.photo.height / 2

    @cached_property
    def onnx_runtime(self) -> list[Pair]:
        """ONNX Runtime with this package's export and with every other pair."""
        export_onnx(self.model.checkpoint, self.folder, mask_rule="multi")
        folders = {"our export": self.folder} | {str(path): path.resolve() for path in self.options.onnx}
        return [Pair(f"onnxruntime, {name}", path, onnx_segment.load) for name, path in folders.items()]

    @cached_property
    def pairs(self) -> list[Pair]:
        """The same, and OpenVINO, where it is installed, with this package's export."""
        ours = Pair("openvino, our export", self.onnx_runtime[0].folder, load_openvino)
        return [*self.onnx_runtime, *([ours] if openvino else [])]

    def encoder(self) -> list[Table]:
        """The encoder's input, ready in memory, to the features."""
        x, filled = to_encoder_input(self.photo)
        planes = {"input": np.ascontiguousarray(x.transpose(2, 0, 1)[None])}
        cases = {OURS: Case(lambda: self.model.image_encoder(x, filled), lambda features: features)}
        for pair in self.pairs:
            run = pair.encoder(self.options.threads)
            cases[pair.name] = Case(_call(run, ["output"], planes), lambda out: out[0][0].transpose(1, 2, 0))
        return [self._time(f"encoder, a photo of {self.photo.width}x{self.photo.height}", cases)]

    def decoder(self) -> list[Table]:
        """One point to the low-resolution logits of three masks, prompt encoder included."""
        features = self.model.encode(self.photo).features
        planes = np.ascontiguousarray(features.transpose(2, 0, 1)[None])
        inputs = onnx_segment.decoder_inputs(planes, self.photo.size, self.point)
        del inputs["orig_im_size"]  # only the masks in full depend on it
        point, label = inputs["point_coords"][0, :1], np.ones(1, np.int32)
        prompt, decoder = self.model.prompt_encoder, self.model.mask_decoder

        def image_tokens(reuse: bool) -> ImageTokens:
            return decoder.image_tokens(features, prompt.dense_pe(), prompt.dense(None), reuse=reuse)

        def ours(image: ImageTokens) -> tuple[F32, F32]:
            (candidates,) = decoder.candidates(image, [prompt.sparse(point, label, None)], multimask=True)
            return candidates.draw(), candidates.scores

        def best(result: tuple[F32, F32]) -> F32:
            low_res, scores = result
            mask: F32 = low_res[scores.argmax()]
            return mask

        known = image_tokens(reuse=True)
        cases = {
            OURS: Case(lambda: ours(image_tokens(reuse=False)), best),
            f"{OURS}, on an image already asked about": Case(lambda: ours(known), best),
        }
        outputs = ["low_res_masks", "iou_predictions"]
        for pair in self.pairs:
            run = pair.decoder(self.options.threads, *outputs)
            cases[pair.name] = Case(_call(run, outputs, inputs), lambda out: out[0][0, out[1][0].argmax()])
        return [self._time("decoder, one point, to low-resolution masks", cases)]

    def end_to_end(self) -> list[Table]:
        """A file and a point to the best mask at the photo's size, everything loaded."""
        image, point = self.options.image, self.point

        def theirs(pair: Pair) -> Callable[[], Answer]:
            encoder, decoder = pair.encoder(self.options.threads), pair.decoder(self.options.threads, *FULL)
            return lambda: onnx_segment.segment(encoder, decoder, str(image), point)

        cases = {OURS: Case(lambda: api.segment(image, [point], model=self.model).mask, np.asarray)}
        cases |= {pair.name: Case(theirs(pair), np.asarray) for pair in self.pairs}
        return [self._time(f"end to end, {image.name} to mask", cases)]

    def cold_start(self) -> list[Table]:
        """A new process from nothing to the mask on disk; the files are in the page cache."""
        return [Table("cold start of the command, file to mask", "ms", self._children[0])]

    def memory(self) -> list[Table]:
        """The peak resident set of the same processes."""
        return [Table("peak memory of the command", "MB", self._children[1])]

    def depthwise(self) -> list[Table]:
        """The kernel alone, into a buffer that is there already: a fresh one costs all of them the same."""
        return [self._depthwise(side, channels) for side, channels in DEPTHWISE_CASES]

    def _depthwise(self, side: int, channels: int) -> Table:
        rng = np.random.default_rng(0)
        x = rng.standard_normal((side, side, channels), np.float32)
        weight = rng.standard_normal((3, 3, channels), np.float32)
        planes, plane_weight = (np.ascontiguousarray(array.transpose(2, 0, 1)) for array in (x, weight))
        out, threads = np.empty_like(x), self.options.threads

        def planes_last(y: F32) -> F32:
            return y.transpose(1, 2, 0)

        with ThreadPoolExecutor(threads) as pool:
            cases = {
                f"{OURS}, direct NHWC": Case(
                    lambda: kernels.depthwise_conv2d(x, weight, pad=1, out=out, threads=threads), np.asarray
                ),
                "im2col + matmul": Case(
                    im2col_depthwise(planes, plane_weight, pool, threads, blocked=False), planes_last
                ),
                "im2col + matmul, in blocks": Case(
                    im2col_depthwise(planes, plane_weight, pool, threads, blocked=True), planes_last
                ),
                "onnxruntime, Conv": Case(onnx_depthwise(planes, plane_weight, threads), planes_last),
            }
            return self._time(f"depthwise 3x3, {side}x{side}x{channels}", cases)

    def _time(self, title: str, cases: dict[str, Case]) -> Table:
        """Interleaved times in milliseconds, and how far each answer is from the first case's."""
        answers = [case.answer(case.call()) for case in cases.values()]
        times = interleave({name: case.call for name, case in cases.items()}, self.options.runs, title)
        differences = [None, *(_difference(answer, answers[0]) for answer in answers[1:])]
        return Table(title, "ms", [Row(*row) for row in zip(times, times.values(), differences)])

    @cached_property
    def _children(self) -> tuple[list[Row], list[Row]]:
        """Milliseconds and megabytes of each command, run in turns; the first round is not counted."""
        threads, point = str(self.options.threads), ",".join(map(str, self.point))
        image, output = str(self.options.image), str(self.folder / "mask.png")
        command = [sys.executable, "-m", "mobilesam", "segment", image, "--point", point, "--output", output]
        weights = ["--weights", str(self.options.weights)] if self.options.weights else []
        commands = {f"{OURS} segment": [*command, "--threads", threads, *weights]}
        for pair in self.onnx_runtime:
            files = [str(pair.folder / name) for name in (ENCODER, DECODER)]
            command = [sys.executable, onnx_segment.__file__, *files, image, point, output, threads]
            commands[f"{pair.name}, script"] = command
        samples: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        for i in range(1 + self.options.runs):
            show(f"cold start: round {i} of {self.options.runs}")
            for name, command in commands.items():
                samples[name].append(child(command, self.folder))
        milliseconds, megabytes = (
            [Row(name, [sample[which] for sample in pairs[1:]]) for name, pairs in samples.items()] for which in (0, 1)
        )
        return milliseconds, megabytes


def _call(run: Run, outputs: Sequence[str], inputs: dict[str, F32]) -> Callable[[], Sequence[F32]]:
    return lambda: run(outputs, inputs)


def _difference(got: Answer, expected: Answer) -> float:
    """The share of pixels that differ, of masks; of numbers the relative L2 distance."""
    if expected.dtype == bool:
        return float((got != expected).mean())
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))


def load_openvino(model: bytes, threads: int) -> Run:
    """A compiled model on the CPU: float32 also where there is bfloat16, tuned for one answer at a time."""
    core = openvino.Core()
    settings = {
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = core.compile_model(core.read_model(model), "CPU", settings)

    def run(outputs: Sequence[str], inputs: Mapping[str, F32], /) -> list[F32]:
        result = compiled(dict(inputs))
        return [result[name] for name in outputs]

    return run


def pruned(model: ModelProto, outputs: Sequence[str]) -> ModelProto:
    """The model with only these outputs and what they need; ONNX Runtime would run all of it."""
    graph, wanted, kept = model.graph, set(outputs), []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted.update(node.input)
            for attribute in node.attribute:  # the branches of an If see the values outside
                wanted.update(name for inner in attribute.g.node for name in inner.input)
    nodes = helper.make_graph(
        kept[::-1],
        graph.name,
        [value for value in graph.input if value.name in wanted],
        [value for value in graph.output if value.name in outputs],
        [tensor for tensor in graph.initializer if tensor.name in wanted],
    )
    return helper.make_model(nodes, opset_imports=model.opset_import, ir_version=model.ir_version)


def onnx_depthwise(x: F32, weight: F32, threads: int) -> Callable[[], F32]:
    """ONNX Runtime's convolution of x (C, H, W), a graph of one node, between buffers that are bound."""
    channels, height, width = x.shape
    shape = (1, channels, height, width)
    node = helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[3, 3], pads=[1] * 4, group=channels)
    constant = numpy_helper.from_array(weight[:, None], "w")
    graph = helper.make_graph([node], "conv", [value_info("x", *shape)], [value_info("y", *shape)], [constant])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    session = onnx_segment.session(model.SerializeToString(), threads)
    out: F32 = np.empty(shape, np.float32)
    binding = session.io_binding()
    binding.bind_cpu_input("x", x[None])
    binding.bind_ortvalue_output("y", onnxruntime.OrtValue.ortvalue_from_numpy(out))

    def call() -> F32:
        session.run_with_iobinding(binding)
        y: F32 = out[0]
        return y

    return call


def im2col_depthwise(
    x: F32, weight: F32, pool: ThreadPoolExecutor, threads: int, *, blocked: bool
) -> Callable[[], F32]:
    """im2col and a matrix product, the baseline: x (C, H, W), weight (C, 3, 3), H a multiple of BAND.

    A channel's nine shifted copies are columns (9, H·W), which BLAS multiplies by its weights (1, 9), the work shared
    out to threads. As usual, the columns of everything come first, nine times the image; with `blocked` a band's
    columns are multiplied while they are in cache, which is the best that im2col can do.
    """
    channels, height, width = x.shape
    out = np.empty_like(x)
    bands = [(c, slice(row, row + BAND)) for c in range(channels) for row in range(0, height, BAND)]
    columns = np.empty((threads, 3, 3, BAND, width) if blocked else (len(bands), 3, 3, BAND, width), np.float32)

    def unfold(windows: F32, i: int, into: F32) -> None:
        c, rows = bands[i]
        np.copyto(into, windows[c, rows].transpose(2, 3, 0, 1))

    def multiply(i: int, band: F32) -> None:
        c, rows = bands[i]
        np.matmul(weight[c].reshape(-1), band.reshape(9, -1), out=out[c, rows].reshape(-1))

    def unfold_and_multiply(windows: F32, thread: int) -> None:
        for i in range(thread, len(bands), threads):
            unfold(windows, i, columns[thread])
            multiply(i, columns[thread])

    def call() -> F32:
        padded = np.pad(x, ((0, 0), (1, 1), (1, 1)))
        windows = sliding_window_view(padded, (3, 3), axis=(1, 2))
        if blocked:
            list(pool.map(unfold_and_multiply, [windows] * threads, range(threads)))
        else:
            list(pool.map(unfold, [windows] * len(bands), range(len(bands)), columns))
            list(pool.map(multiply, range(len(bands)), columns))
        return out

    return call
