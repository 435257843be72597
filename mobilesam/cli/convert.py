"""mobilesam convert: converts a checkpoint of another format to this package's safetensors format."""

import argparse
from pathlib import Path

from ..checkpoints.published import PUBLISHED
from ..util.files import check_distinct, remove_leftovers


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
    add(
        "--model",
        metavar="NAME",
        help="the published model that the file is, or was trained from, if its tensors do not tell: "
        f"{', '.join(PUBLISHED)}",
    )
    add(
        "--decoder",
        metavar="FILE",
        help="a file with another prompt encoder and mask decoder, such as MobileSAMv2's Prompt_guided_Mask_Decoder.pt",
    )


def run(arguments: argparse.Namespace) -> int:
    from ..checkpoints.reader import convert

    for source in [*arguments.sources, *([arguments.decoder] if arguments.decoder else [])]:
        check_distinct([Path(source), arguments.output])
    remove_leftovers([arguments.output])
    made = convert(
        arguments.sources, arguments.output, dtype=arguments.dtype, model=arguments.model, decoder=arguments.decoder
    )
    size = f"{arguments.output.stat().st_size} bytes"
    print(f"{arguments.output}: {size}, {arguments.dtype}, {made.metadata['model']} ({made.architecture.name})")
    return 0
