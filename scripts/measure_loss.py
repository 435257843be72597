"""Measure how much bf16 or int8 changes the masks of photos. See --help."""

import sys

from mobilesam.bench.loss import main

if __name__ == "__main__":
    sys.exit(main())
