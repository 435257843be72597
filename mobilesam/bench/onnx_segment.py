"""A script that segments a photo at a point with ONNX Runtime. The benchmark compares it with `mobilesam segment`.

A user of the exported ONNX pair would write such a script, so it imports nothing from this package.
Usage: python onnx_segment.py ENCODER DECODER IMAGE X,Y OUTPUT THREADS
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
    """A loaded model: a function that computes the named outputs from the named inputs."""

    def __call__(self, outputs: Sequence[str], inputs: Mapping[str, F32], /) -> Sequence[F32]: ...


def session(model: str | bytes, threads: int) -> Any:
    """An ONNX Runtime session on the CPU with all optimisations.

    ONNX Runtime's threads spin while they wait during a run, and stop at its end. By default they would spin for
    another 40 ms and slow down the next measurement. Stopping them does not make ONNX Runtime measurably slower.

    Args:
        model: path or bytes of the model.
        threads: number of threads.
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
    """The encoder's input (1, 3, 1024, 1024): the photo, resized, normalised and zero-padded."""
    scale = SIZE / max(photo.size)
    width, height = (max(1, int(side * scale + 0.5)) for side in photo.size)
    pixels = np.asarray(photo.resize((width, height), Image.Resampling.BILINEAR), np.float32)
    x = np.zeros((1, 3, SIZE, SIZE), np.float32)
    x[0, :, :height, :width] = ((pixels - MEAN) / STD).transpose(2, 0, 1)
    return x


def decoder_inputs(features: F32, size: tuple[int, int], point: tuple[float, float]) -> dict[str, F32]:
    """The decoder's inputs for one point.

    Args:
        features: the encoder's output.
        size: (width, height) of the image.
        point: (x, y) in pixels of the image.
    """
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
    """The mask (H, W) with the best score for a point in an image file."""
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
