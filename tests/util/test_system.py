"""Differences between operating systems. Where a test does not run on the system, the system is simulated."""

import errno
import os
import subprocess
import sys
import time
import types
from pathlib import Path, PureWindowsPath

import pytest

from mobilesam.util import files, system
from mobilesam.util.files import check_distinct, check_folder, check_folder_to_be, image_path, nearest, whole_file

ON_WINDOWS = pytest.mark.skipif(sys.platform != "win32", reason="only Windows refuses to change open files")


@pytest.fixture
def on(monkeypatch):
    """A function that lets the library take the system for another one."""

    def on(platform: str) -> None:
        monkeypatch.setattr(sys, "platform", platform)
        monkeypatch.setattr(os, "O_TEMPORARY", getattr(os, "O_TEMPORARY", 0), raising=False)

    return on


@pytest.fixture
def waits(monkeypatch):
    """The seconds of each wait, which takes no time. Every folder can be changed."""
    waits: list[float] = []
    monkeypatch.setattr(system, "can_change", lambda folder: True)
    monkeypatch.setattr(time, "sleep", waits.append)
    return waits


def denied(times: int, change):
    """`change`, which Windows refuses the first times, because a program has the file open."""
    left = [times]

    def attempt(*arguments, **options):
        if left[0]:
            left[0] -= 1
            raise PermissionError(errno.EACCES, "Access is denied", str(arguments[0]))
        return change(*arguments, **options)

    return attempt


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_that_a_scanner_has_open_is_replaced_a_moment_later(on, waits, monkeypatch, tmp_path):
    on("win32")
    monkeypatch.setattr(Path, "replace", denied(2, Path.replace))
    monkeypatch.setattr(Path, "unlink", denied(2, Path.unlink))
    target = tmp_path / "mask.png"
    target.write_text("old")
    with whole_file(target) as partial:
        partial.write_text("new")
    assert target.read_text() == "new"
    assert names(tmp_path) == ["mask.png"]
    assert waits == [*system.PATIENCE[:2], *system.PATIENCE[:2]]


def test_a_file_that_a_program_keeps_open_stays_and_is_named(on, waits, monkeypatch, tmp_path):
    on("win32")
    monkeypatch.setattr(Path, "replace", denied(100, Path.replace))
    target = tmp_path / "mask.png"
    target.write_text("old")
    with pytest.raises(PermissionError) as caught, whole_file(target) as partial:
        partial.write_text("new")
    assert (caught.value.filename, caught.value.errno) == (str(target), errno.EACCES)
    assert caught.value.strerror == "a program has the file open, or the file is read-only"
    assert target.read_text() == "old"
    assert names(tmp_path) == ["mask.png"]
    assert sum(waits) == sum(system.PATIENCE) < 2


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_other_systems_do_not_wait(on, waits, monkeypatch, tmp_path, platform):
    on(platform)
    monkeypatch.setattr(Path, "replace", denied(1, Path.replace))
    with pytest.raises(PermissionError, match="Access is denied"), whole_file(tmp_path / "mask.png") as partial:
        partial.write_text("new")
    monkeypatch.setattr(Path, "unlink", denied(1, Path.unlink))
    with pytest.raises(PermissionError):
        system.remove(tmp_path / "mask.png")
    assert waits == []


def test_only_an_open_file_is_waited_for(on, waits, tmp_path):
    on("win32")
    with pytest.raises(FileNotFoundError):
        system.replace(tmp_path / "absent", tmp_path / "mask.png")
    system.remove(tmp_path / "absent")
    assert waits == []


def test_an_open_file_is_left_by_remove_and_does_not_hide_an_error(on, waits, monkeypatch, tmp_path):
    on("win32")
    monkeypatch.setattr(Path, "unlink", denied(100, Path.unlink))
    with pytest.raises(ValueError, match="the reason"), whole_file(tmp_path / "mask.png") as partial:
        partial.write_text("half")
        raise ValueError("the reason")
    (left,) = names(tmp_path)
    monkeypatch.undo()
    files.remove_leftovers([tmp_path / "mask.png"])
    assert names(tmp_path) == [], left


def test_a_folder_with_an_open_file_is_removed_a_moment_later(on, waits, monkeypatch, tmp_path):
    on("win32")
    (tmp_path / "tiles").mkdir()
    (tmp_path / "tiles" / "000000.npz").touch()
    monkeypatch.setattr(os, "rmdir", denied(1, os.rmdir))
    system.remove_folder(tmp_path / "tiles")
    assert names(tmp_path) == []
    assert waits == [system.PATIENCE[0]]


@ON_WINDOWS
def test_on_windows_an_open_file_is_not_replaced_or_removed(monkeypatch, tmp_path):
    monkeypatch.setattr(system, "PATIENCE", (0.01,))
    target = tmp_path / "mask.png"
    target.write_text("old")
    with target.open() as opened:
        with (
            pytest.raises(PermissionError, match="a program has the file open") as caught,
            whole_file(target) as partial,
        ):
            partial.write_text("new")
        assert caught.value.filename == str(target)
        system.remove(target)
        assert opened.read() == "old"
    assert names(tmp_path) == ["mask.png"]
    with whole_file(target) as partial:
        partial.write_text("new")
    assert target.read_text() == "new"
    system.remove(target)
    assert names(tmp_path) == []


def test_permissions_of_a_folder_are_tried_on_windows(on, monkeypatch, tmp_path):
    assert system.can_change(tmp_path)
    assert names(tmp_path) == []
    on("win32")
    assert system.can_change(tmp_path)
    for name in names(tmp_path):  # elsewhere the file is not removed when it is closed
        (tmp_path / name).unlink()
    monkeypatch.setattr(os, "open", denied(100, os.open))
    with pytest.raises(PermissionError, match="no permission to write into folder"):
        check_folder(tmp_path / "mask.png")


RESERVED = [
    "ab:c.png",
    "what?.png",
    "NUL",
    "con.png",
    "Com1.tar.gz",
    "lpt² .txt",
    "dot.",
    "blank ",
    "a\tb",
    'a"b',
    "a|b",
    "<a>",
]
ORDINARY = ["mask.png", "console.png", "com10.png", "nul-1.png", ".hidden", "a b.png", "é,(1)+[2].png"]


def test_names_that_windows_reserves(on, tmp_path):
    on("linux")
    assert not any(map(system.is_reserved, RESERVED + ORDINARY))
    on("win32")
    assert all(map(system.is_reserved, RESERVED))
    assert not any(map(system.is_reserved, ORDINARY))
    with pytest.raises(OSError, match=r"Windows does not allow this file name: .*ab:c\.png"):
        check_folder(tmp_path / "ab:c.png")


def test_the_library_agrees_with_python_about_reserved_names(on):
    ntpath = pytest.importorskip("ntpath")
    if not hasattr(ntpath, "isreserved"):
        pytest.skip("Python before 3.13 does not tell")
    on("win32")
    for name in RESERVED + ORDINARY:
        assert ntpath.isreserved(name) == system.is_reserved(name), name


@pytest.mark.parametrize("platform", ["darwin", "win32"])
def test_names_that_differ_in_case_are_one_file_on_macos_and_windows(on, tmp_path, platform):
    composed, decomposed = "caf\xe9.png", "cafe\u0301.png"
    for one, other in (("photo.png", "Photo.PNG"), (composed, decomposed)):
        on("linux")
        check_distinct([tmp_path / one, tmp_path / other])
        on(platform)
        with pytest.raises(ValueError, match="would overwrite its own input"):
            check_distinct([tmp_path / one, tmp_path / other])


def test_an_image_path_is_split_as_on_windows(monkeypatch):
    monkeypatch.setattr(files, "Path", PureWindowsPath)
    long = "\\".join(["folder" * 20] * 3) + "/" + "b" * 200 + ".jpg"
    assert image_path(long).name == "b" * 200 + ".jpg"
    assert image_path("日" * 200 + ".jpg").suffix == ".jpg"  # 204 characters, but 604 bytes
    with pytest.raises(ValueError, match="got a text of 300 characters"):
        image_path("A" * 300)


def test_a_path_as_long_as_base64_is_refused_before_the_system_refuses_it(monkeypatch):
    monkeypatch.setattr(system, "LONGEST_PATH", 1024)  # of macOS
    with pytest.raises(ValueError, match="got a text of 2000 characters"):
        image_path("iVBORw0KGgo/AAAA+" * 117 + "AAAAAAAAAA=")


def test_a_drive_that_does_not_exist(monkeypatch, tmp_path):
    assert nearest(tmp_path / "a" / "b") == tmp_path
    monkeypatch.setattr(Path, "exists", lambda self: False)
    with pytest.raises(FileNotFoundError, match="no such drive"):
        check_folder_to_be(tmp_path / "a")


def test_the_name_of_the_cpu(on, monkeypatch):
    assert system.cpu_name()
    on("darwin")
    asked = []

    def run(command, **_):
        asked.append(command)
        return types.SimpleNamespace(stdout="Apple M2\n")

    monkeypatch.setattr(subprocess, "run", run)
    assert system.cpu_name() == "Apple M2"
    assert asked == [["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]]
    monkeypatch.setattr(subprocess, "run", denied(100, run))
    assert system.cpu_name() == (system.platform.processor() or system.platform.machine())


def test_the_name_of_the_cpu_in_the_registry(on, monkeypatch):
    on("win32")

    class Key:
        def __enter__(self):
            return "the key"

        def __exit__(self, *_):
            pass

    registry = types.ModuleType("winreg")
    registry.HKEY_LOCAL_MACHINE = 0
    registry.OpenKey = lambda root, name: Key()
    registry.QueryValueEx = lambda key, name: {("the key", "ProcessorNameString"): ("AMD Ryzen 7  ", 1)}[key, name]
    monkeypatch.setitem(sys.modules, "winreg", registry)
    assert system.cpu_name() == "AMD Ryzen 7"
    registry.OpenKey = denied(100, registry.OpenKey)
    assert system.cpu_name() == (system.platform.processor() or system.platform.machine())


def test_a_child_process_without_interrupts(on, monkeypatch):
    options = system.without_interrupts()
    assert subprocess.run([sys.executable, "-c", ""], check=False, **options).returncode == 0
    on("win32")
    monkeypatch.setattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 512, raising=False)
    assert system.without_interrupts() == {"creationflags": 512}


def test_without_limits_of_memory(on, monkeypatch):
    on("win32")
    monkeypatch.setitem(sys.modules, "resource", None)  # an import raises ModuleNotFoundError
    system.limit_memory(1 << 40)


def test_two_servers_cannot_have_one_port():
    import socket

    with socket.socket() as first, socket.socket() as second:
        for listener in (first, second):
            system.claim_port(listener)
        first.bind(("127.0.0.1", 0))
        first.listen()
        with pytest.raises(OSError) as caught:
            second.bind(first.getsockname())
        assert caught.value.errno in (errno.EADDRINUSE, errno.EACCES)
