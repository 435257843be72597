"""The command line: `main`, a module for each command, and how a command starts. Imports every other package."""
