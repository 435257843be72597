"""Commands that write files, on small inputs, and the programs that run them in new processes.

The checkpoint has LiteMedSAM's architecture and random weights, because its canvas of 256 pixels is encoded fast.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import related_models
from PIL import Image

from mobilesam.architecture import LITE_MEDSAM

SUPPORT = Path(__file__).parent
WEIGHTS = "lite.safetensors"
_SEARCH = ["--points-per-side", "2", "--pred-iou-thresh", "0", "--stability-score-thresh", "0"]
_SEARCH += ["--box-nms-thresh", "1", "--weights", WEIGHTS]

# The output folder is "out". "onnx" stands for scripts/export_onnx.py.
COMMANDS = {
    "one photo": [
        "segment", "photos/a.png", "--box", "9,9,50,40", "--output", "out/a.png", "--overlay", "out/a.jpg",
        "--weights", WEIGHTS,
    ],
    "photos": ["segment", "photos", "--box", "10%,10%,90%,90%", "--output", "out", "--weights", WEIGHTS],
    "everything": ["everything", "photos", "-o", "out", *_SEARCH],
    "scene": ["everything", "scene.tif", "-o", "out", "--tile", "64", "--halo", "8", "--vectors", "geojson", *_SEARCH],
    "volume": ["volume", "case.npz", "--output", "out", "--weights", WEIGHTS],
    "convert": ["convert", WEIGHTS, "--output", "out/converted.safetensors"],
    "onnx": ["onnx", "out", "--weights", WEIGHTS],
}  # fmt: skip


def need_packages(name: str) -> None:
    """Skip the test if a package that the command needs is missing. The extra `test-all` has all packages."""
    if name == "onnx":
        pytest.importorskip("onnx", reason="the extra onnx is not installed")


def write_inputs(folder: Path) -> None:
    """Write the inputs of COMMANDS, and create the empty output folder."""
    rng = np.random.default_rng(0)
    for name in ("photos", "out"):
        (folder / name).mkdir()
    for name in ("a", "b", "c"):
        Image.fromarray(rng.integers(0, 256, (48, 64, 3), np.uint8)).save(folder / "photos" / f"{name}.png")
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(folder / "scene.tif")
    np.savez(folder / "case.npz", imgs=rng.integers(0, 256, (2, 48, 64), np.uint8), boxes=[[9, 9, 0, 50, 40, 2]])
    related_models.write(folder / WEIGHTS, LITE_MEDSAM)


def files(folder: Path) -> dict[str, bytes]:
    """The content of each file in the folder, by relative path, with hidden files."""
    return {path.relative_to(folder).as_posix(): _content(path) for path in folder.rglob("*") if path.is_file()}


def _content(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix == ".safetensors" and len(data) > 8:  # the package safetensors writes metadata in any order
        length = 8 + int.from_bytes(data[:8], "little")
        return json.dumps(json.loads(data[8:length]), sort_keys=True, separators=(",", ":")).encode() + data[length:]
    return data


def start(folder: Path, prelude: str, *words: str, **options: object) -> subprocess.Popen[str]:
    """Start a command in a new process.

    Args:
        folder: Folder that the process runs in.
        prelude: Python source that runs before the command. Functions that it replaces are slow, for example.
        *words: The command. With the first word "onnx", the command is scripts/export_onnx.py.
        **options: Options of `subprocess.Popen`. stdout and stderr are pipes by default.
    """
    if words[0] == "onnx":
        return python(
            folder, f"{prelude}\nimport sys\nfrom mobilesam.onnx.export import main\nsys.exit(main())", *words[1:]
        )
    return python(folder, f"{prelude}\nfrom mobilesam.cli.main import run\nrun()", *words, **options)


def python(folder: Path, program: str, *words: str, **options: object) -> subprocess.Popen[str]:
    """Start a Python program in a new process, with these words as its arguments. See `start`."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("MOBILESAM_")}
    path = os.pathsep.join(filter(None, [str(SUPPORT), os.environ.get("PYTHONPATH")]))
    defaults = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": folder}
    environment = {name: value for name, value in kept.items() if name != "PYTHONUNBUFFERED"}
    environment |= {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}  # a test may limit the size of files
    return subprocess.Popen(
        [sys.executable, "-c", program, *words],
        **{**defaults, "env": environment, **options},  # type: ignore[call-overload]
    )


def finish(process: subprocess.Popen[str], seconds: float = 120) -> tuple[int, str, str]:
    """Wait for a process. Returns its exit code, stdout and stderr. A process that hangs is killed."""
    with process:
        try:
            out, err = process.communicate(timeout=seconds)
        finally:
            process.kill()
    return process.returncode, out or "", err or ""
