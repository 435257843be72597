"""Measure how many records the adaptive and the hierarchical everything-mode find, and how fast. See --help."""

import sys

from mobilesam.bench.recall import main

if __name__ == "__main__":
    sys.exit(main())
