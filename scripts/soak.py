"""Soak tests: memory over many images, and a server under load. See --help and CONTRIBUTING.md."""

import runpy
import sys
from pathlib import Path

SUPPORT = Path(__file__).parents[1] / "tests" / "support"

if __name__ == "__main__":
    sys.path.insert(0, str(SUPPORT))
    runpy.run_module("soaking", run_name="__main__", alter_sys=True)
