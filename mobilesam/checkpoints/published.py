"""Published checkpoints: their addresses and checksums, and where `mobilesam download` keeps them."""

from pathlib import Path
from typing import NamedTuple


class Published(NamedTuple):
    """A published checkpoint.

    Attributes:
        url: address of the file.
        sha256: SHA-256 of the file, in hexadecimal.
        sha256_source: address of the page that states the SHA-256.
    """

    url: str
    sha256: str
    sha256_source: str


PUBLISHED = {
    "mobile_sam": Published(
        url="https://github.com/ChaoningZhang/MobileSAM/raw/master/weights/mobile_sam.pt",
        sha256="6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
        # MobileSAM publishes no checksum. micro-sam uses this checksum to verify this checkpoint, which it calls vit_t.
        sha256_source="https://github.com/computational-cell-analytics/micro-sam/blob/master/micro_sam/util.py",
    ),
}


def cache_folder() -> Path:
    """The folder for downloads: the user's cache folder for this package, by the platform's conventions.

    Raises:
        FileNotFoundError: The user has no home folder, and XDG_CACHE_HOME is not set to an absolute path.
    """
    from platformdirs import user_cache_path  # imported here, because it is slow to import

    try:
        folder = user_cache_path("mobilesam", appauthor=False)
    except RuntimeError:
        folder = Path()
    if not folder.is_absolute():  # without a home folder, older versions of platformdirs return ~/.cache/mobilesam
        raise FileNotFoundError("there is no folder for downloads: set HOME, or XDG_CACHE_HOME to an absolute path")
    return folder


def unfinished_path(name: str) -> Path:
    """The file that a download writes to. The file is deleted once it is checked and converted."""
    return cache_folder() / "unfinished" / PUBLISHED[name].url.rpartition("/")[2]


def cached_path(name: str) -> Path:
    """The file that holds a published checkpoint once it is downloaded and converted."""
    return cache_folder() / f"{name}.safetensors"


def is_downloaded(name: str) -> bool:
    """Whether a published checkpoint is downloaded. False if the folder for downloads is missing or unreadable."""
    try:
        return cached_path(name).exists()
    except OSError:  # there is no folder for downloads, or no permission to read it
        return False
