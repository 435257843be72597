"""Run `mobilesam convert`. Usage: convert_weights.py SOURCE [SOURCE] --output FILE [--dtype fp16|fp32]."""

import sys

from mobilesam.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["convert", *sys.argv[1:]]))
