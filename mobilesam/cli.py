"""The command line: segment, convert, info. The library loads inside the commands, to start fast."""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from . import __version__


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit code: 0, 2 for an error (one line on stderr), 130 if interrupted."""
    arguments = _parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except (ImportError, MemoryError, OSError, RuntimeError, TypeError, ValueError) as error:
        print(f"mobilesam: error: {_message(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as every other error is said, without the usage before it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"mobilesam: error: {message} (see {self.prog} --help)\n")


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.strerror}: {error.filename}"
    return " ".join(str(error).split()) or type(error).__name__


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="mobilesam", description="Segment anything in a photo, on a CPU.")
    parser.add_argument("--version", action="version", version=f"mobilesam {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    _add_segment(commands.add_parser("segment", help="cut one object out of a photo, given points or a box"))
    _add_convert(commands.add_parser("convert", help="convert a checkpoint to this package's safetensors"))
    info = commands.add_parser("info", help="what runs here: versions, CPU, ISA, threads, checkpoint")
    info.set_defaults(run=_info)
    return parser


def _add_segment(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_segment)
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
    add("--weights", metavar="FILE", help="a converted checkpoint (default: the packaged one)")
    add("--threads", type=int, metavar="N", help="default: MOBILESAM_NUM_THREADS, else the usable CPUs")


def _add_convert(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=_convert)
    add = parser.add_argument
    add(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="mobile_sam.pt, a safetensors file with the reference's names, or an ONNX encoder and decoder",
    )
    add("--output", type=Path, required=True, metavar="FILE", help="the safetensors file to write")
    add(
        "--dtype",
        choices=("fp16", "fp32"),
        default="fp16",
        help="of convolution and linear weights; everything else is fp32 (default: %(default)s)",
    )


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


def _segment(arguments: argparse.Namespace) -> None:
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


def _check_distinct(paths: Sequence[Path]) -> None:
    seen: set[Path] = set()
    for path in paths:
        if path.resolve() in seen:
            raise ValueError(f"would overwrite a file of this same command: {path}")
        seen.add(path.resolve())


def _convert(arguments: argparse.Namespace) -> None:
    from .checkpoint import convert

    convert(arguments.sources, arguments.output, dtype=arguments.dtype)
    print(f"{arguments.output}: {arguments.output.stat().st_size} bytes, {arguments.dtype}")


def _info(arguments: argparse.Namespace) -> None:
    import platform

    import numpy
    import PIL

    from . import kernels
    from .checkpoint import open_checkpoint

    checkpoint = open_checkpoint(None)
    facts = {
        "mobilesam": __version__,
        "python": f"{platform.python_version()} ({sys.executable})",
        "numpy, pillow": f"{numpy.__version__}, {PIL.__version__}",
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cpu features": " ".join(kernels.isa.cpu_features()),
        "isa": f"{kernels.isa.current()} (available: {', '.join(kernels.isa.available())})",
        "openmp": "yes" if kernels.isa.openmp() else "no: single-threaded",
        "threads": kernels.threads.default_threads(),
        "checkpoint": checkpoint.path,
        **{f"  {name}": value for name, value in sorted(checkpoint.metadata.items())},
    }
    for name, value in facts.items():
        print(f"{name:<18}{value}")


def cpu_name() -> str:
    import platform

    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
