"""mobilesam convert: converts a checkpoint of another format to this package's safetensors format."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run)
    add = parser.add_argument
    add(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="a .pt file of PyTorch, a safetensors file or the index of its shards, or an ONNX encoder and an ONNX "
        "decoder",
    )
    add("--output", type=Path, required=True, metavar="FILE", help="the safetensors file to write")
    add(
        "--dtype",
        choices=("fp16", "fp32"),
        default="fp16",
        help="dtype of convolution and linear weights; all other tensors are fp32 (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> int:
    from ..checkpoints.reader import convert

    convert(arguments.sources, arguments.output, dtype=arguments.dtype)
    print(f"{arguments.output}: {arguments.output.stat().st_size} bytes, {arguments.dtype}")
    return 0
