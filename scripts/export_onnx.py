"""Export a checkpoint to ONNX. Usage: export_onnx.py [--weights FILE] [--mask-rule single|multi|all] DIRECTORY."""

import sys

from mobilesam.onnx.export import main

if __name__ == "__main__":
    sys.exit(main())
