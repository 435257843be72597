"""mobilesam completion: prints a shell script that completes mobilesam commands, options and file names."""

import argparse
from collections.abc import Iterator

PLACES = ("DIR", "FILE", "IMAGE", "SOURCE")  # metavars of arguments that name files or folders


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Print a shell script that completes commands, options and file names. For bash: "
        "mobilesam completion bash > ~/.local/share/bash-completion/completions/mobilesam"
    )
    parser.set_defaults(run=run)
    parser.add_argument("shell", choices=("bash", "fish", "tcsh", "zsh"), help="the shell")


def run(arguments: argparse.Namespace) -> int:
    try:
        import shtab
    except ModuleNotFoundError:
        raise ImportError("completion needs shtab: pip install 'mobilesam[completion]'") from None
    from .main import make_parser

    parser = make_parser()
    for action in _actions(parser):
        if action.metavar in PLACES:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    print(shtab.complete(parser, arguments.shell))
    return 0


def _actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _actions(command)
