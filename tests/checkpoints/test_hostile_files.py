"""A hostile file of less than 1 MB ends in a CheckpointError of one line, within 2 s of a CPU and 200 MB."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import hostile_files
import numpy as np
import processes
import pytest
from checkpoint_files import one_line
from safetensors.numpy import save_file

from mobilesam import weights
from mobilesam.checkpoints.errors import CheckpointError
from mobilesam.checkpoints.fused import open_checkpoint
from mobilesam.checkpoints.tensor_file import TensorFile


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no getrusage")
@pytest.mark.parametrize("what", hostile_files.FILES)
def test_a_hostile_file_ends_soon_in_one_line(tmp_path: Path, what: str) -> None:
    path = hostile_files.FILES[what](tmp_path / "a")
    assert path.stat().st_size < 1_000_000
    message, seconds, megabytes = hostile_files.read(path)
    assert message.startswith(f"{path}: ")
    one_line(CheckpointError(message))
    assert seconds < hostile_files.SECONDS
    assert megabytes < hostile_files.MEGABYTES


CUT = """
import os, sys
from mobilesam.checkpoints.errors import CheckpointError
from mobilesam.checkpoints.fused import open_checkpoint
from mobilesam.checkpoints import tensor_file

opened = open_checkpoint({path!r})
name = list(opened)[-1]
{before}
try:
    opened[name]
except CheckpointError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("before", "problem"),
    [
        ("os.truncate({path!r}, 100_000)", "changed since it was opened"),
        # The file is truncated between the check of its size and the reading.
        (
            "check = tensor_file._identity\n"
            "def cut(file):\n"
            "    found = check(file)\n"
            "    os.truncate({path!r}, 100_000)\n"
            "    return found\n"
            "tensor_file._identity = cut",
            "was truncated since it was opened",
        ),
    ],
)
def test_a_file_that_is_truncated_after_it_was_opened(tmp_path: Path, before: str, problem: str) -> None:
    """Truncating a memory-mapped file would kill the process, so the process is another one."""
    path = tmp_path / "a.safetensors"
    path.write_bytes(weights.default_path().read_bytes())
    code = CUT.format(path=str(path), before=before.format(path=str(path)))
    assert processes.output(code) == f"{path}: {problem}"


def test_a_checkpoint_is_not_mapped_and_keeps_no_file_open(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(weights.default_path().read_bytes())
    opened = open_checkpoint(path)
    first = opened[next(iter(opened))]
    if Path("/proc/self/maps").exists():
        assert str(path) not in Path("/proc/self/maps").read_text()
        links = [entry.path for entry in os.scandir("/proc/self/fd")]
        assert not any(Path(link).is_symlink() and os.path.realpath(link) == str(path) for link in links)
    assert first.flags.writeable


def test_a_tensor_file_reads_what_safetensors_writes(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    tensors = {
        "é\n": rng.standard_normal((3, 0, 2)).astype(np.float32),
        "a": rng.standard_normal((2, 3, 5)).astype(np.float16),
        "b": rng.standard_normal(()),
        "c": rng.integers(0, 9, (4, 1)),
        "d": np.ones(7, bool),
    }
    save_file(tensors, tmp_path / "a", {"k": "v"})
    file = TensorFile(tmp_path / "a")
    assert file.metadata == {"k": "v"}
    assert file.shapes() == {name: values.shape for name, values in tensors.items()}
    for name in ("é\n", "a", "b"):
        assert file[name].dtype == tensors[name].dtype
        np.testing.assert_array_equal(file[name], tensors[name])
    for name, dtype in (("c", "I64"), ("d", "BOOL")):
        with pytest.raises(CheckpointError, match=f"'{name}' is {dtype}, expected F16, BF16, F32 or F64"):
            file[name]
