"""mobilesam bench: this machine, against ONNX Runtime where that is installed."""

import argparse

from ..bench import run as benchmark


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Time this package in turns with ONNX Runtime and OpenVINO, where they are installed (pip install "
        "'mobilesam[bench]' brings the first). A ratio is an engine's median over this package's."
    )
    parser.set_defaults(run=benchmark.run)
    benchmark.add_arguments(parser)
