"""Files that are cut short before or while they are read: one line names the file, and no signal ends the process."""

import json
from pathlib import Path

import commands
import pytest

# Cuts a file of each kind after it was opened, and reads it.
SCENES = """
import json, os, sys
from pathlib import Path
import numpy as np
from PIL import Image
from mobilesam.tiles.opening import open_source

kind = sys.argv[1]
image = np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)
if kind == "npy":
    np.save("a.npy", image)
elif kind == "tif":
    import tifffile
    tifffile.imwrite("a.tif", image, tile=(64, 64), photometric="rgb")
elif kind == "geotiff":
    import rasterio
    form = {"height": 300, "width": 400, "count": 3, "dtype": "uint8", "crs": "EPSG:32632"}
    form |= {"transform": rasterio.transform.Affine(1, 0, 5e5, 0, -1, 5e6), "compress": "deflate"}
    with rasterio.open("a.tif", "w", driver="GTiff", **form) as file:
        file.write(np.moveaxis(image, -1, 0))
else:
    import zarr
    made = zarr.open("a.zarr", mode="w", shape=image.shape, chunks=(300, 400, 3), dtype="uint8")
    made[:] = image
path = {"npy": "a.npy", "tif": "a.tif", "geotiff": "a.tif", "zarr": "a.zarr"}[kind]
source = open_source(path)
chunks = [file for file in Path(path).rglob("*") if file.is_file()]
data = max(chunks, key=os.path.getsize) if chunks else Path(path)
os.truncate(data, data.stat().st_size // 2)
for what in ("opened before", "opened after"):
    try:
        source = open_source(path) if what == "opened after" else source
        source.read((0, 0, 400, 300)).sum()
        print(json.dumps([what, "no error", ""]), flush=True)
    except Exception as error:
        print(json.dumps([what, type(error).__name__, str(error)]), flush=True)
"""


@pytest.mark.parametrize("kind", ["npy", "tif", "geotiff", "zarr"])
def test_scenes(folder: Path, kind: str) -> None:
    for module in {"tif": ["tifffile", "zarr"], "geotiff": ["rasterio"], "zarr": ["zarr"]}.get(kind, []):
        pytest.importorskip(module)
    code, out, err = commands.finish(commands.python(folder, SCENES, kind))
    assert code == 0, (code, out, err)
    rows = [json.loads(line) for line in out.splitlines()]
    assert len(rows) == 2
    for _, kind_of_error, message in rows:
        assert kind_of_error in ("OSError", "ValueError"), rows
        assert "\n" not in message and "a." in message, rows


def test_commands_name_the_file(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from mobilesam.cli.main import main

    box, weights = ["--box", "9,9,50,40"], ["--weights", commands.WEIGHTS]
    (folder / "prompts.jsonl").write_text('{"image": "photos/a.png", "box": [9, 9, 50, 40]}\n')
    (folder / "prompts.csv").write_text("image,points\nphotos/a.png,5 5\n")
    inputs = {
        "photos/a.png": ["segment", "photos/a.png", *box, "--output", "out/a.png"],
        "scene.tif": ["everything", "scene.tif", "--tile", "64", "--halo", "8", "-o", "out"],
        "case.npz": ["volume", "case.npz", "--output", "out"],
        "prompts.jsonl": ["segment", "prompts.jsonl", "--output", "out"],
        "prompts.csv": ["segment", "prompts.csv", "--output", "out"],
    }
    for name, command in inputs.items():
        whole = (folder / name).read_bytes()
        for kept in (0, 1, len(whole) // 3, len(whole) * 9 // 10):
            (folder / name).write_bytes(whole[:kept])
            code, err = main([*command, *weights]), capfd.readouterr().err
            assert code == 2, (name, kept, err)
            assert err.startswith("mobilesam: error: ") and name in err and err.count("\n") == 1, (name, kept, err)
            # The settings of an unfinished scene are no result.
            assert set(commands.files(folder / "out")) <= {"scene_tiles/settings.json"}, (name, kept)
        (folder / name).write_bytes(whole)
