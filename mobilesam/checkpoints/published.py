"""Published checkpoints: where each comes from, its checksum, and where `mobilesam download` keeps it."""

from pathlib import Path
from typing import NamedTuple


class Published(NamedTuple):
    """A checkpoint's address, the SHA-256 of the file there, and who publishes that."""

    url: str
    sha256: str
    sha256_source: str


PUBLISHED = {
    "mobile_sam": Published(
        url="https://github.com/ChaoningZhang/MobileSAM/raw/master/weights/mobile_sam.pt",
        sha256="6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
        # MobileSAM itself publishes none. This is what other projects check, in micro-sam under the name vit_t.
        sha256_source="https://github.com/computational-cell-analytics/micro-sam/blob/master/micro_sam/util.py",
    ),
}


def cache_folder() -> Path:
    """Where downloads are kept: the user's cache folder for this package, by the platform's conventions."""
    from platformdirs import user_cache_path  # slow to import, and the command line knows this module

    return user_cache_path("mobilesam", appauthor=False)


def unfinished_path(name: str) -> Path:
    """Where the published file itself is until it is whole, checked and converted."""
    return cache_folder() / "unfinished" / PUBLISHED[name].url.rpartition("/")[2]


def cached_path(name: str) -> Path:
    """The file of a published checkpoint, converted, which is there once it was downloaded."""
    return cache_folder() / f"{name}.safetensors"
