"""mobilesam segment: one photo and a prompt in, the mask and a picture of it out."""

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from .arguments import add_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run)
    add = parser.add_argument
    add("image", metavar="IMAGE", help="any picture that Pillow reads; EXIF orientation is honoured")
    for option, label, meaning in (("--point", 1, "on the object"), ("--background", 0, "not on it")):
        add(
            option,
            dest="points",
            action="append",
            default=[],
            type=_labelled_point(label),
            metavar="X,Y",
            help=f"a pixel {meaning}; repeatable",
        )
    add("--box", type=_box, metavar="X0,Y0,X1,Y1", help="a box around the object, in pixels")
    add("--output", type=Path, metavar="FILE", help="write the mask: 255 on the object, 0 elsewhere")
    add("--overlay", type=Path, metavar="FILE", help="write the photo with the mask drawn in")
    add("--single", action="store_true", help="one mask (token 0) instead of the best of three")
    add_model(parser)


def _floats(text: str, count: int, form: str) -> tuple[float, ...]:
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError:
        values = ()
    if len(values) != count:
        raise argparse.ArgumentTypeError(f"expected {form}, got {text!r}")
    return values


def _labelled_point(label: int) -> Callable[[str], tuple[tuple[float, ...], int]]:
    return lambda text: (_floats(text, 2, "X,Y"), label)


def _box(text: str) -> tuple[float, ...]:
    return _floats(text, 4, "X0,Y0,X1,Y1")


def run(arguments: argparse.Namespace) -> int:
    started = time.perf_counter()
    outputs = [path for path in (arguments.output, arguments.overlay) if path]
    if not outputs:
        raise ValueError("nothing to write: give --output FILE for the mask, --overlay FILE for a picture")
    if not arguments.points and not arguments.box:
        raise ValueError("no prompt: give --point X,Y or --box X0,Y0,X1,Y1")
    _check_distinct([Path(arguments.image), *outputs])

    from . import api
    from .image import check_output, open_rgb, save_image

    for path, mode in ((arguments.output, "L"), (arguments.overlay, "RGB")):
        if path:
            check_output(path, mode)
    photo = open_rgb(arguments.image)
    model = api.load(arguments.weights, threads=arguments.threads)
    result = api.segment(
        photo,
        [point for point, _ in arguments.points] or None,
        [label for _, label in arguments.points] or None,
        box=arguments.box,
        multimask=not arguments.single,
        model=model,
    )
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


def _check_distinct(paths: Sequence[Path]) -> None:
    seen: set[Path] = set()
    for path in paths:
        if path.resolve() in seen:
            raise ValueError(f"would overwrite a file of this same command: {path}")
        seen.add(path.resolve())
