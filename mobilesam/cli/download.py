"""mobilesam download: downloads a published checkpoint into the user's cache folder."""

import argparse

from ..checkpoints.published import PUBLISHED


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run)
    add = parser.add_argument
    add("--checkpoint", choices=PUBLISHED, default="mobile_sam", help="checkpoint to download (default: %(default)s)")
    add(
        "--from",
        dest="source",
        metavar="SOURCE",
        help="a local copy of the published file, or the URL of a mirror (default: "
        f"{', '.join(published.url for published in PUBLISHED.values())})",
    )


def run(arguments: argparse.Namespace) -> int:
    from ..checkpoints.download import download

    checkpoint = download(arguments.checkpoint, arguments.source)
    print(f"{checkpoint.path}: the published weights, verified; use them with --weights {arguments.checkpoint}")
    return 0
