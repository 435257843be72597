"""mobilesam bench: times this package on this machine, against ONNX Runtime and OpenVINO if they are installed."""

import argparse

from ..bench import run as benchmark


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Time this package against ONNX Runtime and OpenVINO, if they are installed (pip install 'mobilesam[bench]' "
        "installs ONNX Runtime). The engines run in turns. A ratio is an engine's median time over this package's."
    )
    parser.set_defaults(run=benchmark.run)
    benchmark.add_arguments(parser)
