"""The command line: a module for each command, loaded when that is asked for; it loads the library when it runs."""

import argparse
import sys
from collections.abc import Collection, Sequence
from importlib import import_module
from itertools import islice
from typing import NoReturn

from ..util.console import describe
from ..version import __version__
from . import startup

COMMANDS = {
    "segment": "cut one object out of a photo, given points or a box",
    "everything": "cut everything out of photos: all masks, without a prompt",
    "serve": "a local page to click in, and its HTTP API",
    "download": "fetch the official checkpoint, for --weights mobile_sam",
    "convert": "convert a checkpoint to this package's safetensors",
    "bench": "time it on this machine, against ONNX Runtime where that is installed",
    "completion": "a script that completes this command's words in a shell",
    "info": "what runs here: versions, CPU, ISA, threads, checkpoint",
}


def run() -> NoReturn:
    """The command as a process of its own."""
    startup.begin_process()
    code = main()
    startup.end_process()
    sys.exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns its exit code, 0 if all went well; 2 for an error (one line on stderr), 130 if
    interrupted."""
    words = sys.argv[1:] if argv is None else argv
    command = islice((word for word in words if not word.startswith("-")), 1)
    arguments = make_parser(list(command)).parse_args(words)
    try:
        code: int = arguments.run(arguments)
    except (ImportError, MemoryError, OSError, RuntimeError, TypeError, ValueError) as error:
        print(f"mobilesam: error: {describe(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return code


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as every other error is said, without the usage before it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"mobilesam: error: {message} (see {self.prog} --help)\n")


def make_parser(wanted: Collection[str] = COMMANDS.keys()) -> argparse.ArgumentParser:
    """The whole command's parser; `run` of what it parses is the function to call. Of commands that are not ``wanted``
    it knows the names alone."""
    parser = _Parser(prog="mobilesam", description="Segment anything in a photo, on a CPU.")
    parser.add_argument("--version", action="version", version=f"mobilesam {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:])
        if name in wanted:
            import_module(f".{name}", __package__).add_arguments(command)
    return parser
