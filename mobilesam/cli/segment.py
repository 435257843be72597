"""mobilesam segment: segments photos with prompts, and writes masks, cut-outs and overlays."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ..util.files import check_distinct, remove_leftovers
from ..util.options import add_model
from . import startup
from .image_options import add_image_options
from .many.batch import add_keep_extension, is_many
from .written_prompt import Coordinate, WrittenPrompt, coordinates

if TYPE_CHECKING:
    from ..checkpoints.models import Model
    from ..images.rgb_photo import Photo
    from .many.outputs import Kind


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run)
    add = parser.add_argument
    add(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="a picture in any format that Pillow reads; for many images, several pictures, a folder, a quoted glob "
        "such as 'photos/**/*.jpg', or a file of prompts (.csv with a header or .jsonl; fields: image, points, labels, "
        "box, output)",
    )
    for option, label, meaning in (("--point", 1, "on the object"), ("--background", 0, "not on the object")):
        add(
            option,
            dest="points",
            action="append",
            default=[],
            type=_labelled_point(label),
            metavar="X,Y",
            help=f"a point {meaning}, in pixels, or in per cent of the image (50%%,50%%); repeatable",
        )
    add("--box", type=_box, metavar="X0,Y0,X1,Y1", help="a box around the object, in pixels or in per cent")
    add(
        "--output",
        dest="outputs",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="write the mask: .json (COCO), .geojson, .svg, or a picture with 255 on the object and 0 elsewhere; "
        "repeatable; for many images, a folder",
    )
    add(
        "--overlay",
        type=Path,
        metavar="FILE",
        help="write the photo with the mask and the prompt drawn on it; for many images, a folder",
    )
    add(
        "--cutout",
        type=Path,
        metavar="FILE",
        help="write the object on a transparent background (RGBA); for many images, a folder",
    )
    add("--crop", action="store_true", help="crop the --cutout picture to the object's box")
    add("--name", default="object", help="name of the object in .json, .geojson and .svg (default: %(default)s)")
    add("--polygons", action="store_true", help="add polygons with holes to .json, beside the run lengths")
    add(
        "--format",
        metavar="EXTENSIONS",
        help="for many images: formats of --output, such as png or png,json (default: png)",
    )
    add_keep_extension(parser)
    add("--resume", action="store_true", help="for many images: skip prompts whose output files exist already")
    add(
        "--single",
        action="store_true",
        help="predict one mask (token 0), also if the model was trained to predict three",
    )
    add_image_options(parser)
    add_model(parser)


def _coordinates(text: str, count: int, form: str) -> tuple[Coordinate, ...]:
    try:
        return coordinates(text, count, form)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _labelled_point(label: int) -> Callable[[str], tuple[tuple[Coordinate, ...], int]]:
    return lambda text: (_coordinates(text, 2, "X,Y"), label)


def _box(text: str) -> tuple[Coordinate, ...]:
    return _coordinates(text, 4, "X0,Y0,X1,Y1")


def run(arguments: argparse.Namespace) -> int:
    if not arguments.outputs and not arguments.overlay and not arguments.cutout:
        raise ValueError(
            "nothing to write: give --output FILE for the mask, or --overlay FILE or --cutout FILE for a picture"
        )
    if arguments.crop and not arguments.cutout:
        raise ValueError("--crop is for --cutout: give --cutout FILE")
    prompt = None
    if arguments.points or arguments.box:
        points, labels = zip(*arguments.points) if arguments.points else ((), ())
        prompt = WrittenPrompt(points, labels, arguments.box)
    if is_many(arguments.images):
        from .many import segment

        return segment.run(arguments, prompt)
    if prompt is None:
        raise ValueError("no prompt: give --point X,Y or --box X0,Y0,X1,Y1")
    for name in ("resume", "format", "keep_extension"):
        if getattr(arguments, name):
            option = "--" + name.replace("_", "-")
            raise ValueError(f"{option} is for many images: give several images, a folder, a glob or a file of prompts")
    return _one(arguments, prompt)


@startup.short_switch_interval()
def _one(arguments: argparse.Namespace, prompt: WrittenPrompt) -> int:
    started = time.perf_counter()
    image = Path(arguments.images[0])
    files: list[tuple[Kind, Path]] = [("mask", path) for path in arguments.outputs]
    files += [("cutout", arguments.cutout)] if arguments.cutout else []
    files += [("overlay", arguments.overlay)] if arguments.overlay else []
    check_distinct([image, *(path for _, path in files)])

    from ..images.photo import allow_large_photos, read_photo

    allow_large_photos()

    def read(model: Model) -> Photo:
        return read_photo(
            image, model.architecture, value_range=arguments.value_range or model.value_range, bands=arguments.bands
        )

    reading, network = startup.read_and_load(read, arguments.weights, arguments.threads, arguments.precision)
    from ..api.model import MobileSAM
    from ..api.segment import segment
    from .many import outputs  # imported here, while a background thread loads the network's layers

    style = outputs.Style(arguments.name, arguments.crop, arguments.polygons)
    for kind, path in files:
        outputs.check(kind, path, style)
    model, photo = MobileSAM(network), reading.result()
    multimask = False if arguments.single else None
    # "dtype", because the photo's values were already scaled when it was read.
    result = segment(photo, **prompt.on(*photo.rgb.size), multimask=multimask, value_range="dtype", model=model)
    remove_leftovers(path for _, path in files)
    outputs.write(files, result, photo.rgb, image, style)
    area = int(result.mask.sum())
    print(
        f"score {result.scores[result.best]:.3f}, area {area} px ({area / result.mask.size:.1%}), "
        f"{time.perf_counter() - started:.2f} s: {', '.join(str(path) for _, path in files)}"
    )
    return 0
