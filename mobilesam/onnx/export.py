"""Exporting a checkpoint to ONNX, as encoder.onnx and decoder.onnx. Needs the package `onnx`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from ..checkpoints.models import choose_model
from ..checkpoints.reader import open_source
from ..network.parameters import Tensors
from ..util.files import check_folder, remove_leftovers, whole_file
from .types import MaskRule

ENCODER, DECODER = "encoder.onnx", "decoder.onnx"


def export_onnx(
    checkpoint: Tensors, directory: str | os.PathLike[str], *, mask_rule: MaskRule = "single"
) -> tuple[Path, Path]:
    """Write encoder.onnx and decoder.onnx into a folder. Both are float32 and opset 20.

    The tensors decide the architecture: MobileSAM, LiteMedSAM or Light HQ-SAM. S is the side of the canvas in pixels,
    1024 or for LiteMedSAM 256. The encoder's input and outputs:

    - `input` (1, 3, S, S): the RGB image, resized to a longest side of S, normalised, then zero-padded at the right and
      the bottom. For LiteMedSAM the image is resized by areas, and normalised so that its values range from 0 to 1;
    - `output` (1, 256, 64, 64): the image embedding;
    - `hq_features` (1, 32, 256, 256), for Light HQ-SAM only: the image features of the HQ token.

    The decoder has the inputs and outputs of SAM's own export, all float32. The decoder's inputs:

    - `image_embeddings` (1, 256, 64, 64): the encoder's output;
    - `point_coords` (1, N, 2): (x, y) in pixels of the image resized to a longest side of S. LiteMedSAM expects corners
      of boxes in whole pixels;
    - `point_labels` (1, N): 1 on the object, 0 not on the object, 2 the upper left corner of a box, 3 the lower right
      corner, -1 a padding point. Points without a box must end with a padding point;
    - `mask_input` (1, 1, 256, 256): low-resolution logits from an earlier call;
    - `has_mask_input` (1,): 1 to use `mask_input`, 0 to ignore it;
    - `orig_im_size` (2,): (height, width) of the original image;
    - `hq_features` (1, 32, 256, 256), for Light HQ-SAM only: the encoder's second output.

    The decoder's outputs, for C masks:

    - `masks` (1, C, height, width): logits, above 0 on the object;
    - `iou_predictions` (1, C): scores;
    - `low_res_masks` (1, C, 256, 256): low-resolution logits.

    Args:
        checkpoint: fused tensors by reference name, from `open_checkpoint` or `read`.
        directory: the folder to write into.
        mask_rule: which of the model's four masks the decoder returns:
            - "single": one mask, by the rule of the reference's ONNX export. The rule adds (N - 2.5)·1000 to the score
              of token 0 and takes the mask with the best score. So up to 2 points, padding included, give
              the best of tokens 1 to 3, and more points give token 0. For LiteMedSAM, which is trained for one mask,
              "single" is always token 0;
            - "multi": tokens 1 to 3, like multimask_output=True of the reference and multimask=True of this package.
              For Light HQ-SAM only the best of the three, by score;
            - "all": tokens 0 to 3. Token 0 is the mask of multimask=False.
            For Light HQ-SAM, the HQ token's mask is added to each returned mask. The scores are those of tokens 0 to 3.

    Returns:
        The paths of the encoder and the decoder. Each file appears complete or not at all.

    Raises:
        ValueError: `mask_rule` is unknown.
        OSError: the folder cannot be written to.
        ModuleNotFoundError: the package `onnx` is not installed.
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
    """The command of scripts/export_onnx.py. Returns 0, 2 after an error in one line, or 130 if interrupted."""
    parser = argparse.ArgumentParser(description="Write a checkpoint as encoder.onnx and decoder.onnx.")
    parser.add_argument("directory", metavar="DIRECTORY", help="the folder to write into")
    parser.add_argument(
        "--weights",
        metavar="FILE",
        help="any checkpoint, or the name of a downloaded one, such as lite_medsam (default: the packaged one)",
    )
    parser.add_argument(
        "--mask-rule",
        choices=get_args(MaskRule),
        default="single",
        help="the masks that the decoder returns. single: one, by the rule of the reference's ONNX export, or token 0 "
        "for LiteMedSAM; multi: those of tokens 1 to 3, or the best of them for Light HQ-SAM; all: all four "
        "(default: %(default)s)",
    )
    arguments = parser.parse_args(argv)
    try:
        checkpoint = open_source(arguments.weights)
        model = choose_model(None, checkpoint.architecture, checkpoint.metadata, None, checkpoint.path)
        if model.always_three and arguments.mask_rule != "multi":
            raise ValueError(f"--mask-rule must be multi for {model.name}, which always predicts three masks")
        remove_leftovers(Path(arguments.directory, name) for name in (ENCODER, DECODER))
        paths = export_onnx(checkpoint, arguments.directory, mask_rule=arguments.mask_rule)
    except (ImportError, MemoryError, OSError, ValueError) as error:
        print(f"export_onnx: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    for path in paths:
        print(f"{path}: {path.stat().st_size} bytes")
    return 0
