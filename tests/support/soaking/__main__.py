"""The command line of scripts/soak.py."""

import argparse
import sys

from .images import soak_images
from .server import soak_server


def main() -> int:
    """Returns the exit code: 0, or 1 if a limit was exceeded."""
    parser = argparse.ArgumentParser(prog="soak.py", description="Memory and answers over many images.")
    add = parser.add_argument
    add("--images", type=count, metavar="N", help="encode, click, refine and search N images in one process")
    add("--server", type=count, metavar="N", help="send N images to a server")
    add("--clients", type=count, default=8, metavar="N", help="clients of the server; one more misbehaves (default: 8)")
    add(
        "--limit",
        type=float,
        default=10,
        metavar="MB",
        help="accepted growth of resident memory (default: %(default)s)",
    )
    arguments = parser.parse_args()
    if not arguments.images and not arguments.server:
        parser.error("expected --images or --server")
    passed = True
    if arguments.images:
        passed = soak_images(arguments.images, arguments.limit)
    if arguments.server:
        passed = soak_server(arguments.server, arguments.clients, arguments.limit) and passed
    print("passed" if passed else "FAILED")
    return 0 if passed else 1


def count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected at least 1, got {number}")
    return number


if __name__ == "__main__":
    sys.exit(main())
