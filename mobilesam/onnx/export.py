"""Export of a checkpoint to ONNX, as encoder.onnx and decoder.onnx. Needs the package `onnx`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from ..checkpoints.reader import read
from ..util.files import check_folder, whole_file
from ..weights import default_path
from .types import MaskRule, Tensors

ENCODER, DECODER = "encoder.onnx", "decoder.onnx"


def export_onnx(
    checkpoint: Tensors, directory: str | os.PathLike[str], *, mask_rule: MaskRule = "single"
) -> tuple[Path, Path]:
    """Write encoder.onnx and decoder.onnx into a folder, float32, opset 20, and return their paths.

    checkpoint: fused tensors by reference name, from `open_checkpoint` or `read`.

    Encoder: `input` (1, 3, 1024, 1024), RGB normalised and then zero-padded right and bottom, to `output`
    (1, 256, 64, 64).

    Decoder, in SAM's usual form, all float32. Inputs:
    - image_embeddings (1, 256, 64, 64): the encoder's output;
    - point_coords (1, N, 2): (x, y) pixels of the image resized to a longest side of 1024;
    - point_labels (1, N): 1 on the object, 0 not on it, 2 and 3 a box's upper left and lower right corner,
      -1 a padding point, which points without a box must end in;
    - mask_input (1, 1, 256, 256): logits of an earlier answer; has_mask_input (1,): 1 to use them, 0 not to;
    - orig_im_size (2,): the original image's (height, width).
    Outputs, for C masks: masks (1, C, height, width) logits, on the object where above 0; iou_predictions
    (1, C); low_res_masks (1, C, 256, 256) logits.

    mask_rule, of the model's four masks:
    - "single": one, by the rule of the reference's ONNX export: the argmax of the scores after token 0's has
      been changed by (N - 2.5)·1000. So N up to 2 points, padding included, give the best of tokens 1 to 3,
      and more give token 0, whatever the scores;
    - "multi": tokens 1 to 3, the reference's multimask_output=True and this package's multimask=True;
    - "all": tokens 0 to 3; the first is multimask=False.

    Each file is written beside its place and renamed. Raises ValueError for an unknown rule, OSError where
    the folder cannot be written to, ModuleNotFoundError without `onnx`.
    """
    if mask_rule not in get_args(MaskRule):
        raise ValueError(f"mask_rule must be one of {', '.join(get_args(MaskRule))}, got {mask_rule!r}")
    encoder, decoder = Path(directory, ENCODER), Path(directory, DECODER)
    for path in (encoder, decoder):
        check_folder(path)
    try:
        from .decoder import build_decoder
        from .encoder import build_encoder
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"exporting to ONNX needs a package: pip install onnx ({error})") from None

    models = {encoder: build_encoder(checkpoint), decoder: build_decoder(checkpoint, mask_rule)}
    for path, model in models.items():
        with whole_file(path) as partial:
            partial.write_bytes(model.SerializeToString(deterministic=True))
    return encoder, decoder


def main(argv: Sequence[str] | None = None) -> int:
    """The command of scripts/export_onnx.py. Returns the exit code: 0, or 2 for an error, in one line."""
    parser = argparse.ArgumentParser(description="Write a checkpoint as encoder.onnx and decoder.onnx.")
    parser.add_argument("directory", metavar="DIRECTORY", help="the folder to write into")
    parser.add_argument("--weights", metavar="FILE", help="any checkpoint (default: the packaged one)")
    parser.add_argument(
        "--mask-rule",
        choices=get_args(MaskRule),
        default="single",
        help="masks that the decoder gives: one, by the rule of the reference's ONNX export; tokens 1 to 3; "
        "or all four (default: %(default)s)",
    )
    arguments = parser.parse_args(argv)
    try:
        tensors = read(arguments.weights or default_path())
        paths = export_onnx(tensors, arguments.directory, mask_rule=arguments.mask_rule)
    except (ImportError, MemoryError, OSError, ValueError) as error:
        print(f"export_onnx: error: {error}", file=sys.stderr)
        return 2
    for path in paths:
        print(f"{path}: {path.stat().st_size} bytes")
    return 0
