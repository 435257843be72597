"""The compiler flags of the micro-kernels, from setup.py. As a program, prints the flags of one file, such as avx2."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

SETUP = Path(__file__).parents[2] / "setup.py"
LISTS = ("CFLAGS", "AVX2", "AVX512", "X86", "ARM")


def build_flags(name: str) -> list[str]:
    """Return the flags that compile ``kernels/micro/{name}.c``. Executes only the assignments to LISTS in setup.py."""
    found: dict[str, object] = {}
    for node in ast.parse(SETUP.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in LISTS:
            exec(compile(ast.Module([node], []), str(SETUP), "exec"), found)
    common, of_isas = found["CFLAGS"], {**found["X86"], **found["ARM"]}  # type: ignore[dict-item]
    return [*common, *of_isas[name]]  # type: ignore[misc]


if __name__ == "__main__":
    print(*build_flags(sys.argv[1]))
