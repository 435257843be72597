"""Time this package against ONNX Runtime (and OpenVINO, where installed); see --help."""

import sys
from pathlib import Path

from mobilesam.benchmark import main

if __name__ == "__main__":
    sys.exit(main(image=Path(__file__).parents[1] / "tests" / "data" / "coffee.png"))
