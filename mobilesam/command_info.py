"""mobilesam info: what runs here."""

import argparse
import sys
from pathlib import Path

from . import __version__


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    import platform

    import numpy
    import PIL

    from . import kernels
    from .checkpoint import open_checkpoint
    from .precision import fastest

    checkpoint = open_checkpoint(None)
    facts = {
        "mobilesam": __version__,
        "python": f"{platform.python_version()} ({sys.executable})",
        "numpy, pillow": f"{numpy.__version__}, {PIL.__version__}",
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cpu features": " ".join(kernels.isa.cpu_features()),
        "isa": f"{kernels.isa.current()} (available: {', '.join(kernels.isa.available())})",
        "precisions": f"{', '.join(kernels.isa.precisions())} (auto: {fastest()})",
        "openmp": "yes" if kernels.isa.openmp() else "no: single-threaded",
        "threads": kernels.threads.default_threads(),
        "checkpoint": checkpoint.path,
        **{f"  {name}": value for name, value in sorted(checkpoint.metadata.items())},
    }
    for name, value in facts.items():
        print(f"{name:<18}{value}")
    return 0


def cpu_name() -> str:
    import platform

    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
