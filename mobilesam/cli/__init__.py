"""The command line: `main`, one module per command, and `startup`. Imports all packages of `mobilesam`."""
