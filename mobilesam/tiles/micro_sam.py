"""Embeddings of tiles in micro-sam's zarr layout. Requires zarr: extra [zarr].

Source: micro_sam/util.py of micro-sam 1.8 (Archit et al., Nature Methods 2025), functions
`precompute_image_embeddings` and `_check_saved_embeddings`. The root group has the attributes of `_attributes`. Its
member `features` is an array (1, 256, 64, 64), or (Z, 1, 256, 64, 64) for a stack of slices. With tiles, `features` is
a group of such arrays with the names "0", "1", and so on.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..architecture import EMBED_DIM, EMBED_SIZE
from ..images.geometry import Size
from ..util.messages import one_line
from ..util.system import replace
from .grid import Grid
from .source import Source
from .zarr_array import zarr
from .zarr_metadata import check_metadata

ROWS = 1024  # rows of the image that are read at a time for the signature
# micro-sam's names and checksums of the files of published models.
KNOWN = {
    "mobile_sam": ("vit_t", "xxh128:8eadbc88aeb9d8c7e0b4b60c3db48bd0"),
    "vit_t_lm": ("vit_t_lm", "xxh128:72ec5074774761a6e5c05a08942f981e"),
}
_FEATURES = (1, EMBED_DIM, EMBED_SIZE, EMBED_SIZE)


def save(
    path: Path, source: Source, grid: Grid, tiles: Iterable[tuple[NDArray[np.float32], Size, Size]], model: str
) -> None:
    """Write the embeddings of all tiles. A failure leaves no partial folder.

    Args:
        path: The folder to write.
        source: The image, of which a checksum is written.
        grid: The tiles.
        tiles: For each tile its features (64, 64, 256), the size (h, w) of its outer box, and the part (h, w) of the
            canvas that the tile fills.
        model: Name of the published model.

    Raises:
        FileExistsError: The folder exists already.
        OSError: The folder cannot be written.
    """
    check_new(path)
    partial = path.with_name(f".{path.name}.{os.urandom(4).hex()}.partial")
    try:
        root = zarr.open(str(partial), mode="w", **_GROUP)
        group = root.require_group("features")
        group.attrs.update({"shape": list(grid.size), "tile_shape": list(grid.tile), "halo": list(grid.halo)})
        for number, (features, size, input_size) in enumerate(tiles):
            array = _create(group, str(number))
            array[:] = features.transpose(2, 0, 1)[None]
            array.attrs.update({"original_size": list(size), "input_size": list(input_size)})
        root.attrs.update(_attributes(source, grid, model))  # the last step, because micro-sam takes them for complete
        replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def check_new(path: Path) -> None:
    """Raise FileExistsError if the path exists."""
    if path.exists():
        raise FileExistsError(17, "File exists", str(path))


def _attributes(source: Source, grid: Grid, model: str) -> dict[str, Any]:
    from ..version import __version__

    name, checksum = KNOWN.get(model, (model, None))
    return {
        "data_signature": signature(source), "tile_shape": list(grid.tile), "halo": list(grid.halo),
        "model_type": "vit_t", "model_name": name, "micro_sam_version": f"mobilesam {__version__}",
        "model_hash": checksum, "input_size": None, "original_size": None,
    }  # fmt: skip


def signature(source: Source) -> str:
    """SHA-1 of the image's values, row by row, as a string of hexadecimal digits."""
    height, width = source.size
    checksum = hashlib.sha1(usedforsecurity=False)
    for top in range(0, height, ROWS):
        checksum.update(np.ascontiguousarray(source.read((0, top, width, min(top + ROWS, height)))).data)
    return checksum.hexdigest()


class SavedTiles:
    """A zarr group with embeddings, which micro-sam or `save` wrote.

    Attributes:
        grid: The tiles. An image without tiles is one tile.
        data_signature: See `signature`.
        model_name: micro-sam's name of the model.
        slices: Number of slices of a stack. None for an image.
    """

    def __init__(self, path: Path, size: Size | None = None) -> None:
        """Open the group and check its layout.

        Args:
            path: The folder.
            size: (h, w) of the image, which the layout has only for tiles and for single images. None if unknown.

        Raises:
            FileNotFoundError: There is no such folder.
            ValueError: The folder does not hold complete embeddings of MobileSAM.
        """
        if not path.exists():
            raise FileNotFoundError(2, "No such file or directory", str(path))
        self._path = path
        check_metadata(path, path / "features")
        try:
            root = zarr.open(str(path), mode="r")
            attributes, self._features = dict(root.attrs), root["features"]
        except Exception as error:  # zarr 2 and 3 raise different types
            raise ValueError(f"{path}: expected a zarr group with embeddings of micro-sam: {one_line(error)}") from None
        if "input_size" not in attributes:
            raise ValueError(f"{path}: the embeddings are not complete: micro-sam sets the attribute input_size last")
        kind = attributes.get("model_type")
        if kind != "vit_t":
            raise ValueError(f"{path}: expected embeddings of the model type vit_t, which is MobileSAM, got {kind!r}")
        self.data_signature, self.model_name = str(attributes.get("data_signature")), str(attributes.get("model_name"))
        self._tiled = not hasattr(self._features, "shape")
        if self._tiled:
            about = dict(self._features.attrs)
            try:
                self.grid = Grid(*(tuple(about[name]) for name in ("shape", "tile_shape", "halo")))
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{path}: the embeddings have no valid tiles: {error}") from None
        else:
            whole = attributes.get("original_size") or size
            if whole is None:
                raise ValueError(f"{path}: the size of the image is not in the file: load it with image=")
            self.grid = Grid(tuple(whole), tuple(whole), 0)
        shape = self._array(0).shape
        self.slices = shape[0] if len(shape) == 5 else None

    def features(self, number: int, z: int | None = None) -> NDArray[np.float32]:
        """The features (64, 64, 256), read-only, of a tile, and of slice `z` of a stack.

        Raises:
            ValueError: The features are missing or have another shape.
        """
        array = self._array(number)
        try:
            values = np.asarray(array[0] if z is None else array[z, 0], np.float32)
        except Exception as error:  # zarr and numcodecs raise errors of many types
            raise ValueError(f"{self._path}: the features of tile {number} are damaged: {one_line(error)}") from None
        if not values.any():
            raise ValueError(f"{self._path}: tile {number} has no features")
        features = np.ascontiguousarray(values.transpose(1, 2, 0))
        features.flags.writeable = False
        return features

    def _array(self, number: int) -> Any:
        if self._tiled and str(number) not in self._features:
            raise ValueError(f"{self._path}: tile {number} has no features")
        if self._tiled:
            check_metadata(self._path / "features" / str(number))
        array = self._features[str(number)] if self._tiled else self._features
        if array.shape[-4:] != _FEATURES or array.ndim > 5:
            raise ValueError(f"{self._path}: expected features of shape {_FEATURES}, got {array.shape}")
        return array


_NEW = int(zarr.__version__.split(".")[0]) >= 3
_GROUP: dict[str, Any] = {"zarr_format": 2} if _NEW else {}  # zarr 2 and 3 both read format 2


def _create(group: Any, name: str) -> Any:
    """An array for the features of a tile, in one chunk."""
    create = group.create_array if _NEW else group.create_dataset
    return create(name, shape=_FEATURES, chunks=_FEATURES, dtype="float32")
