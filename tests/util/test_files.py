"""Files are written atomically. Incomplete files of a killed process are removed later."""

import errno
import os
import re
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

from mobilesam.util.deferred import in_background
from mobilesam.util.files import check_folder, remove_leftovers, whole_file

KILLED = """
import os, sys
from pathlib import Path
from mobilesam.util.files import whole_file
with whole_file(Path(sys.argv[1])) as partial:
    partial.write_text("half")
    os._exit(9)
"""


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="most Windows systems limit a whole path to 260 characters")
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
        assert killed.returncode == 9
    assert len(names(tmp_path)) == len(kept) + 3
    remove_leftovers([tmp_path / "mask.png", tmp_path / "no-suffix", tmp_path / "absent" / "mask.png"])
    left = set(names(tmp_path)) - set(kept)
    assert [Path(name).suffix for name in left] == [".png"]  # the partial file of other.png, which was not listed
    remove_leftovers([tmp_path / "other.png"])
    assert names(tmp_path) == sorted(kept)


@pytest.mark.skipif(sys.platform == "win32", reason="symbolic links need a permission on Windows")
def test_a_symbolic_link_stays_and_its_target_is_written(tmp_path):
    (tmp_path / "far").mkdir()
    for name in ("near.png", "dangling.png"):
        (tmp_path / name).symlink_to(Path("far", name))
    (tmp_path / "far" / "near.png").write_text("old")
    for name in ("near.png", "dangling.png"):
        check_folder(tmp_path / name)
        with whole_file(tmp_path / name) as partial:
            assert partial.parent == tmp_path / "far"
            partial.write_text("new")
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / "far" / name).read_text() == "new"
    assert names(tmp_path / "far") == ["dangling.png", "near.png"]
    (tmp_path / "lost.png").symlink_to("nowhere/lost.png")
    with pytest.raises(FileNotFoundError, match=r"no such folder to write into: .*nowhere"):
        check_folder(tmp_path / "lost.png")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this OS has no named pipes")
def test_a_pipe_is_written_and_not_replaced(tmp_path):
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    reader = in_background(pipe.read_text)
    with whole_file(pipe) as partial:
        partial.write_text("new")
    assert reader.result(timeout=30) == "new"
    assert pipe.is_fifo()
    assert names(tmp_path) == ["pipe.png"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this OS has no /dev/full")
def test_a_full_disk_names_the_file(tmp_path):
    full = tmp_path / "mask.png"
    full.symlink_to("/dev/full")
    with pytest.raises(OSError, match=re.escape(str(full))) as caught, whole_file(full) as partial:
        partial.write_bytes(bytes(1 << 16))
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(full))
    assert names(tmp_path) == ["mask.png"]


def test_an_error_without_a_file_name_gets_the_name(tmp_path):
    """Pillow raises such errors: with a number if the disk is full, and with a text alone from its encoders."""
    path = tmp_path / "mask.png"
    for error, message in (
        (OSError(errno.ENOSPC, "No space left on device"), f"No space left on device: {str(path)!r}"),
        (OSError("encoder error -2"), f"cannot write {path}: encoder error -2"),
    ):
        with pytest.raises(OSError, match=re.escape(message)), whole_file(path):
            raise error
    with pytest.raises(FileNotFoundError, match=r"photo\.jpg"), whole_file(path):
        raise FileNotFoundError(errno.ENOENT, "No such file", "photo.jpg")


MOUNTED = """
import sys
from pathlib import Path
from mobilesam.util.files import check_folder, whole_file
folder = Path(sys.argv[1])
for name in ("bound.png", "full/a.png"):
    check_folder(folder / name)
    try:
        with whole_file(folder / name) as partial:
            partial.write_bytes(bytes(200_000))
        print("written", (folder / name).stat().st_size)
    except OSError as error:
        print(error.strerror, error.filename)
print(sorted(path.name for path in (folder / "full").iterdir()))
"""


def test_a_bind_mounted_file_is_written_and_a_full_disk_is_left_clean(tmp_path):
    (tmp_path / "full").mkdir()
    for name in ("bound.png", "source.png"):
        (tmp_path / name).touch()
    mounts = "mount --bind source.png bound.png && mount -t tmpfs -o size=64k tmpfs full"
    alone = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    if not shutil.which("unshare") or subprocess.run([*alone, mounts], cwd=tmp_path, check=False).returncode:
        pytest.skip("mounting is refused here")
    program = f'{mounts} && exec "$@"'
    command = [*alone, program, "sh", sys.executable, "-c", MOUNTED, str(tmp_path)]
    shown = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines() == [
        "written 200000",
        f"No space left on device {tmp_path}/full/a.png",
        "[]",
    ]
    assert (tmp_path / "source.png").stat().st_size == 200_000


def test_several_files_are_replaced_together(tmp_path):
    first, second = tmp_path / "a.png", tmp_path / "b.png"
    first.write_text("old")
    with pytest.raises(ValueError, match="later"), ExitStack() as together:
        for path in (first, second):
            partial = together.enter_context(whole_file(path))
            with whole_file(partial) as same:  # as in save_image, which calls whole_file with the path that it is given
                assert same == partial
                same.write_text("new")
        raise ValueError("later")
    assert first.read_text() == "old"
    assert names(tmp_path) == ["a.png"]
