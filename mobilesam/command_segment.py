"""mobilesam segment: photos and prompts in, masks and pictures of them out."""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

from .arguments import add_model
from .batch import is_many
from .files import check_distinct
from .written_prompt import Coordinate, WrittenPrompt, coordinates


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run)
    add = parser.add_argument
    add(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="any picture that Pillow reads; or many: several, a folder, a quoted glob such as 'photos/**/*.jpg', a "
        "file of prompts (.csv with a header or .jsonl; fields image, points, labels, box, output)",
    )
    for option, label, meaning in (("--point", 1, "on the object"), ("--background", 0, "not on it")):
        add(
            option,
            dest="points",
            action="append",
            default=[],
            type=_labelled_point(label),
            metavar="X,Y",
            help=f"a place {meaning}, in pixels or, as 50%%,50%%, in per cent of the image; repeatable",
        )
    add("--box", type=_box, metavar="X0,Y0,X1,Y1", help="a box around the object, in pixels or per cent")
    add("--output", type=Path, metavar="FILE", help="write the mask: 255 on the object, 0 elsewhere; of many, a folder")
    add("--overlay", type=Path, metavar="FILE", help="write the photo with the mask drawn in; of many, a folder")
    add("--format", metavar="EXTENSION", help="of many: the masks' files (default: png)")
    add("--resume", action="store_true", help="of many: skip those whose files are there already")
    add("--single", action="store_true", help="one mask (token 0) instead of the best of three")
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
    if not arguments.output and not arguments.overlay:
        raise ValueError("nothing to write: give --output FILE for the mask, --overlay FILE for a picture")
    prompt = None
    if arguments.points or arguments.box:
        points, labels = zip(*arguments.points) if arguments.points else ((), ())
        prompt = WrittenPrompt(points, labels, arguments.box)
    if is_many(arguments.images):
        from . import command_segment_many

        return command_segment_many.run(arguments, prompt)
    if prompt is None:
        raise ValueError("no prompt: give --point X,Y or --box X0,Y0,X1,Y1")
    if arguments.resume or arguments.format:
        option = "--resume" if arguments.resume else "--format"
        raise ValueError(f"{option} is for many images: a folder, a glob or a file of prompts")
    return _one(arguments, prompt)


def _one(arguments: argparse.Namespace, prompt: WrittenPrompt) -> int:
    started = time.perf_counter()
    [image] = arguments.images
    outputs = [path for path in (arguments.output, arguments.overlay) if path]
    check_distinct([Path(image), *outputs])

    from . import api
    from .image import check_output, open_rgb, save_image

    for path, mode in ((arguments.output, "L"), (arguments.overlay, "RGB")):
        if path:
            check_output(path, mode)
    photo = open_rgb(image)
    model = api.load(arguments.weights, threads=arguments.threads)
    result = api.segment(photo, **prompt.on(*photo.size), multimask=not arguments.single, model=model)
    if arguments.output:
        result.save(arguments.output)
    if arguments.overlay:
        save_image(result.overlay(photo), arguments.overlay)
    area = int(result.mask.sum())
    print(
        f"score {result.scores[result.best]:.3f}, area {area} px ({area / result.mask.size:.1%}), "
        f"{time.perf_counter() - started:.2f} s: {', '.join(map(str, outputs))}"
    )
    return 0
