"""A script that segments a photo at a point with ONNX Runtime. The benchmark compares it with `mobilesam segment`.

A user of the exported ONNX pair would write such a script, so it imports nothing from this package. The encoder's input
and outputs tell the model: a canvas of 256 pixels is LiteMedSAM's, and HQ features are Light HQ-SAM's.
Usage: python onnx_segment.py ENCODER DECODER IMAGE X,Y OUTPUT THREADS
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, NamedTuple, Protocol

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
from numpy.typing import NDArray
from PIL import Image, ImageOps

F32 = NDArray[np.float32]
LITE_SIDE = 256  # side of LiteMedSAM's canvas
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


class Encoder(NamedTuple):
    """A loaded encoder.

    Attributes:
        run: function that runs the encoder.
        side: side of the canvas in pixels.
        outputs: names of the outputs, "output" and for Light HQ-SAM "hq_features".
    """

    run: Run
    side: int
    outputs: Sequence[str]


def load(model: str | bytes, threads: int) -> Run:
    run: Run = session(model, threads).run
    return run


def load_encoder(model: str | bytes, threads: int) -> Encoder:
    loaded = session(model, threads)
    return Encoder(loaded.run, loaded.get_inputs()[0].shape[2], [output.name for output in loaded.get_outputs()])


def resized_size(size: tuple[int, int], side: int) -> tuple[int, int]:
    """The size of an image (width, height) on a canvas."""
    width, height = (max(1, int(length * side / max(size) + 0.5)) for length in size)
    return width, height


def encoder_input(photo: Image.Image, side: int) -> F32:
    """The encoder's input (1, 3, side, side): the photo, resized, normalised and zero-padded."""
    width, height = size = resized_size(photo.size, side)
    x = np.zeros((1, 3, side, side), np.float32)
    if side == LITE_SIDE:
        pixels = resize_by_areas(photo, size).astype(np.float32)
        pixels = (pixels - pixels.min()) / max(np.ptp(pixels), 1e-8)
    else:
        pixels = np.asarray(photo.resize(size, Image.Resampling.BILINEAR), np.float32)
        pixels = (pixels - MEAN) / STD
    x[0, :, :height, :width] = pixels.transpose(2, 0, 1)
    return x


def resize_by_areas(photo: Image.Image, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The photo's pixels at another size (width, height). OpenCV resizes, or Pillow if OpenCV is not installed."""
    try:
        cv2: Any = import_module("cv2")
    except ImportError:
        return np.asarray(photo.resize(size, Image.Resampling.BOX))
    resized: NDArray[np.uint8] = cv2.resize(np.asarray(photo), size, interpolation=cv2.INTER_AREA)
    return resized


def decoder_inputs(
    features: Sequence[F32], size: tuple[int, int], point: tuple[float, float], side: int
) -> dict[str, F32]:
    """The decoder's inputs for one point.

    Args:
        features: the encoder's outputs.
        size: (width, height) of the image.
        point: (x, y) in pixels of the image.
        side: side of the canvas.
    """
    across, down = (new / old for new, old in zip(resized_size(size, side), size))
    if side == LITE_SIDE:
        across = down = side / max(size)
    return {
        **dict(zip(("image_embeddings", "hq_features"), features)),
        "point_coords": np.array([[(point[0] * across, point[1] * down), (0, 0)]], np.float32),
        "point_labels": np.array([[1, -1]], np.float32),
        "mask_input": np.zeros((1, 1, 256, 256), np.float32),
        "has_mask_input": np.zeros(1, np.float32),
        "orig_im_size": np.array(size[::-1], np.float32),
    }


def segment(encoder: Encoder, decoder: Run, path: str, point: tuple[float, float]) -> NDArray[np.bool_]:
    """The mask (H, W) with the best score for a point in an image file."""
    photo = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    features = encoder.run(encoder.outputs, {"input": encoder_input(photo, encoder.side)})
    inputs = decoder_inputs(features, photo.size, point, encoder.side)
    masks, scores = decoder(["masks", "iou_predictions"], inputs)
    best: NDArray[np.bool_] = masks[0, scores[0].argmax()] > 0
    return best


def main(encoder: str, decoder: str, image: str, point: str, output: str, threads: str) -> None:
    x, y = map(float, point.split(","))
    mask = segment(load_encoder(encoder, int(threads)), load(decoder, int(threads)), image, (x, y))
    Image.fromarray(mask.astype(np.uint8) * 255).save(output)


if __name__ == "__main__":
    arguments: Any = sys.argv[1:]
    main(*arguments)
