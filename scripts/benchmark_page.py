"""Time the page of `mobilesam serve` in a headless Chromium. See --help."""

import sys
from pathlib import Path

from mobilesam.bench.page import main

if __name__ == "__main__":
    sys.exit(main(image=Path(__file__).parents[1] / "tests" / "data" / "rocket.jpg"))
