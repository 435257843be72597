"""Options that several commands share."""

import argparse

THREADS = "number of threads (default: MOBILESAM_NUM_THREADS, else the number of usable CPUs)"


def add_model(
    parser: argparse.ArgumentParser, default: str = "the packaged checkpoint", *, threads: str = THREADS
) -> None:
    """Add --weights, --threads and --precision, the arguments of `load`.

    Args:
        parser: The parser.
        default: The default of --weights, for the help text.
        threads: The help text of --threads.
    """
    parser.add_argument(
        "--weights",
        metavar="FILE",
        help="a checkpoint (.pt, .safetensors), or the name of a downloaded one, such as mobile_sam or lite_medsam; "
        f"mobilesam download --list lists the names (default: {default})",
    )
    parser.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help=threads,
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
