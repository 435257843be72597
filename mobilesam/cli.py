"""The command line: a module for each command, which loads the library when it runs, to start fast."""

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn

from . import (
    __version__,
    command_bench,
    command_completion,
    command_convert,
    command_download,
    command_everything,
    command_info,
    command_segment,
    command_serve,
)
from .console import describe

COMMANDS = {
    "segment": (command_segment, "cut one object out of a photo, given points or a box"),
    "everything": (command_everything, "cut everything out of photos: all masks, without a prompt"),
    "serve": (command_serve, "a local page to click in, and its HTTP API"),
    "download": (command_download, "fetch the official checkpoint, for --weights mobile_sam"),
    "convert": (command_convert, "convert a checkpoint to this package's safetensors"),
    "bench": (command_bench, "time it on this machine, against ONNX Runtime where that is installed"),
    "completion": (command_completion, "a script that completes this command's words in a shell"),
    "info": (command_info, "what runs here: versions, CPU, ISA, threads, checkpoint"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns its exit code, 0 if all went well; 2 for an error (one line on stderr), 130 if
    interrupted."""
    arguments = make_parser().parse_args(argv)
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


def make_parser() -> argparse.ArgumentParser:
    """The whole command's parser; `run` of what it parses is the function to call."""
    parser = _Parser(prog="mobilesam", description="Segment anything in a photo, on a CPU.")
    parser.add_argument("--version", action="version", version=f"mobilesam {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, (module, summary) in COMMANDS.items():
        module.add_arguments(commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:]))
    return parser
