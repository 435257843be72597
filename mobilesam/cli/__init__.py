"""The command line: `main` and a module for each command. Imports everything else."""
