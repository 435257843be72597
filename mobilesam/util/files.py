"""Files: whole or not at all, not over one another, their checksums."""

import os
import re
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

_PARTIAL = re.compile(r"\.[0-9a-f]{8}-[0-9a-f]{8}\.partial\.?[^.]*")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path beside `path`, of the same extension, to write to: renamed over `path` at the end, removed on an error.

    A process that is killed leaves it behind; `remove_leftovers` knows it by the checksum of the name in it.
    """
    partial = path.with_name(f".{_checksum(path)}-{os.urandom(4).hex()}.partial{path.suffix}")
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def remove_leftovers(paths: Iterable[Path]) -> None:
    """Remove what processes that were killed left behind of these files. Nobody else may be writing them."""
    checksums: dict[Path, set[str]] = {}
    for path in paths:
        checksums.setdefault(path.parent, set()).add(_checksum(path))
    for folder, known in checksums.items():
        for file in folder.glob(".*.partial*"):
            if _PARTIAL.fullmatch(file.name) and file.name[1:9] in known:
                file.unlink(missing_ok=True)


def _checksum(path: Path) -> str:
    return f"{zlib.crc32(os.fsencode(path.name)):08x}"


def sha256(path: Path) -> str:
    """The file's checksum, in hexadecimal."""
    import hashlib  # loads OpenSSL: not needed to open a checkpoint

    return hashlib.sha256(path.read_bytes()).hexdigest()


def check_folder(path: Path) -> None:
    """Raise OSError where no file can be written: no such folder, no permission, or a folder itself."""
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no such folder to write into: {path.parent}")
    if path.is_dir():
        raise IsADirectoryError(f"cannot write a file over a folder: {path}")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise PermissionError(f"no permission to write into folder: {path.parent}")


def check_folder_to_be(path: Path) -> None:
    """Raise OSError where this is no folder to write into, and cannot become one."""
    folder = next(parent for parent in (path, *path.parents) if parent.exists())
    if not folder.is_dir():
        raise NotADirectoryError(f"expected a folder to write into, got a file: {folder}")
    check_folder(folder / "any")


def check_distinct(paths: Iterable[Path]) -> None:
    """Raise ValueError where a path comes twice: a command would write over what it reads, or writes twice."""
    seen: set[str] = set()
    for path in paths:
        real = os.path.realpath(path)
        if real in seen:
            raise ValueError(f"would overwrite a file of this same command: {path}")
        seen.add(real)
