"""Loads the OpenMP runtime with settings for shared machines.

A thread that waits for its team spins, because this is faster than to sleep and to be woken. If other processes keep
the CPUs busy, a spinning thread takes the CPU from the thread that it waits for. So the time of spinning is bounded.
The figures are in docs/performance.md.
"""

from __future__ import annotations

import os
from importlib import import_module

# GNU's runtime (libgomp) reads its variables when it is loaded. One spin takes about a third of a microsecond.
SPIN_COUNT = "GOMP_SPINCOUNT", "10000"
WAIT_POLICY = "OMP_WAIT_POLICY"  # the standard's own variable for waiting


def load_with_bounded_waiting() -> None:
    """Load the OpenMP runtime, unless it is loaded already or the user has chosen how its threads wait.

    The variable is set only while the runtime loads, so child processes do not inherit the variable.
    """
    name, value = SPIN_COUNT
    if name in os.environ or WAIT_POLICY in os.environ:
        return
    os.environ[name] = value
    try:
        import_module("mobilesam.kernels.core.team")
    finally:
        del os.environ[name]
