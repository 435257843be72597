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
# LLVM's runtime (libomp) ends the process if a second copy of it starts, unless this variable is set. PyTorch and
# scikit-learn bring copies on macOS and Windows. scikit-learn sets this variable for the same reason.
COPIES = "KMP_DUPLICATE_LIB_OK", "TRUE"
WAIT_POLICY = "OMP_WAIT_POLICY"  # the standard's own variable for waiting


def load_runtime() -> None:
    """Load the OpenMP runtime with SPIN_COUNT and COPIES, unless the user has set these variables or WAIT_POLICY.

    The variables are set only while the runtime loads, so child processes do not inherit them. With LLVM's runtime,
    COPIES stays set, because a copy that another library loads later reads the variable too.
    """
    added = [COPIES] if WAIT_POLICY in os.environ else [SPIN_COUNT, COPIES]
    added = [(name, value) for name, value in added if name not in os.environ]
    os.environ.update(added)
    kept = False
    try:
        kept = import_module("mobilesam.kernels.core.team").has_llvm_runtime()
    finally:
        for name, _ in added:
            if not kept or name != COPIES[0]:
                del os.environ[name]
