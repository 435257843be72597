"""The options of everything-mode, which the commands `everything` and `batch` share."""

import argparse
from collections.abc import Callable, Mapping
from typing import Any

PARAMETERS: Mapping[str, tuple[Callable[[str], float], float, str]] = {  # type, default and help text of each option
    "points_per_side": (int, 32, "points on each side of the square grid"),
    "points_per_batch": (int, 64, "points decoded at a time; the masks do not depend on this number"),
    "pred_iou_thresh": (float, 0.88, "keep masks with a predicted IoU above N"),
    "stability_score_thresh": (float, 0.95, "keep masks with a stability score of at least N"),
    "stability_score_offset": (float, 1.0, "stability is the IoU of the masks at logit thresholds +N and -N"),
    "box_nms_thresh": (float, 0.7, "masks whose boxes have an IoU above N are duplicates"),
    "crop_n_layers": (int, 0, "also search N layers of crops; layer i has 4^i crops"),
    "crop_nms_thresh": (float, 0.7, "masks of different crops whose boxes have an IoU above N are duplicates"),
    "crop_overlap_ratio": (
        float,
        512 / 1500,
        "overlap of the first layer's crops, as a fraction of the image's short side",
    ),
    "crop_n_points_downscale_factor": (int, 1, "divide the points per side by N from one layer to the next"),
    "min_mask_region_area": (float, 0, "remove holes and islands of fewer than N pixels"),
}


def add_everything_options(parser: argparse.ArgumentParser) -> None:
    """Add --adaptive and an option for each parameter."""
    parser.add_argument(
        "--adaptive",
        action="store_true",
        help="ask fewer points, and compute only masks that can become records: about a third of the time, and a few "
        "masks in a hundred differ",
    )
    for name, (kind, default, meaning) in PARAMETERS.items():
        parser.add_argument(
            "--" + name.replace("_", "-"),
            dest=name,
            type=kind,
            default=default,
            metavar="N",
            help=f"{meaning} (default: {default:.4g})",
        )


def parameters_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """The parameters of `MaskGenerator` that the command line gives."""
    return {name: getattr(arguments, name) for name in (*PARAMETERS, "adaptive")}
