"""The model: its parts, the encoding of images, and the models of this process."""

from __future__ import annotations

import os
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .. import kernels
from ..checkpoints.errors import CheckpointError
from ..checkpoints.fused import Checkpoint
from ..checkpoints.published import PUBLISHED, cached_path, is_downloaded
from ..images.arrays import ImageLike
from ..images.canvas import to_encoder_input
from ..images.geometry import Size
from ..images.photo import as_photo
from ..images.value_range import Bands, ValueRange, checked_range
from ..network.loading import Network, load_network
from ..network.precision import resolve
from ..tiles.features import MEMORY
from ..tiles.grid import HALO, TILE, Grid
from ..util.deferred import ForkSafeLock, Once
from ..weights import default_path
from .embedding import Embedding, set_default_model
from .tiled import Progress, TiledEmbedding

if TYPE_CHECKING:
    from ..network.image_encoder import ImageEncoder
    from ..network.mask_decoder import MaskDecoder
    from ..network.prompt_encoder import PromptEncoder
    from ..tiles.source import Source


class MobileSAM:
    """A loaded model. It is immutable, so any number of threads may use it at once.

    A pickle or a deep copy holds the checkpoint's SHA-256 and path, not the weights. See `Embedding` for how unpickling
    finds the model.

    Attributes:
        network: The image encoder, the prompt encoder and the mask decoder.
        checkpoint: The checkpoint that the weights come from.
        precision: "fp32", "bf16" or "int8".
        kind: The published model that the checkpoint is, or was trained from.
        architecture: Name of the architecture: "mobile_sam", "lite_medsam" or "hq_sam".
        canvas_size: (h, w) of the canvas that images are resized to, in pixels.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self.checkpoint, self.precision, self.kind = network.checkpoint, network.precision, network.model
        self.architecture = network.architecture.name
        self.canvas_size: Size = (network.architecture.img_size, network.architecture.img_size)
        with _loaded_lock:
            _loaded.add(self)

    def __reduce__(self) -> tuple[Any, ...]:
        checkpoint, network = self.checkpoint, self.network
        decoder = None if isinstance(checkpoint, Checkpoint) else checkpoint.decoder
        paths = checkpoint.path.absolute(), decoder and decoder.absolute()
        return _find_model, (
            checkpoint.sha256, self.precision, paths, network.threads, network.images, self.kind.name
        )  # fmt: skip

    @property
    def threads(self) -> int:
        """Number of threads that the next call uses.

        The number is smaller than the number given to `load` in a build without OpenMP (1), and if the operating system
        does not let this process start more threads. To find out, threads are started and ended, unless this Python
        thread has computed on as many threads before.
        """
        return kernels.threads.usable(self.network.threads)

    @property
    def image_encoder(self) -> ImageEncoder:
        """The image encoder: a canvas (S, S, 3) float32, normalised and padded, to features (64, 64, 256) float32."""
        return self.network.image_encoder

    @property
    def prompt_encoder(self) -> PromptEncoder:
        """The prompt encoder: points, boxes and mask logits to embeddings for the mask decoder."""
        return self.network.prompt_encoder

    @property
    def mask_decoder(self) -> MaskDecoder:
        """The mask decoder: image features and a prompt's embeddings to mask logits and scores."""
        return self.network.mask_decoder

    def encode(
        self,
        image: ImageLike,
        *,
        image_format: str = "RGB",
        value_range: ValueRange | None = None,
        bands: Bands | None = None,
    ) -> Embedding:
        """Encode an image.

        Args:
            image: A path, bytes, a file object, a PIL image or an array. See `mobilesam.images.photo.open_rgb`.
            image_format: "RGB", or "BGR" for an array with channels in this order.
            value_range: The values that become black and white: "dtype" for the range of the dtype; "minmax" for the
                smallest and the largest value of the image; "minmax-channel" for those of each channel; or (low, high).
                None for the model's own: "minmax-channel" for micro-sam's models, else "dtype".
            bands: Three numbers, from 0, of the bands of a file, or channels of an array, that are red, green and blue.

        Warns:
            UserWarning: 16-bit values use less than 1/8 of their range, and no value range is given.

        Raises:
            OSError: The file cannot be opened.
            TypeError: The argument is not an image.
            ValueError: The image is damaged or empty, has too many pixels, or has values outside the accepted range.
        """
        value_range = checked_range(self.kind.value_range if value_range is None else value_range)
        photo = as_photo(image, image_format, value_range=value_range, bands=bands)
        x, input_size = to_encoder_input(photo, self.network.architecture, threads=self.network.threads)
        features, hq_features = encode_canvas(self.network, x, input_size)
        return Embedding(features, photo.original_size, input_size, self, photo.name, value_range, hq_features)

    def encode_tiled(
        self,
        image: Any,
        tile: int | Size = TILE,
        halo: int | Size = HALO,
        *,
        value_range: ValueRange | None = None,
        bands: Bands | None = None,
        ahead: bool = False,
        memory: int = MEMORY,
        progress: Progress | None = None,
    ) -> TiledEmbedding:
        """Encode a large image in tiles. A tile is encoded when the first prompt in it is answered.

        Args:
            image: An array (H, W) or (H, W, C), a memory map or a zarr array, with the dtypes of `encode`. Or the path
                of a GeoTIFF, a COG or another file that GDAL reads (extra [geo]), of another TIFF file (extras [tiff]
                and [zarr]), of a zarr array (extra [zarr]), or of an .npy file: these are read by windows. Any other
                image that `encode` accepts is decoded as a whole.
            tile: Side, or (h, w), of the cores of the tiles in pixels.
            halo: Width, or (h, w), of the margin that is read on each side of a core, at most half of `tile`. The halo
                should exceed half an object.
            value_range: See `encode`. "minmax" and "minmax-channel" mean the values of each tile on its own.
            bands: See `encode`.
            ahead: Encode all tiles now, instead of each on demand.
            memory: Bytes of features to keep in memory. A tile has 4 MB. Beyond this limit, features go to temporary
                files.
            progress: With `ahead`, called after each tile with the number of encoded tiles and the number of all.

        Raises:
            ModuleNotFoundError: The file needs an extra that is not installed.
            OSError, TypeError, ValueError: See `encode`. ValueError is also raised for an invalid `tile` or `halo`.
        """
        source = self._source(image, value_range, bands)
        tiled = TiledEmbedding(self, source, Grid(source.size, tile, halo), source.name, memory)
        if ahead:
            tiled.encode_all(progress)
        return tiled

    def load_tiled(
        self,
        path: str | os.PathLike[str],
        image: Any = None,
        *,
        z: int | None = None,
        value_range: ValueRange | None = None,
        bands: Bands | None = None,
    ) -> TiledEmbedding:
        """Open embeddings in a zarr group that `TiledEmbedding.save` or micro-sam wrote. Requires the extra [zarr].

        Args:
            path: The folder.
            image: The image, which is compared with the embeddings' checksum. It is needed for prompts that span tiles,
                and for slices of a stack whose size is not in the file. See `encode_tiled`.
            z: Number, from 0, of the slice, if the embeddings are of a stack of slices.
            value_range: See `encode_tiled`.
            bands: See `encode_tiled`.

        Raises:
            FileNotFoundError: There is no such folder.
            ModuleNotFoundError: zarr, or what the image needs, is not installed.
            ValueError: The folder does not hold complete embeddings of MobileSAM, or those of another image.
        """
        source = None if image is None else self._source(image, value_range, bands)
        return TiledEmbedding.load(path, self, source, z=z)

    def _source(self, image: Any, value_range: ValueRange | None, bands: Bands | None) -> Source:
        value_range = self.kind.value_range if value_range is None else value_range
        from ..tiles.opening import open_source

        return open_source(image, value_range=value_range, bands=bands)


def encode_canvas(
    network: Network, canvas: NDArray[np.float32], input_size: Size
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """The features of a canvas and, for Light HQ-SAM, the HQ features. Both are read-only.

    Args:
        network: The network.
        canvas: (S, S, 3), normalised and padded.
        input_size: (h, w) of the part of the canvas that the image fills.
    """
    features, after_stage_1 = network.image_encoder.encode(canvas, input_size)
    features.flags.writeable = False
    if after_stage_1 is None or network.mask_decoder.hq is None:
        return features, None
    hq_features = network.mask_decoder.hq.features(features, after_stage_1)
    hq_features.flags.writeable = False
    return features, hq_features


_loaded: weakref.WeakSet[MobileSAM] = weakref.WeakSet()
_loaded_lock = ForkSafeLock()
_unpickled: MobileSAM | None = None  # keeps the last unpickled model alive, because _loaded holds weak references


def _find_model(
    sha256: str, precision: str, paths: tuple[Path, Path | None], threads: int, images: int, model: str
) -> MobileSAM:
    """Find a model by its checkpoint's SHA-256, its precision and its name, or load one.

    The checkpoint can be at `paths`, the paths of the checkpoint and of its decoder file, if it has one, or in the
    package, or in the download folder. Raises CheckpointError if none of these files has this SHA-256.
    """
    global _unpickled
    with _loaded_lock:
        loaded = list(_loaded)
    for each in loaded:
        if (each.precision, each.kind.name) == (precision, model) and each.checkpoint.sha256 == sha256:
            return each
    from ..checkpoints.reader import open_source  # imported here, because only unpickling needs this module

    others = default_path(), *map(cached_path, filter(is_downloaded, PUBLISHED))
    for source, decoder in (paths, *((path, None) for path in others)):
        try:
            checkpoint = open_source(source, decoder)
            if checkpoint.sha256 == sha256:
                network = Network(checkpoint, threads, resolve(precision), images=images, model=model)
                _unpickled = MobileSAM(network.loaded())
                return _unpickled
        except (CheckpointError, OSError):
            continue
    raise CheckpointError(
        f"{paths[0]}: the file is missing or has changed, and a pickled model, embedding or segmentation needs its "
        f"checkpoint with SHA-256 {sha256[:16]}...: load this checkpoint first, with "
        f"mobilesam.load(FILE, precision={precision!r})"
    )


_packaged_model = Once(lambda: MobileSAM(load_network(None, None, None).loaded()))


def default_model() -> MobileSAM:
    """The model of the packaged checkpoint, loaded once per process."""
    return _packaged_model()


set_default_model(default_model)
