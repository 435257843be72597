"""The command `mobilesam`. Only the module of the given subcommand is imported, for a fast start."""

import argparse
import os
import re
import sys
import traceback
from collections.abc import Collection, Sequence
from importlib import import_module
from itertools import islice
from typing import Any, NoReturn

from ..util.console import describe, finish_output, print_any_text, say_error, shortened, show_warnings_in_one_line
from ..version import __version__
from . import startup

COMMANDS = {
    "segment": "segment one object in one or many photos, given points or a box",
    "everything": "find all masks in photos, without a prompt",
    "batch": "find all masks in very many photos, on all CPUs of one or many machines",
    "volume": "segment objects in medical volumes, given boxes",
    "serve": "serve a local web page to segment photos by clicking, and an HTTP API",
    "download": "download a published checkpoint, for --weights NAME",
    "convert": "convert a checkpoint to this package's safetensors format",
    "bench": "time this package on this machine, against ONNX Runtime if it is installed",
    "completion": "print a script that completes this command's words in a shell",
    "info": "show versions, CPU, ISA, threads and checkpoint",
}


def run() -> NoReturn:
    """Run the command as the only work of this process, then exit."""
    startup.begin_process()
    print_any_text()
    show_warnings_in_one_line()
    try:
        code = main()
    except SystemExit as end:  # raised by argparse
        code = int(end.code or 0)
    code = finish_output(code)
    startup.end_process()
    sys.exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: Words of the command line after `mobilesam`. None for the words of this process.

    Returns:
        The exit code. 0: success. 1: some of the inputs failed. 2: an error, written to stderr in one line, after the
        traceback if MOBILESAM_DEBUG is set. 130: interrupted.
    """
    words = sys.argv[1:] if argv is None else argv
    command = islice((word for word in words if not word.startswith("-")), 1)
    try:
        arguments = make_parser(list(command)).parse_args(words)
        code: int = arguments.run(arguments)
    except Exception as error:
        if os.environ.get("MOBILESAM_DEBUG"):
            traceback.print_exc()
        say_error(describe(error))
        return 2
    except KeyboardInterrupt:
        return 130
    return code


class _Parser(argparse.ArgumentParser):
    """A parser that reports a usage error in one line, without the usage text that argparse writes before it.

    Values that begin with a negative number, such as the window -600,1500, are no options.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._negative_number_matcher = re.compile(r"-\.?\d.*")

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"mobilesam: error: {shortened(message)} (see {self.prog} --help)\n")


def make_parser(wanted: Collection[str] = COMMANDS.keys()) -> argparse.ArgumentParser:
    """The parser of the command line. The parsed arguments have an attribute `run`, the function that runs the command.

    Args:
        wanted: Commands whose arguments the parser knows. For all other commands the parser knows only the name, so
            their modules are not imported.
    """
    parser = _Parser(prog="mobilesam", description="Segment anything in a photo, on a CPU.")
    parser.add_argument("--version", action="version", version=f"mobilesam {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:])
        if name in wanted:
            import_module(f".{name}", __package__).add_arguments(command)
    return parser
