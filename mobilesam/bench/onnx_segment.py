"""A photo and a point to a mask with ONNX Runtime alone: what the benchmark times the command against.

It is what a user of the exported pair would write, so it leans on nothing of this package:
python onnx_segment.py ENCODER DECODER IMAGE X,Y OUTPUT THREADS
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
from numpy.typing import NDArray
from PIL import Image, ImageOps

F32 = NDArray[np.float32]
SIZE = 1024
MEAN = np.array([123.675, 116.28, 103.53], np.float32)
STD = np.array([58.395, 57.12, 57.375], np.float32)


class Run(Protocol):
    """A loaded graph: the named outputs for named inputs."""

    def __call__(self, outputs: Sequence[str], inputs: Mapping[str, F32], /) -> Sequence[F32]: ...


def session(model: str | bytes, threads: int) -> Any:
    """An ONNX Runtime session on the CPU, of a file or its bytes, with everything on that makes it faster.

    Its workers spin while they wait inside a run. After it they stop at once, rather than go on for 40 ms and
    take the processor from whatever is timed next; ONNX Runtime measures no slower for it.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def load(model: str | bytes, threads: int) -> Run:
    run: Run = session(model, threads).run
    return run


def encoder_input(photo: Image.Image) -> F32:
    """(1, 3, 1024, 1024): resized, normalised, padded."""
    scale = SIZE / max(photo.size)
    width, height = (max(1, int(side * scale + 0.5)) for side in photo.size)
    pixels = np.asarray(photo.resize((width, height), Image.Resampling.BILINEAR), np.float32)
    x = np.zeros((1, 3, SIZE, SIZE), np.float32)
    x[0, :, :height, :width] = ((pixels - MEAN) / STD).transpose(2, 0, 1)
    return x


def decoder_inputs(features: F32, size: tuple[int, int], point: tuple[float, float]) -> dict[str, F32]:
    """One point, in pixels of an image of this (width, height), and the padding point."""
    scale = SIZE / max(size)
    resized = [max(1, int(side * scale + 0.5)) / side for side in size]
    return {
        "image_embeddings": features,
        "point_coords": np.array([[(point[0] * resized[0], point[1] * resized[1]), (0, 0)]], np.float32),
        "point_labels": np.array([[1, -1]], np.float32),
        "mask_input": np.zeros((1, 1, 256, 256), np.float32),
        "has_mask_input": np.zeros(1, np.float32),
        "orig_im_size": np.array(size[::-1], np.float32),
    }


def segment(encoder: Run, decoder: Run, path: str, point: tuple[float, float]) -> NDArray[np.bool_]:
    """The best mask (H, W) for the point."""
    photo = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    (features,) = encoder(["output"], {"input": encoder_input(photo)})
    inputs = decoder_inputs(features, photo.size, point)
    masks, scores = decoder(["masks", "iou_predictions"], inputs)
    best: NDArray[np.bool_] = masks[0, scores[0].argmax()] > 0
    return best


def main(encoder: str, decoder: str, image: str, point: str, output: str, threads: str) -> None:
    x, y = map(float, point.split(","))
    mask = segment(load(encoder, int(threads)), load(decoder, int(threads)), image, (x, y))
    Image.fromarray(mask.astype(np.uint8) * 255).save(output)


if __name__ == "__main__":
    arguments: Any = sys.argv[1:]
    main(*arguments)
