"""Opening of zarr arrays and groups. Requires zarr: extra [zarr]."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ..images.value_range import Bands, ValueRange
from .grid import Box
from .source import ArraySource, reading
from .zarr_metadata import check_metadata

try:
    import zarr
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("zarr files need zarr: pip install 'mobilesam[zarr]'", name="zarr") from error


def open_array(path: Path) -> Any:
    """Open an array, or the first level of an OME-Zarr image.

    Raises:
        ValueError: The folder holds no zarr array.
    """
    check_metadata(path, path / "0")
    try:
        node = zarr.open(str(path), mode="r")
    except Exception as error:  # zarr 2 and 3 raise different types
        raise ValueError(f"{path}: expected a zarr array, got a folder that zarr cannot open: {error}") from None
    if hasattr(node, "shape"):
        return node
    if "0" in node and hasattr(node["0"], "shape"):
        return node["0"]
    raise ValueError(f"{path}: expected a zarr array, got a group without an array '0'")


class ZarrSource(ArraySource):
    """A zarr array in a folder. See `open_array`."""

    def __init__(self, path: Path, *, value_range: ValueRange = "dtype", bands: Bands | None = None) -> None:
        super().__init__(open_array(path), path.name, value_range=value_range, bands=bands)

    def read(self, box: Box) -> NDArray[Any]:
        with reading(self.name):
            return super().read(box)


__all__ = ["ZarrSource", "open_array", "zarr"]
