"""A full disk: one line names the file, nothing is half-written, and earlier outputs stay.

A limit on the size of files stands for the full disk. The limit needs no permission, unlike a small file system.
"""

import json
import sys
from pathlib import Path

import commands
import pytest

resource = pytest.importorskip("resource")

# Runs each command without a limit, and again with limits below the size of its largest file.
LIMITED = """
import contextlib, io, json, resource, sys
from pathlib import Path
from commands import COMMANDS, files
from mobilesam.cli.main import main
from mobilesam.onnx import export

_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
name = sys.argv[1]

def run():
    said = io.StringIO()
    words = COMMANDS[name]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
        code = export.main(words[1:]) if name == "onnx" else main(words)
    return code, said.getvalue()

out = Path("out")
assert run() == (0, ""), name
finished = files(out)
sizes = {file: len(data) for file, data in finished.items()}
for limit in (0, max(sizes.values()) // 2, max(sizes.values()) - 1):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, most))
    code, said = run()
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    left = files(out)
    changed = [file for file in finished if left.get(file) != finished[file]]
    print(json.dumps([limit, code, said, changed, sorted(left.keys() - finished.keys())]))
"""


@pytest.mark.parametrize("name", commands.COMMANDS)
def test_commands(folder: Path, name: str) -> None:
    commands.need_packages(name)
    code, out, err = commands.finish(commands.python(folder, LIMITED, name))
    assert code == 0, err
    rows = [json.loads(line) for line in out.splitlines()]
    assert len(rows) == 3
    for limit, code, said, changed, new in rows:
        assert (code, said.count("\n")) == (2, 1), (limit, said)
        assert ": error: " in said and "out" in said and "partial" not in said, (limit, said)
        assert changed == [], limit
        assert all(file.startswith("scene_tiles/") and "partial" not in file for file in new), (limit, new)


GEO = """
import resource, sys
from pathlib import Path
import numpy as np
from mobilesam.tiles.join import TileMask
from mobilesam.tiles.label_raster import write_labels
from mobilesam.tiles.spill import ObjectFile
from mobilesam.tiles.vector_file import write_vectors
from mobilesam.util.files import whole_file

_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
labels = np.random.default_rng(0).integers(0, 1 << 31, (300, 300), np.uint32)
rows = np.arange(20, dtype=np.int32)
path, objects = Path(sys.argv[1]), ObjectFile()
for i in range(4):
    objects.add(TileMask(np.stack([rows, rows, rows + 9], axis=1), 0.9, 0.9, (1.0, 1.0), 0, frozenset()))

def write():
    with whole_file(path) as partial:
        if path.suffix == ".tif":
            write_labels(partial, labels.shape, lambda top, end: labels[top:end], None)
        else:
            write_vectors(partial, objects, None)

write()
whole = path.stat().st_size
for limit in (0, 100, 1000, whole // 4, whole // 2, whole * 3 // 4, whole - 9000, whole - 20, whole - 2):
    path.unlink(missing_ok=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (max(limit, 0), most))
    try:
        write()
        print("no error", limit)
    except OSError as error:
        assert str(path) in str(error) and "partial" not in str(error), error
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    if list(Path().glob("*a.*")) or list(Path().glob(".*partial*")):
        print("left", limit)
write()
print(path.stat().st_size == whole)
"""


@pytest.mark.parametrize("name", ["a.tif", "a.gpkg", "a.geojson"])
def test_files_of_gdal(folder: Path, name: str) -> None:
    """GDAL writes the end of a file on close, and reports no error of it."""
    for module in ("rasterio", "pyogrio", "pyarrow", "shapely"):
        pytest.importorskip(module)
    code, out, err = commands.finish(commands.python(folder, GEO, name))
    assert (code, out) == (0, "True\n"), err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this OS has no /dev/full")
@pytest.mark.parametrize("words", [["info"], ["--help"], ["download", "--list"], commands.COMMANDS["one photo"]])
def test_standard_output(folder: Path, words: list[str]) -> None:
    with Path("/dev/full").open("w") as full:
        code, _, err = commands.finish(commands.start(folder, "", *words, stdout=full))
    assert (code, err) == (2, "mobilesam: error: No space left on device: standard output\n")


@pytest.mark.skipif(sys.platform == "win32", reason="pipes of Windows have other errors")
@pytest.mark.parametrize(
    "words", [["info"], ["--help"], commands.COMMANDS["one photo"], commands.COMMANDS["everything"]]
)
def test_a_pipe_without_a_reader(folder: Path, words: list[str]) -> None:
    process = commands.start(folder, "", *words)
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    code, _, err = commands.finish(process)
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith("mobilesam: error: ") and "Broken pipe" in err
    assert not list((folder / "out").glob(".*"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this OS has no /dev/full")
def test_standard_error(folder: Path) -> None:
    with Path("/dev/full").open("w") as full:
        process = commands.start(
            folder, "", "segment", "missing.png", "--point", "1,1", "--output", "a.png", stderr=full
        )
        assert commands.finish(process) == (2, "", "")
