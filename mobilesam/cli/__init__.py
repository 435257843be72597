"""The command line: `main`, one module per command, and `startup`. Imports every other package."""
