"""Check that cimports and C includes have no cycle. If there is a cycle, print its files and exit with code 1."""

import re
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

KERNELS = Path(__file__).parents[1] / "kernels"
CIMPORT = re.compile(r"^\s*(?:from\s+([\w.]+)\s+cimport|cimport\s+([\w.]+))", re.M)
EXTERN = re.compile(r"^\s*cdef extern from \"([\w.]+)\"", re.M)
INCLUDE = re.compile(r"^\s*#\s*include\s+\"([\w.]+)\"", re.M)


def cython_files() -> dict[str, set[str]]:
    """For each .pyx and .pxd file, the .pxd files that it cimports and the C headers that it declares."""
    graph = {}
    for path in sorted([*KERNELS.rglob("*.pyx"), *KERNELS.rglob("*.pxd")]):
        text = path.read_text()
        names = [(one or other).replace(".", "/") for one, other in CIMPORT.findall(text)]
        found = {f"{name}.pxd" for name in names if (KERNELS / f"{name}.pxd").exists()}
        graph[str(path.relative_to(KERNELS))] = found | {f"micro/{name}" for name in EXTERN.findall(text)}
    return graph


def c_files() -> dict[str, set[str]]:
    """For each C file and header of kernels/micro, the headers of kernels/micro that it includes."""
    graph = {}
    for path in sorted((KERNELS / "micro").glob("*.[ch]")):
        included = {f"micro/{name}" for name in INCLUDE.findall(path.read_text())}
        graph[f"micro/{path.name}"] = {name for name in included if (KERNELS / name).exists()}
    return graph


def main() -> int:
    try:
        TopologicalSorter({**cython_files(), **c_files()}).prepare()
    except CycleError as error:
        print(f"check_cycles: cycle: {' -> '.join(reversed(error.args[1]))}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
