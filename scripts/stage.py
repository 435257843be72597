"""Copy the package into a folder in its installed layout, for tools that read source. Usage: stage.py FOLDER.

A checkout has no `mobilesam/kernels`: the installation maps `kernels` to that place. For a Cython module the copy has
the type stub (`.pyi`), and a Python module that contains only the module's imports.
"""

import ast
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PLACES = {"mobilesam": "mobilesam", "kernels": "mobilesam/kernels", "weights": "mobilesam/weights"}


def stage(folder: Path) -> Path:
    """Copy the package into the folder, which is created if it does not exist. Returns the folder."""
    for source, place in PLACES.items():
        for path in sorted((ROOT / source).rglob("*.py*")):
            copy = folder / place / path.relative_to(ROOT / source)
            if path.suffix in (".py", ".pyi"):
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, copy)
            elif path.suffix == ".pyx":
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.with_suffix(".py").write_text("".join(imports(path)))
    (folder / "mobilesam" / "py.typed").touch()
    return folder


def imports(path: Path) -> Iterator[str]:
    """Yield the Python imports of a Cython module, one per line. cimports are left out."""
    for line in re.sub(r'""".*?"""', "", path.read_text(), flags=re.DOTALL).splitlines():  # no docstrings
        statement = line.strip()
        if statement.startswith(("import ", "from ")) and " cimport " not in statement:
            ast.parse(statement)  # raises SyntaxError for an import that spans several lines
            yield f"{statement}\n"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"stage: error: expected a folder to copy into, got {sys.argv[1:]}")
    stage(Path(sys.argv[1]))
