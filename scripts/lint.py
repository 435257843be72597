"""Check form, types and the direction of imports: ruff, mypy, import-linter, and cycles among cimports and C headers.

mypy and import-linter read a staged copy of the package (`stage.py`). Exit code 1 where any of them finds something.
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
            (["lint-imports", "--no-cache", config], folder),  # elsewhere it would read the checkout
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
