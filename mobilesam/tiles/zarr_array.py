"""Opening of zarr arrays and groups. Requires zarr: extra [zarr]."""

from __future__ import annotations

from pathlib import Path
from typing import Any

try:
    import zarr
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("zarr files need zarr: pip install 'mobilesam[zarr]'", name="zarr") from error


def open_array(path: Path) -> Any:
    """Open an array, or the first level of an OME-Zarr image.

    Raises:
        ValueError: The folder holds no zarr array.
    """
    try:
        node = zarr.open(str(path), mode="r")
    except Exception as error:  # zarr 2 and 3 raise different types
        raise ValueError(f"{path}: expected a zarr array, got a folder that zarr cannot open: {error}") from None
    if hasattr(node, "shape"):
        return node
    if "0" in node and hasattr(node["0"], "shape"):
        return node["0"]
    raise ValueError(f"{path}: expected a zarr array, got a group without an array '0'")


__all__ = ["open_array", "zarr"]
