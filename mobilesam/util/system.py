"""What differs between operating systems: Linux, macOS (`sys.platform` "darwin") and Windows ("win32").

Windows does not rename or remove a file that a program has open. Virus scanners and indexers open each new file for a
moment, so `replace`, `remove` and `remove_folder` try again for PATIENCE.
"""

from __future__ import annotations

import errno
import os
import platform
import re
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import socket

LONGEST_NAME = 255  # characters of a file's name; Linux counts bytes, and refuses longer names itself
LONGEST_PATH = 1024 if sys.platform == "darwin" else 4096  # without an opt-in, Windows accepts 260 characters
PATIENCE = (0.01, 0.03, 0.1, 0.3, 1.0)  # seconds between the attempts to change a file that a program has open
_DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³]) *(\..*)?", re.IGNORECASE | re.DOTALL)


def cpu_name() -> str:
    """The CPU's model name."""
    with suppress(OSError):
        if name := _cpu_name():
            return name
    return platform.processor() or platform.machine()


def _cpu_name() -> str:
    if sys.platform == "win32":
        import winreg

        with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, r"HARDWARE\DESCRIPTION\System\CentralProcessor\0") as key:
            return str(winreg.QueryValueEx(key, "ProcessorNameString")[0]).strip()
    if sys.platform == "darwin":
        import subprocess  # imported here, because it loads many modules

        command = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def replace(source: Path, target: Path) -> None:
    """Rename a file or folder. A file with the name `target` is replaced.

    Raises:
        OSError: The file cannot be renamed. On Windows it is a PermissionError if a program has one of the files open.
    """
    try:
        _patiently(lambda: source.replace(target))
    except PermissionError as error:
        if sys.platform == "win32":  # its own text is "Access is denied"
            error.strerror = "a program has the file open, or the file is read-only"
        raise


def remove(file: Path) -> None:
    """Remove a file if it exists. On Windows, a file stays if a program has it open."""
    try:
        _patiently(lambda: file.unlink(missing_ok=True))
    except PermissionError:
        if sys.platform != "win32":
            raise


def remove_folder(folder: Path) -> None:
    """Remove a folder and everything in it."""
    import shutil  # imported here, because it loads many modules for archives

    _patiently(lambda: shutil.rmtree(folder))


def _patiently(change: Callable[[], object]) -> None:
    """Call `change`. On Windows, call it again after PATIENCE while a program has the file open."""
    for seconds in PATIENCE if sys.platform == "win32" else ():
        try:
            change()
            return
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.ENOTEMPTY):  # a folder is not empty until its files are closed
                raise
            time.sleep(seconds)
    change()


def can_change(folder: Path) -> bool:
    """Whether this process may create, replace and remove files in the folder."""
    if sys.platform != "win32":
        return os.access(folder, os.W_OK | os.X_OK)
    trial = folder / f".{os.urandom(4).hex()}"  # a file, because os.access ignores a folder's permissions on Windows
    try:
        os.close(os.open(trial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_TEMPORARY))  # removed when it is closed
    except PermissionError:
        return False
    return True


def is_reserved(name: str) -> bool:
    """Whether no ordinary file can have this name, because Windows reserves it. False on other systems.

    Windows reserves some characters, the names of devices, such as NUL.png, and a blank or a dot at the end.
    """
    if sys.platform != "win32":
        return False
    return bool(re.search(r'[\x00-\x1f<>:"/\\|?*]|[ .]$', name) or _DEVICE.fullmatch(name))


def real_path(path: Path) -> str:
    """The path without symbolic links, as a text that is equal for all spellings of the path.

    macOS and Windows do not distinguish small and capital letters, and macOS no composed and decomposed letters.
    """
    real = os.path.realpath(path)
    if sys.platform not in ("darwin", "win32"):
        return real
    import unicodedata

    return unicodedata.normalize("NFC", real).casefold()


def without_interrupts() -> dict[str, Any]:
    """The options of `subprocess.Popen` for a child process that Ctrl-C in this process's terminal does not reach."""
    if sys.platform == "win32":
        import subprocess

        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}


def limit_memory(size: int) -> None:
    """Limit the address space of this process to `size` bytes. macOS ignores the limit, and none is set on Windows."""
    if sys.platform == "win32":
        return
    import resource

    with suppress(OSError, ValueError):  # a lower limit is in force already
        resource.setrlimit(resource.RLIMIT_AS, (size, size))


def claim_port(listener: socket.socket) -> None:
    """Set the options of a socket, before it is bound, so that its port belongs to this process alone.

    With SO_REUSEADDR a server can take the port that its predecessor has just left. On Windows the same option would
    let a second server listen on the port of the first.
    """
    import socket

    if sys.platform == "win32":
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
    else:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
