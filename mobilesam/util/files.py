"""Atomic file writes, checks of paths, and checksums."""

import errno
import os
import re
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from . import system

_PARTIAL = re.compile(r"\.[0-9a-f]{8}-[0-9a-f]{8}\.partial\.?[^.]*")


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Write a file atomically.

    Yields a temporary path in the same folder with the same extension. At the end the temporary file replaces `path`.
    After an error the temporary file is removed. If the process is killed, the temporary file remains. Its name
    contains a checksum of the name of `path`, by which `remove_leftovers` recognises it.

    If `path` is a symbolic link, the file that the link points to is written. A file that cannot be replaced is
    overwritten instead, which is not atomic: a bind-mounted file, a file in a folder that is not writable, a device or
    a pipe.

    Raises:
        OSError: The file cannot be written. The error names `path`.
    """
    if _PARTIAL.fullmatch(path.name):  # the caller writes several files with whole_file, and replaces them together
        yield path
        return
    target, replaceable = _target(path), is_replaceable(path)
    folder = target.parent if replaceable else _temporary_folder()
    partial = folder / f".{_checksum(target)}-{os.urandom(4).hex()}.partial{path.suffix}"
    try:
        yield partial
        if not replaceable or not _replaced(target, partial):
            _copy(partial, target)
    except OSError as error:
        if error.filename in (None, str(partial)):  # an error without a file name, such as "no space left on device"
            message = f"cannot write {path}: {error}"
            raise OSError(error.errno, error.strerror, str(path)) if error.errno else OSError(message) from None
        raise
    finally:
        system.remove(partial)


def _temporary_folder() -> Path:
    from tempfile import gettempdir  # imported here, because tempfile loads OpenSSL

    return Path(gettempdir())


def _copy(source: Path, target: Path) -> None:
    """Write the content of a file over the content of another file, a device or a pipe."""
    from shutil import copyfileobj  # imported here, because shutil loads many modules for archives

    with source.open("rb") as reader, target.open("wb") as writer:
        copyfileobj(reader, writer)


def is_replaceable(path: Path) -> bool:
    """Whether `whole_file` can replace the file. A bind-mounted file looks replaceable, although it is not."""
    target = _target(path)
    return not target.exists() or (target.is_file() and system.can_change(target.parent))


def _target(path: Path) -> Path:
    """The file that is written in place of `path`: the target of symbolic links. A device or a pipe stays as it is."""
    return path if path.exists() and not path.is_file() else Path(os.path.realpath(path))


def _replaced(target: Path, partial: Path) -> bool:
    """Replace the target. Returns False if the target is a mount point, which cannot be replaced."""
    try:
        system.replace(partial, target)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return False
    return True


def remove_leftovers(paths: Iterable[Path]) -> None:
    """Remove temporary files that killed processes left for these paths. No other process may be writing the paths."""
    checksums: dict[Path, set[str]] = {}
    for target in map(_target, paths):
        checksums.setdefault(target.parent, set()).add(_checksum(target))
    for folder, known in checksums.items():
        for file in folder.glob(".*.partial*"):
            if _PARTIAL.fullmatch(file.name) and file.name[1:9] in known:
                system.remove(file)


def remove_all_leftovers(folder: Path, suffix: str) -> None:
    """Remove temporary files with this extension that killed processes left in a folder, whatever they were for."""
    for file in folder.glob(f".*.partial{suffix}"):
        if _PARTIAL.fullmatch(file.name):
            system.remove(file)


def _checksum(path: Path) -> str:
    return f"{zlib.crc32(os.fsencode(path.name)):08x}"


def image_path(path: str | os.PathLike[str]) -> Path:
    """The path of an image. A URL, and a text that is too long for a path, such as base64, raise ValueError."""
    text = os.fsdecode(path)
    for start, what in (("http://", "a URL"), ("https://", "a URL"), ("data:", "a data URL")):
        if text[:8].lower().startswith(start):
            raise ValueError(f"expected the path of an image, got {what}: {text[:60]}; download it, and pass its bytes")
    file = Path(text)
    if max(map(len, file.parts), default=0) > system.LONGEST_NAME or len(text) > system.LONGEST_PATH:
        raise ValueError(f"expected the path of an image, got a text of {len(text)} characters: {text[:30]!r}...")
    return file


def sha256(path: Path) -> str:
    """SHA-256 of the file's content, in hexadecimal."""
    import hashlib  # imported here, because it loads OpenSSL

    return hashlib.sha256(path.read_bytes()).hexdigest()


def check_folder(path: Path) -> None:
    """Check that a file can be written to the path, without creating it.

    Raises:
        OSError: The folder does not exist or is not writable, the path is a folder, or Windows reserves the name.
    """
    if system.is_reserved(path.name):
        raise OSError(errno.EINVAL, "Windows does not allow this file name", str(path))
    target = _target(path)
    folder = target.parent if path.is_symlink() else path.parent  # as the user wrote it
    if not folder.is_dir():
        raise FileNotFoundError(f"no such folder to write into: {folder}")
    if target.is_dir():
        raise IsADirectoryError(f"cannot write a file over a folder: {path}")
    if not system.can_change(folder) and not (target.exists() and os.access(target, os.W_OK)):
        raise PermissionError(f"no permission to write into folder: {folder}")


def check_folder_to_be(path: Path) -> None:
    """Check that files can be written to this folder, which need not exist yet. Raises OSError if not."""
    folder = nearest(path)
    if not folder.is_dir():
        raise NotADirectoryError(f"expected a folder to write into, got a file: {folder}")
    check_folder(folder / "any")


def nearest(path: Path) -> Path:
    """The path, or the nearest of its folders that exists.

    Raises:
        FileNotFoundError: The path is on a drive that Windows does not have.
    """
    for parent in (path, *path.parents):
        if parent.exists():
            return parent
    raise FileNotFoundError(f"no such drive: {path.anchor}")


def check_distinct(paths: Iterable[Path]) -> None:
    """Check that the input and output paths of a command are all different files. Raises ValueError if not."""
    seen: set[str] = set()
    for path in paths:
        real = system.real_path(path)
        if real in seen:
            raise ValueError(f"this command would overwrite its own input or output file: {path}")
        seen.add(real)
