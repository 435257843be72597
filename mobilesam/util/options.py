"""Options that several commands share."""

import argparse


def add_model(parser: argparse.ArgumentParser) -> None:
    """--weights, --threads and --precision, as `load` takes them."""
    parser.add_argument(
        "--weights",
        metavar="FILE",
        help="a converted checkpoint, or mobile_sam, the official one, once downloaded (default: the packaged one)",
    )
    parser.add_argument("--threads", type=int, metavar="N", help="default: MOBILESAM_NUM_THREADS, else the usable CPUs")
    parser.add_argument(
        "--precision",
        metavar="NAME",
        help="fp32, bf16, int8 or auto: bf16 where that is faster (default: MOBILESAM_PRECISION, else fp32)",
    )


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text!r}")
    return int(text)
