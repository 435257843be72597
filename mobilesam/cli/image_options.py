"""Options for opening images, which several commands share."""

import argparse
from collections.abc import Callable
from typing import Any

from ..images.value_range import parse_bands, parse_range


def add_image_options(parser: argparse.ArgumentParser) -> None:
    """Add --value-range and --bands. See `mobilesam.images.photo.open_rgb`."""
    parser.add_argument(
        "--value-range",
        type=_argument(parse_range),
        metavar="RANGE",
        help="values that become black and white: minmax for the image's smallest and largest value, minmax-channel "
        "for those of each channel, or LOW,HIGH (with a negative LOW as --value-range=LOW,HIGH); default: the "
        "model's own, usually dtype, the range of the file's type, such as 0 to 65535",
    )
    parser.add_argument(
        "--bands",
        type=_argument(parse_bands),
        metavar="R,G,B",
        help="numbers, from 0, of the file's bands that are red, green and blue; default: the first three",
    )


def _argument(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    def parsed(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parsed
