"""Atomic file writes, checks of output paths, and checksums."""

import os
import re
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

_PARTIAL = re.compile(r"\.[0-9a-f]{8}-[0-9a-f]{8}\.partial\.?[^.]*")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Write a file atomically.

    Yields a temporary path in the same folder with the same extension. At the end the temporary file replaces `path`.
    After an error the temporary file is removed. If the process is killed, the temporary file remains. Its name
    contains a checksum of the name of `path`, by which `remove_leftovers` recognises it.
    """
    partial = path.with_name(f".{_checksum(path)}-{os.urandom(4).hex()}.partial{path.suffix}")
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def remove_leftovers(paths: Iterable[Path]) -> None:
    """Remove temporary files that killed processes left for these paths. No other process may be writing the paths."""
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
    """SHA-256 of the file's content, in hexadecimal."""
    import hashlib  # imported here, because it loads OpenSSL

    return hashlib.sha256(path.read_bytes()).hexdigest()


def check_folder(path: Path) -> None:
    """Check that a file can be written to the path, without creating it.

    Raises:
        OSError: The folder does not exist or is not writable, or the path itself is a folder.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no such folder to write into: {path.parent}")
    if path.is_dir():
        raise IsADirectoryError(f"cannot write a file over a folder: {path}")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise PermissionError(f"no permission to write into folder: {path.parent}")


def check_folder_to_be(path: Path) -> None:
    """Check that files can be written to this folder, which need not exist yet. Raises OSError if not."""
    folder = next(parent for parent in (path, *path.parents) if parent.exists())
    if not folder.is_dir():
        raise NotADirectoryError(f"expected a folder to write into, got a file: {folder}")
    check_folder(folder / "any")


def check_distinct(paths: Iterable[Path]) -> None:
    """Check that the input and output paths of a command are all different files. Raises ValueError if not."""
    seen: set[str] = set()
    for path in paths:
        real = os.path.realpath(path)
        if real in seen:
            raise ValueError(f"this command would overwrite its own input or output file: {path}")
        seen.add(real)
