"""Measure what bf16 or int8 changes in the masks of any photos; see --help."""

import sys

from mobilesam.bench.loss import main

if __name__ == "__main__":
    sys.exit(main())
