"""A check of a zarr folder's metadata before zarr opens the folder.

The metadata name the codecs that decode the chunks. numcodecs has a codec `pickle`, which executes what a chunk holds.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

FILES = (".zarray", ".zgroup", ".zmetadata", "zarr.json")
CODECS = {  # of numcodecs and of zarr 3, which decode bytes and numbers
    *("adler32", "astype", "bitround", "blosc", "bytes", "bz2", "crc32", "crc32c", "delta", "fixedscaleoffset"),
    *("fletcher32", "gzip", "jenkins_lookup3", "lz4", "lzma", "packbits", "pcodec", "quantize", "sharding_indexed"),
    *("shuffle", "transpose", "zfpy", "zlib", "zstd"),
}
_NUMBER = re.compile(r"[<>|]?([biuf]\d{1,2}|bool|u?int\d{1,2}|float\d{1,2})")
_MOST_BYTES = 64 << 20  # of a metadata file; that of a group with 100,000 tiles has about 40 MB


def check_metadata(*folders: Path) -> None:
    """Check the metadata in zarr folders, but not those in folders below.

    Raises:
        ValueError: A metadata file is damaged, or names a codec or a dtype that is not one of numbers.
    """
    for folder in folders:
        for name in FILES:
            if (path := folder / name).is_file():
                _check(path)


def _check(path: Path) -> None:
    if path.stat().st_size > _MOST_BYTES:
        raise ValueError(f"{path}: metadata of {path.stat().st_size} bytes, expected at most {_MOST_BYTES}")
    try:
        values = [json.loads(path.read_bytes())]
    except (RecursionError, ValueError):
        raise ValueError(f"{path}: damaged metadata of a zarr array") from None
    for value in values:  # the list grows while it is read
        if isinstance(value, list):
            values += value
        elif isinstance(value, dict):
            for key, inner in value.items():
                if key == "attributes" or key.endswith(".zattrs"):
                    continue
                if key in ("compressor", "filters", "codecs", "index_codecs"):
                    _check_codecs(path, inner)
                elif key in ("dtype", "data_type") and not (isinstance(inner, str) and _NUMBER.fullmatch(inner)):
                    raise ValueError(f"{path}: expected an array of numbers, got the dtype {inner!a:.100}")
                values.append(inner)


def _check_codecs(path: Path, codecs: object) -> None:
    for codec in codecs if isinstance(codecs, list) else [codecs]:
        if codec is None:
            continue
        name = codec.get("id", codec.get("name")) if isinstance(codec, dict) else codec
        if not isinstance(name, str) or name.removeprefix("numcodecs.") not in CODECS:
            raise ValueError(f"{path}: expected a codec for numbers, got {name!a:.100}")
