"""Run `mobilesam bench` on a photo of the tests. See --help."""

import sys
from pathlib import Path

from mobilesam.cli.main import main

PHOTO = Path(__file__).parents[1] / "tests" / "data" / "coffee.png"

if __name__ == "__main__":
    sys.exit(main(["bench", "--image", str(PHOTO), *sys.argv[1:]]))
