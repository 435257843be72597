"""Fuzzing of the readers, the server and the kernels, with seeds that repeat each case. `scripts/fuzz.py` runs it.

`registry` lists the targets. A target makes inputs from random numbers and runs them. A worker process (`worker`) runs
the cases of one target, with limits on time and memory, and `run` starts the workers and collects the findings.
"""
