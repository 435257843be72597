"""Run the static checks: ruff, mypy, import-linter (the layers), and check_cycles.py (cimports and C headers).

mypy and import-linter read a staged copy of the package (`stage.py`). The exit code is 1 if any check fails.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from stage import ROOT, stage


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="mobilesam-") as name:
        folder = stage(Path(name))
        environment = {**os.environ, "MYPYPATH": str(folder)}
        config = str(ROOT / "pyproject.toml")
        commands = [
            (["ruff", "check", "--no-cache"], ROOT),
            (["ruff", "format", "--no-cache", "--check"], ROOT),
            (["mypy", "--config-file", config, "--cache-dir", os.devnull, str(folder / "mobilesam"), "scripts"], ROOT),
            (["lint-imports", "--no-cache", config], folder),  # in ROOT, lint-imports would read the checkout
            ([sys.executable, "scripts/check_cycles.py"], ROOT),
        ]
        failed = []
        for command, where in commands:
            print(f"$ {' '.join(command)}", flush=True)
            if subprocess.run(command, cwd=where, env=environment, check=False).returncode:
                failed.append(command[0])
    if failed:
        print(f"lint: failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
