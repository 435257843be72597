"""The sections of the benchmark: one method of `Bench` for each section.

Every engine gets the same photo, point, weights and number of threads. ONNX Runtime and OpenVINO run in float32. The
column `difference` compares an engine's result with this package's result. ONNX Runtime and OpenVINO run the ONNX pair
that this package exports, which is laid out for the speed of ONNX Runtime. ONNX Runtime also runs the pairs given with
--onnx. If the weights of a given pair are different, the column `difference` shows it. If ONNX Runtime is not
installed, this package is measured alone.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import kernels
from ..api.embedding import Embedding
from ..api.model import MobileSAM, encode_canvas
from ..api.segment import segment
from ..images.canvas import to_encoder_input
from ..images.geometry import to_canvas
from ..kernels.core.check import F32
from ..network.decoder_image import DecoderImage
from ..onnx.export import DECODER, ENCODER
from ..util.console import show
from ..util.deferred import lazy
from .harness import MEASURES_MEMORY, Case, Options, Row, Table, child, interleave
from .layers import LayersBench

if TYPE_CHECKING:
    from .engines import Pair
    from .harness import Answer

OURS = "mobilesam"
DEPTHWISE_CASES = ((256, 256), (1024, 3))  # (side in pixels, channels), as in github.com/ggml-org/ggml/pull/1152


class Bench(LayersBench):
    """The benchmark on one photo and one point, the photo's centre. It writes its files into `folder`."""

    def __init__(self, options: Options, folder: Path) -> None:
        super().__init__(options)
        self.folder = folder
        self.others = bool(find_spec("onnx") and find_spec("onnxruntime"))
        if options.onnx and not self.others:
            raise ModuleNotFoundError("--onnx needs ONNX Runtime: pip install 'mobilesam[bench]'")
        for path in options.onnx:
            for name in (ENCODER, DECODER):
                if not (path / name).is_file():
                    raise FileNotFoundError(f"--onnx {path}: the folder has no {name}")
        self.point = self.photo.width / 2, self.photo.height / 2

    def engine_versions(self) -> Mapping[str, str]:
        if not self.others:
            return {}
        from .engines import VERSIONS

        return VERSIONS

    @lazy
    def onnx_runtime(self) -> list[Pair]:
        """ONNX Runtime with this package's export and with every pair of --onnx, if it is installed."""
        if not self.others:
            return []
        from .engines import onnx_runtime_pairs

        multimask = self.model.kind.multimask(None)
        return onnx_runtime_pairs(self.model.checkpoint, self.folder, self.options.onnx, multimask=multimask)

    @lazy
    def pairs(self) -> list[Pair]:
        """The pairs of `onnx_runtime`, and OpenVINO with this package's export if OpenVINO is installed."""
        if not self.onnx_runtime:
            return []
        from .engines import openvino_pairs

        return self.onnx_runtime + openvino_pairs(self.folder)

    def encoder(self) -> list[Table]:
        """The section `encoder`: from the canvas in memory to the features, and Light HQ-SAM's HQ features."""
        x, filled = to_encoder_input(self.photo, self.model.kind.architecture)
        planes = as_planes(x)
        cases = {OURS: Case(lambda: encode_canvas(self.model.network, x, filled), lambda out: out[0])}
        for pair in self.pairs:
            call = pair.encode(planes, self.options.threads)
            cases[pair.name] = Case(call, lambda out: out[0][0].transpose(1, 2, 0))
        return [self._time(f"encoder, a photo of {self.photo.width}x{self.photo.height}", cases)]

    def decoder(self) -> list[Table]:
        """The section `decoder`: from one point to the low-resolution logits of its masks, with prompt encoding."""
        embedding = self.model.encode(self.photo)

        def best(result: tuple[F32, F32]) -> F32:
            low_res, scores = result
            mask: F32 = low_res[scores.argmax()]
            return mask

        cases = {
            OURS: Case(self.click(self.model, embedding, known=False), best),
            f"{OURS}, on a repeated image": Case(self.click(self.model, embedding), best),
        }
        maps = [as_planes(each) for each in (embedding.features, embedding.hq_features) if each is not None]
        side = self.model.canvas_size[0]
        for pair in self.pairs:
            call = pair.decode(maps, self.photo.size, self.point, side, self.options.threads)
            cases[pair.name] = Case(call, lambda out: out[0][0, out[1][0].argmax()])
        return [self._time("decoder, one point, to low-resolution masks", cases)]

    def click(self, model: MobileSAM, embedding: Embedding, *, known: bool = True) -> Callable[[], tuple[F32, F32]]:
        """A function that decodes the point, and returns low-resolution logits and scores.

        Args:
            model: the model.
            embedding: the encoded photo.
            known: If true, every call decodes the same image, so the decoder has the image's feature maps in its cache.
                If false, every call decodes a new image.
        """
        point = to_canvas(np.array([self.point]), embedding.original_size, model.kind.architecture)
        label, multimask = np.ones(1, np.int32), model.kind.multimask(None)
        prompt, decoder, features = model.prompt_encoder, model.mask_decoder, embedding.features

        def call() -> tuple[F32, F32]:
            image = DecoderImage(features if known else features.copy(), hq=embedding.hq_features)
            ((scores, low_res),) = decoder.masks(image, [prompt.sparse(point, label, None)], multimask=multimask)
            return low_res, scores

        return call

    def precisions(self) -> list[Table]:
        """The section `precisions`: encoder and decoder in every precision that this CPU supports."""
        from .precisions import tables

        return tables(self)

    def narrow_encoders(self, planes: F32) -> Iterator[tuple[str, Callable[[], Any]]]:
        """OpenVINO's encoder in bf16, and in int8 if --openvino-int8 is given.

        Args:
            planes: canvas (1, 3, S, S).

        Yields:
            Name of the case, and a function that runs the encoder.
        """
        from .engines import load_openvino, openvino

        if not openvino or not self.pairs:
            return
        quantised = self.options.openvino_int8
        models: dict[str, tuple[bytes | str, str]] = {"bf16": ((self.folder / ENCODER).read_bytes(), "bf16")}
        if quantised:
            models |= {f"int8, the rest {rest}": (str(quantised), rest) for rest in ("f32", "bf16")}
        for name, (model, rest) in models.items():
            run = load_openvino(model, self.options.threads, rest)
            yield f"openvino, {name}", lambda run=run: run(["output"], {"input": planes})  # type: ignore[misc]

    def end_to_end(self) -> list[Table]:
        """The section `end-to-end`: from an image file to the best mask at the photo's size, with a loaded model."""
        image, point, threads = self.options.image, self.point, self.options.threads
        cases = {OURS: Case(lambda: segment(image, [point], model=self.model).mask, np.asarray)}
        cases |= {pair.name: Case(pair.segment(image, point, threads), np.asarray) for pair in self.pairs}
        return [self._time(f"end to end, {image.name} to mask", cases)]

    def cold_start(self) -> list[Table]:
        """The section `cold-start`: from the start of a process to the mask on disk, with files in the page cache."""
        return [Table("cold start of the command, file to mask", "ms", self._children[0])]

    def memory(self) -> list[Table]:
        """The section `memory`: peak resident set of the processes of `cold_start`. No table on Windows."""
        return [Table("peak memory of the command", "MB", self._children[1])] if MEASURES_MEMORY else []

    def depthwise(self) -> list[Table]:
        """The section `depthwise`: the depthwise convolution alone, with a preallocated output."""
        return [self._depthwise(side, channels) for side, channels in DEPTHWISE_CASES]

    def _depthwise(self, side: int, channels: int) -> Table:
        rng = np.random.default_rng(0)
        x = rng.standard_normal((side, side, channels), np.float32)
        weight = rng.standard_normal((3, 3, channels), np.float32)
        planes, plane_weight = (np.ascontiguousarray(array.transpose(2, 0, 1)) for array in (x, weight))
        out, threads = np.empty_like(x), self.options.threads
        if not self.others:
            raise ModuleNotFoundError("section depthwise needs ONNX Runtime: pip install 'mobilesam[bench]'")
        from .engines import im2col_depthwise, onnx_depthwise

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
        """Time the cases in interleaved rounds, and compare each case's result with the first case's result."""
        answers = [case.answer(case.call()) for case in cases.values()]
        times = interleave({name: case.call for name, case in cases.items()}, self.options.runs, title)
        differences = [None, *(_difference(answer, answers[0]) for answer in answers[1:])]
        return Table(title, "ms", [Row(*row) for row in zip(times, times.values(), differences)])

    @lazy
    def _children(self) -> tuple[list[Row], list[Row]]:
        """Time and peak memory of `mobilesam segment` and of ONNX Runtime's scripts. The first round is not counted."""
        threads, point = str(self.options.threads), ",".join(map(str, self.point))
        image, output = str(self.options.image), str(self.folder / "mask.png")
        command = [sys.executable, "-m", "mobilesam", "segment", image, "--point", point, "--output", output]
        weights = ["--weights", str(self.options.weights)] if self.options.weights else []
        ours = [*command, "--threads", threads, "--precision", self.model.precision, *weights]
        commands = {f"{OURS} segment": ours}
        for pair in self.onnx_runtime:
            files = [str(pair.folder / name) for name in (ENCODER, DECODER)]
            commands[f"{pair.name}, script"] = [sys.executable, pair.script, *files, image, point, output, threads]
        samples: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        for i in range(1 + self.options.runs):
            show(f"cold start: round {i} of {self.options.runs}")
            for name, command in commands.items():
                samples[name].append(child(command, self.folder))
        milliseconds, megabytes = (
            [Row(name, [sample[which] for sample in rounds[1:]]) for name, rounds in samples.items()]
            for which in (0, 1)
        )
        return milliseconds, megabytes


def as_planes(x: F32) -> F32:
    """The array (1, C, H, W) of an image or feature map (H, W, C)."""
    return np.ascontiguousarray(x.transpose(2, 0, 1)[None])


def _difference(got: Answer, expected: Answer) -> float:
    """The distance of two results: for masks the share of pixels that differ, for numbers the relative L2 distance."""
    if expected.dtype == bool:
        return float((got != expected).mean())
    return float(np.linalg.norm(got - expected) / np.linalg.norm(expected))
