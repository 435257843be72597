"""ONNX Runtime and OpenVINO for the benchmark, and its baselines for the depthwise convolution.

Importing this module needs ONNX Runtime. OpenVINO is measured too if it is installed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import numpy as np
import onnx
import onnxruntime  # type: ignore[import-untyped]
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from onnx import ModelProto, helper, numpy_helper

from ..onnx.export import DECODER, ENCODER, export_onnx
from ..onnx.graph import IR_VERSION, OPSET, value_info
from . import onnx_segment
from .onnx_segment import F32, Encoder, Run

openvino: Any = import_module("openvino") if find_spec("openvino") else None
VERSIONS = {engine.__name__: engine.__version__ for engine in (onnxruntime, openvino) if engine}
LOW_RES_OUTPUTS, FULL_OUTPUTS = ("low_res_masks", "iou_predictions"), ("masks", "iou_predictions")
Call: TypeAlias = Callable[[], Sequence[F32]]
BAND = 64  # rows of a channel that the im2col baseline unfolds in one step


@dataclass(frozen=True)
class Pair:
    """An ONNX encoder and decoder in a folder, and the runtime that runs them.

    Attributes:
        name: name of the engine in the tables.
        folder: the folder of encoder.onnx and decoder.onnx.
        load: function that loads a model from its bytes, for a number of threads.
        script: a Python script that segments an image file with such a pair.
    """

    name: str
    folder: Path
    load: Callable[[bytes, int], Run]

    script: ClassVar[str] = onnx_segment.__file__

    def encode(self, planes: F32, threads: int) -> Call:
        """A function that runs the encoder on a canvas (1, 3, S, S)."""
        encoder = self._encoder(threads)
        return lambda: encoder.run(encoder.outputs, {"input": planes})

    def decode(
        self, features: Sequence[F32], size: tuple[int, int], point: tuple[float, float], side: int, threads: int
    ) -> Call:
        """A function that runs the decoder for one point, and returns low-resolution logits and scores.

        Args:
            features: the encoder's outputs: (1, 256, 64, 64), for Light HQ-SAM also (1, 32, 256, 256).
            size: (width, height) of the image.
            point: (x, y) in pixels of the image.
            side: side of the canvas in pixels.
            threads: number of threads.
        """
        run = self._decoder(threads, *LOW_RES_OUTPUTS)
        inputs = onnx_segment.decoder_inputs(features, size, point, side)
        del inputs["orig_im_size"]  # the decoder needs this input only for masks at the image's size
        return lambda: run(LOW_RES_OUTPUTS, inputs)

    def segment(self, image: Path, point: tuple[float, float], threads: int) -> Callable[[], NDArray[np.bool_]]:
        """A function that segments an image file, from reading the file to the best mask."""
        encoder, decoder = self._encoder(threads), self._decoder(threads, *FULL_OUTPUTS)
        return lambda: onnx_segment.segment(encoder, decoder, str(image), point)

    def _encoder(self, threads: int) -> Encoder:
        graph = onnx.load(self.folder / ENCODER).graph
        side = graph.input[0].type.tensor_type.shape.dim[2].dim_value
        run = self.load((self.folder / ENCODER).read_bytes(), threads)
        return Encoder(run, side, [output.name for output in graph.output])

    def _decoder(self, threads: int, *outputs: str) -> Run:
        """The loaded decoder, reduced to the nodes that compute these outputs."""
        model = pruned(onnx.load(self.folder / DECODER), outputs)
        return self.load(model.SerializeToString(), threads)


def onnx_runtime_pairs(
    checkpoint: Mapping[str, NDArray[Any]], folder: Path, others: Sequence[Path], *, multimask: bool
) -> list[Pair]:
    """ONNX Runtime with the pair that this package exports, and with the pairs in the folders `others`.

    Args:
        checkpoint: the fused tensors to export.
        folder: the folder to export into.
        others: folders that hold an encoder.onnx and a decoder.onnx.
        multimask: whether the exported decoder answers with the masks of tokens 1 to 3, or else with token 0. The rule
            "single" is token 0 for LiteMedSAM, the only model with one mask.
    """
    export_onnx(checkpoint, folder, mask_rule="multi" if multimask else "single")
    folders = {"our export": folder} | {str(path): path.resolve() for path in others}
    return [Pair(f"onnxruntime, {name}", path, onnx_segment.load) for name, path in folders.items()]


def openvino_pairs(folder: Path) -> list[Pair]:
    """OpenVINO with this package's export in `folder`, or an empty list if OpenVINO is not installed."""
    return [Pair("openvino, our export", folder, load_openvino)] if openvino else []


def load_openvino(model: bytes | str, threads: int, precision: str = "f32") -> Run:
    """Compile a model with OpenVINO for the CPU, optimised for latency.

    Args:
        model: bytes of the model, or its path.
        threads: number of threads.
        precision: precision of the layers that are not quantised, "f32" or "bf16".
    """
    core = openvino.Core()
    settings = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = core.compile_model(core.read_model(model), "CPU", settings)

    def run(outputs: Sequence[str], inputs: Mapping[str, F32], /) -> list[F32]:
        result = compiled(dict(inputs))
        return [result[name] for name in outputs]

    return run


def pruned(model: ModelProto, outputs: Sequence[str]) -> ModelProto:
    """The model reduced to these outputs and the nodes that they need, because ONNX Runtime runs every node."""
    graph, wanted, kept = model.graph, set(outputs), []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted.update(node.input)
            for attribute in node.attribute:  # the branches of an If node may use values of the outer graph
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
    """A function that runs ONNX Runtime's depthwise convolution: a graph of one node with bound input and output.

    Args:
        x: input (C, H, W).
        weight: (C, 3, 3).
        threads: number of threads.
    """
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
    """A function that runs the baseline of the depthwise convolution: im2col and a matrix product.

    A channel's nine shifted copies form a matrix (9, H·W). BLAS multiplies the channel's weights (1, 9) by this matrix.

    Args:
        x: input (C, H, W). H must be a multiple of BAND.
        weight: (C, 3, 3).
        pool: the thread pool that runs the convolution.
        threads: number of threads in the pool.
        blocked: If false, the whole image is first unfolded to nine times its size, as usual for im2col. If true, each
            band of BAND rows is multiplied while its matrix is in cache, which is the best that im2col can do.
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
