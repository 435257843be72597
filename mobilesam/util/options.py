"""Options that several commands share."""

import argparse


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add --weights, --threads and --precision, the arguments of `load`."""
    parser.add_argument(
        "--weights",
        metavar="FILE",
        help="a checkpoint (.pt, .safetensors), or mobile_sam for the downloaded official checkpoint (default: the "
        "packaged checkpoint)",
    )
    parser.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="number of threads (default: MOBILESAM_NUM_THREADS, else the number of usable CPUs)",
    )
    parser.add_argument(
        "--precision",
        metavar="NAME",
        help="fp32, bf16, int8, or auto for bf16 if it is faster (default: MOBILESAM_PRECISION, else fp32)",
    )


def positive(text: str) -> int:
    """Parse an option's value as a whole number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)
