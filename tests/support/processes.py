"""Runs Python code in a new process."""

import os
import subprocess
import sys
from pathlib import Path

SUPPORT = Path(__file__).parent


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `code` in a new Python process, for at most a minute.

    The process can import the modules in this folder. It inherits the environment without the MOBILESAM_ variables.

    Args:
        code: Python source.
        **environment: Additional environment variables.
    """
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MOBILESAM_")}
    path = os.pathsep.join(filter(None, [str(SUPPORT), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=SUPPORT,  # not the project's root, whose source folder would hide an installed wheel
        env=kept | {"PYTHONPATH": path} | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )


def output(code: str, **environment: str) -> str:
    """The stripped standard output of `code`, which must exit with code 0."""
    done = run(code, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
