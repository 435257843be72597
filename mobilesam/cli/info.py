"""mobilesam info: shows the versions, CPU, ISA, threads and checkpoint that this package uses on this machine."""

import argparse
import os
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ..checkpoints.models import choose_model
from ..checkpoints.published import PUBLISHED, is_downloaded
from ..util.console import without_home
from ..version import __version__


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Show versions, CPU, ISA, threads and checkpoint, as a Markdown block to paste into an issue."
    parser.set_defaults(run=run)
    parser.add_argument(
        "--weights", metavar="FILE", help="the checkpoint to describe, by file or name (default: the packaged one)"
    )


def run(arguments: argparse.Namespace) -> int:
    import platform

    import numpy
    import PIL

    from .. import kernels
    from ..checkpoints.reader import open_source
    from ..network.precision import fastest
    from ..util.system import cpu_name

    checkpoint = open_source(arguments.weights)
    model = choose_model(None, checkpoint.architecture, checkpoint.metadata, None, checkpoint.path)
    facts = {
        "mobilesam": __version__,
        "python": f"{platform.python_version()} ({without_home(Path(sys.executable))})",
        "numpy, pillow": f"{numpy.__version__}, {PIL.__version__}",
        "optional": ", ".join(f"{name} {version}" for name, version in optional_packages()) or "none",
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cpu features": " ".join(kernels.isa.cpu_features()),
        "isa": f"{kernels.isa.current()} (available: {', '.join(kernels.isa.available())})",
        "precisions": f"{', '.join(kernels.isa.precisions())} (auto: {fastest()})",
        "openmp": "yes" if kernels.threads.openmp() else "no: single-threaded",
        "threads": f"{kernels.threads.default_threads()} of {os.cpu_count() or 'unknown'} CPUs",
        **{name: value for name, value in sorted(os.environ.items()) if name.startswith("MOBILESAM_")},
        "downloaded": ", ".join(name for name in PUBLISHED if is_downloaded(name)) or "none",
        "checkpoint": without_home(checkpoint.path),
        **{
            f"  {name}": value
            for name, value in sorted(
                {**checkpoint.metadata, "architecture": checkpoint.architecture.name, "model": model.name}.items()
            )
        },
    }
    width = 2 + max(map(len, facts))
    print("```", *(f"{name:<{width}}{value}" for name, value in facts.items()), "```", sep="\n")
    return 0


def optional_packages() -> Iterator[tuple[str, str]]:
    """Name and version of each installed package that the extras for users (not test, dev or docs) require."""
    from importlib.metadata import PackageNotFoundError, requires, version

    extra = re.compile(r"([\w.-]+).*extra == ['\"](?!test|dev|docs)")
    for name in sorted({match[1] for match in map(extra.match, requires("mobilesam") or ()) if match} - {"mobilesam"}):
        with suppress(PackageNotFoundError):
            yield name, version(name)
