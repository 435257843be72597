"""Files are written atomically. Incomplete files of a killed process are removed later."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mobilesam.util.files import remove_leftovers, whole_file

KILLED = """
import os, signal, sys
from pathlib import Path
from mobilesam.util.files import whole_file
with whole_file(Path(sys.argv[1])) as partial:
    partial.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_file_appears_at_the_end_under_its_own_name(tmp_path):
    target = tmp_path / f"{'n' * 251}.png"  # the name has 255 bytes, the maximum of most file systems
    target.write_text("old")
    with whole_file(target) as partial:
        assert partial.suffix == ".png"
        partial.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert names(tmp_path) == [target.name]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_what_was_there(tmp_path, error):
    target = tmp_path / "mask.png"
    target.write_text("old")
    with pytest.raises(error), whole_file(target) as partial:
        partial.write_text("half")
        raise error
    assert target.read_text() == "old"
    assert names(tmp_path) == ["mask.png"]


def test_only_files_left_by_killed_processes_are_removed(tmp_path):
    kept = [".mask.png", ".0123abcd-0123abcd.partial.png", ".partial", "mask.partial.png", "other.png"]
    for name in kept:
        (tmp_path / name).touch()
    for name in ("mask.png", "no-suffix", "other.png"):
        killed = subprocess.run([sys.executable, "-c", KILLED, os.fspath(tmp_path / name)], check=False)
        assert killed.returncode == -signal.SIGKILL
    assert len(names(tmp_path)) == len(kept) + 3
    remove_leftovers([tmp_path / "mask.png", tmp_path / "no-suffix", tmp_path / "absent" / "mask.png"])
    left = set(names(tmp_path)) - set(kept)
    assert [Path(name).suffix for name in left] == [".png"]  # the partial file of other.png, which was not listed
    remove_leftovers([tmp_path / "other.png"])
    assert names(tmp_path) == sorted(kept)
