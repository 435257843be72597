"""Python in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

SUPPORT = Path(__file__).parent


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Python with `code`, able to import the modules of this folder; a minute at most."""
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
    """What `code` printed; it must succeed."""
    done = run(code, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
