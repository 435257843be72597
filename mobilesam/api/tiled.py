"""Large images, encoded in tiles: a prompt is answered by the tile that it lies in."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from threading import RLock
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..images.geometry import Size, resized_size
from ..images.value_range import ValueRange
from ..masks import rle
from ..masks import runs as runs_of
from ..masks.objects import UNNAMED, SegmentedObject
from ..masks.rle import UncompressedRLE
from ..tiles.features import MEMORY, Features, FeatureStore
from ..tiles.grid import Box, Grid, Tile
from ..tiles.source import Source
from ..util.deferred import lazy
from .embedding import Embedding, Model, Segmentation
from .prompts import check_prompt

KEPT_BOXES = 4  # tiles made for boxes that are kept, because a box is often followed by clicks

T = TypeVar("T")
Progress = Callable[[int, int], object]


class Encoder(Model, Protocol):
    """A model that encodes images: a `MobileSAM`."""

    def encode(self, image: Any, *, value_range: ValueRange | None = None) -> Embedding:
        """Encode an image. See `MobileSAM.encode`."""


@dataclass(frozen=True, eq=False)
class TiledSegmentation:
    """The masks that one tile of a large image predicts for a prompt.

    Attributes:
        tile: The answer of the tile, in pixels of the tile.
        offset: (x, y) of the tile's left upper pixel in the whole image.
        size: (h, w) of the whole image.
    """

    tile: Segmentation
    offset: tuple[int, int]
    size: Size

    def __repr__(self) -> str:
        height, width = self.size
        return f"<TiledSegmentation: {self.tile!r} at {self.offset} of an image of {width}x{height} pixels>"

    @property
    def scores(self) -> NDArray[np.float32]:
        """(C,) float32. The model's estimate of each mask's IoU with the object."""
        return self.tile.scores

    @property
    def best(self) -> int:
        """Index of the mask with the highest score."""
        return self.tile.best

    @property
    def mask(self) -> NDArray[np.bool_]:
        """The mask (H, W) bool with the highest score, in the size of the whole image. A new array on each access."""
        whole = np.zeros(self.size, np.bool_)
        (x, y), (height, width) = self.offset, self.tile.mask.shape
        whole[y : y + height, x : x + width] = self.tile.mask
        return whole

    @lazy
    def rle(self) -> UncompressedRLE:
        """The mask with the highest score as run lengths over the whole image. No array of its size is allocated."""
        runs = runs_of.shifted(rle.to_runs(rle.encode(self.tile.mask)), *self.offset)
        return {"size": list(self.size), "counts": rle.from_runs(runs, self.size).tolist()}

    def refine(
        self,
        points: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        *,
        box: ArrayLike | None = None,
        multimask: bool | None = None,
        hq_token_only: bool = False,
    ) -> TiledSegmentation:
        """Segment again on the same tile, with the best mask's logits and more points. See `Segmentation.refine`.

        Args:
            points: (P, 2) points to add, in pixels of the whole image, inside the tile.
            labels: (P,) labels of the added points.
            box: A box that replaces the prompt's box, in pixels of the whole image.
            multimask: See `Segmentation.refine`.
            hq_token_only: See `Embedding.segment`.

        Raises:
            TypeError, ValueError: See `Embedding.segment`. ValueError is also raised if a point is outside the tile.
        """
        check_prompt(self.size, points, labels, box, self.tile.low_res[self.best])
        height, width = self.tile.embedding.original_size
        x, y = self.offset
        local = None if points is None else np.asarray(points, np.float64) - self.offset
        if local is not None and local.size and ((local < 0) | (local > (width, height))).any():
            raise ValueError(
                f"points: expected points inside the tile that answered, x {x} to {x + width}, y {y} to {y + height}, "
                f"got {np.asarray(points).tolist()}"
            )
        moved = None if box is None else np.asarray(box, np.float64) - np.tile(self.offset, 2)
        answer = self.tile.refine(local, labels, box=moved, multimask=multimask, hq_token_only=hq_token_only)
        return TiledSegmentation(answer, self.offset, self.size)

    def as_object(self, name: str = UNNAMED) -> SegmentedObject:
        """The best mask and its score as a named object, for the functions of `mobilesam.results`."""
        embedding = self.tile.embedding
        return SegmentedObject(self.rle, name, float(self.scores[self.best]), file_name=embedding.name)


class TiledEmbedding:
    """A large image that is encoded in tiles, on demand or ahead. Threads may share one TiledEmbedding.

    Attributes:
        model: The model that encodes the tiles.
        source: The image. None for an embedding from a file that was loaded without its image.
        grid: The tiles: `grid[number].core` and `grid[number].outer` are boxes (x0, y0, x1, y1).
    """

    def __init__(
        self,
        model: Encoder,
        source: Source | None,
        grid: Grid,
        name: str,
        memory: int = MEMORY,
        saved: Callable[[int], Features] | None = None,
    ) -> None:
        """See `MobileSAM.encode_tiled`. `saved` gives the features of a tile that are in a file."""
        self.model, self.source, self.grid, self.name = model, source, grid, name
        self._store, self._saved, self._lock = FeatureStore(memory), saved, RLock()
        self._boxes: OrderedDict[Box, Embedding] = OrderedDict()

    def __repr__(self) -> str:
        height, width = self.grid.size
        return f"<TiledEmbedding of an image of {width}x{height} pixels in {len(self.grid)} tiles>"

    @property
    def original_size(self) -> Size:
        """(h, w) of the image."""
        return self.grid.size

    def tile(self, number: int) -> Embedding:
        """The embedding of a tile, with its halo. The tile is encoded if it was not encoded before.

        Raises:
            IndexError: There is no tile with this number.
            OSError, TypeError, ValueError: The image cannot be read, or is not given. See `MobileSAM.encode`.
        """
        tile = self.grid[number]
        with self._lock:
            features = self._store.get(number)
            if features is None and self._saved is not None:
                features = self._saved(number)
                self._store.put(number, features)
            return self._encode(tile) if features is None else self._embedding(features, tile.outer_size)

    def encode_all(self, progress: Progress | None = None) -> None:
        """Encode all tiles that are not encoded yet. The next tile is read while a tile is encoded.

        Args:
            progress: Called after each tile with the number of encoded tiles and the number of tiles.

        Raises:
            OSError, TypeError, ValueError: The image cannot be read. See `MobileSAM.encode`.
        """
        if self._saved is not None:
            return
        left = [number for number in range(len(self.grid)) if number not in self._store]
        read = self._readable().read
        windows = read_ahead(lambda tile: read(tile.outer), [self.grid[i] for i in left])
        for done, (tile, window) in enumerate(windows, 1):
            with self._lock:
                if tile.number not in self._store:
                    self._encode(tile, window)
            if progress is not None:
                progress(len(self.grid) - len(left) + done, len(self.grid))

    def segment(
        self,
        points: ArrayLike | None = None,
        labels: ArrayLike | None = None,
        *,
        box: ArrayLike | None = None,
        multimask: bool | None = None,
        hq_token_only: bool = False,
    ) -> TiledSegmentation:
        """Predict the masks for a prompt, on the tile whose core contains the prompt.

        A prompt that spans the cores of several tiles is answered on a tile made for it, which is encoded now.

        Args:
            points: (P, 2), one (x, y) per row in pixels of the whole image.
            labels: (P,), 1 for a point on the object, 0 for a point not on it. Default: all 1.
            box: (x0, y0, x1, y1) in pixels of the whole image.
            multimask: See `Embedding.segment`.
            hq_token_only: See `Embedding.segment`.

        Raises:
            TypeError, ValueError: See `Embedding.segment`.
            OSError: The image cannot be read.
        """
        prompt = check_prompt(self.grid.size, points, labels, box, None)
        corners = prompt.points if prompt.box is None else np.concatenate([prompt.points, prompt.box.reshape(2, 2)])
        low, high = corners.min(axis=0), corners.max(axis=0)
        first, last = self.grid.at(*low.tolist()), self.grid.at(*_inside(high, low).tolist())
        if first.number == last.number:
            outer, embedding = first.outer, self.tile(first.number)
        else:
            x0, y0 = np.floor(low).astype(int).tolist()
            x1, y1 = np.ceil(high).astype(int).tolist()
            outer = self.grid.around((x0, y0, x1, y1))
            embedding = self._made(outer)
        offset = outer[:2]
        answer = embedding.segment(
            prompt.points - offset,
            prompt.labels,
            box=None if prompt.box is None else prompt.box - np.tile(offset, 2),
            multimask=multimask,
            hq_token_only=hq_token_only,
        )
        return TiledSegmentation(answer, offset, self.grid.size)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the embeddings of all tiles as a zarr group that micro-sam opens. Encodes the tiles that are missing.

        Requires the extra [zarr]. A failure leaves no partial file.

        Args:
            path: The folder to write, such as "scene.zarr".

        Raises:
            FileExistsError: The folder exists already.
            OSError: The image cannot be read, or the folder cannot be written.
            ValueError: The model is no MobileSAM, which micro-sam calls vit_t, or the image is not given.
        """
        from ..tiles import micro_sam

        _check_is_vit_t(self.model)
        source = self._readable()
        micro_sam.check_new(Path(path))  # before the tiles are encoded, which may take hours
        self.encode_all()
        tiles = (self._to_save(number) for number in range(len(self.grid)))
        micro_sam.save(Path(path), source, self.grid, tiles, self.model.kind.name)

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], model: Encoder, image: Source | None = None, *, z: int | None = None
    ) -> TiledEmbedding:
        """Open embeddings that `save` or micro-sam wrote. See `MobileSAM.load_tiled`."""
        from ..tiles.micro_sam import SavedTiles, signature

        _check_is_vit_t(model)
        file = SavedTiles(Path(path), None if image is None else image.size)
        if (z is None) != (file.slices is None) or (z is not None and not 0 <= z < (file.slices or 0)):
            expected = "no z for an image" if file.slices is None else f"z from 0 to {file.slices - 1} for a stack"
            raise ValueError(f"{path}: expected {expected}, got z={z}")
        if image is not None and image.size != file.grid.size:
            raise ValueError(f"{path}: the embeddings are of an image of size {file.grid.size}, got {image.size}")
        if image is not None and z is None and signature(image) != file.data_signature:
            raise ValueError(f"{path}: the embeddings are of another image: the checksums of the values differ")
        return cls(model, image, file.grid, Path(path).name, saved=lambda number: (file.features(number, z),))

    def _to_save(self, number: int) -> tuple[NDArray[np.float32], Size, Size]:
        embedding = self.tile(number)
        return embedding.features, embedding.original_size, embedding.input_size

    def _readable(self) -> Source:
        if self.source is None:
            raise ValueError("the embedding was loaded without its image: load it with image=")
        return self.source

    def _made(self, outer: Box) -> Embedding:
        """The embedding of a box that is no tile."""
        with self._lock:
            if outer not in self._boxes:
                self._boxes[outer] = self._encoded(self._readable().read(outer))
                while len(self._boxes) > KEPT_BOXES:
                    self._boxes.popitem(last=False)
            self._boxes.move_to_end(outer)
            return self._boxes[outer]

    def _encode(self, tile: Tile, window: NDArray[Any] | None = None) -> Embedding:
        embedding = self._encoded(self._readable().read(tile.outer) if window is None else window)
        hq = embedding.hq_features
        self._store.put(tile.number, (embedding.features,) if hq is None else (embedding.features, hq))
        return embedding

    def _encoded(self, window: NDArray[Any]) -> Embedding:
        return replace(self.model.encode(window, value_range=self._readable().value_range), name=self.name)

    def _embedding(self, features: Features, size: Size) -> Embedding:
        input_size = resized_size(*size, self.model.canvas_size[0])
        hq = features[1] if len(features) > 1 else None
        value_range = "dtype" if self.source is None else self.source.value_range
        return Embedding(features[0], size, input_size, self.model, self.name, value_range, hq)


def read_ahead(read: Callable[[Tile], T], tiles: list[Tile]) -> Iterator[tuple[Tile, T]]:
    """Call `read` for each tile. While the caller uses a result, `read` runs for the next tile in another thread."""
    if not tiles:
        return
    from concurrent.futures import ThreadPoolExecutor  # imported here, because a photo needs no tiles

    with ThreadPoolExecutor(1, "mobilesam-read") as reader:
        coming = reader.submit(read, tiles[0])
        for i, tile in enumerate(tiles):
            result = coming.result()
            if i + 1 < len(tiles):
                coming = reader.submit(read, tiles[i + 1])
            yield tile, result


def _check_is_vit_t(model: Encoder) -> None:
    """Raise ValueError if micro-sam has no model with this architecture."""
    architecture = model.kind.architecture
    if architecture.preprocessing != "mean_std" or architecture.hq:
        raise ValueError(f"micro-sam has no model with the architecture {architecture.name}")


def _inside(high: NDArray[np.float64], low: NDArray[np.float64]) -> NDArray[np.float64]:
    """The last pixel inside: a box that ends at the border of a core does not reach into the next core."""
    return np.maximum(low, np.ceil(high) - 1) if (high > low).any() else high
