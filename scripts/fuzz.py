"""Fuzz the readers, the server and the kernels, with cases that a seed repeats. See --help and CONTRIBUTING.md."""

import runpy
import sys
from pathlib import Path

SUPPORT = Path(__file__).parents[1] / "tests" / "support"

if __name__ == "__main__":
    sys.path.insert(0, str(SUPPORT))
    runpy.run_module("fuzzing", run_name="__main__", alter_sys=True)
