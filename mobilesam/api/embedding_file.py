"""Embedding files: safetensors files with an image's features and sizes, and the model's checkpoint and precision."""

import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray
from PIL import Image

from ..architecture import EMBED_DIM, EMBED_SIZE, LOW_RES, MOBILE_SAM, UPSCALE_DIMS, Architecture
from ..checkpoints.errors import CheckpointError
from ..checkpoints.tensor_file import TensorFile
from ..images.geometry import Size, resized_size
from ..images.value_range import ValueRange, parse_range
from ..util.files import check_folder, whole_file

FORMAT = "mobilesam embedding"
FORMAT_VERSION = "2"
_LONGEST_TEXT = 100  # characters of a size or a value range, because a message may repeat them
READABLE = ("1", "2")  # files of version 1 hold no architecture, and come from MobileSAM
FEATURES, HQ_FEATURES = "features", "hq_features"
SHAPES = {FEATURES: (EMBED_SIZE, EMBED_SIZE, EMBED_DIM), HQ_FEATURES: (LOW_RES, LOW_RES, UPSCALE_DIMS[1])}


@dataclass(frozen=True)
class Maker:
    """The checkpoint and precision that an embedding was computed with.

    Attributes:
        checkpoint_sha256: SHA-256 of the checkpoint file, in hexadecimal.
        precision: "fp32", "bf16" or "int8".
        architecture: Architecture of the checkpoint.
    """

    checkpoint_sha256: str
    precision: str
    architecture: Architecture


@dataclass(frozen=True, eq=False)
class Features:
    """The image embedding, and Light HQ-SAM's HQ features.

    Attributes:
        image: (64, 64, 256) float32.
        hq: (256, 256, 32) float32, the HQ features of Light HQ-SAM, or None.
    """

    image: NDArray[np.float32]
    hq: NDArray[np.float32] | None


@dataclass(frozen=True)
class Source:
    """The image that an embedding was computed from.

    Attributes:
        original_size: (h, w) of the image.
        input_size: (h, w) of the part of the model's canvas that the image fills.
        name: File name of the image, or "".
        value_range: The `value_range` that the image was opened with.
    """

    original_size: Size
    input_size: Size
    name: str
    value_range: ValueRange


def write(path: str | os.PathLike[str], features: Features, source: Source, maker: Maker) -> None:
    """Write an embedding file. A failure leaves no partial file.

    Args:
        path: The file to write.
        features: The features.
        source: The image.
        maker: The checkpoint and precision that computed `features`.

    Raises:
        OSError: The file cannot be written.
    """
    path = Path(path)
    check_folder(path)
    metadata = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "original_size": "{},{}".format(*source.original_size),
        "input_size": "{},{}".format(*source.input_size),
        "name": source.name.encode("utf-8", "replace").decode(),  # a name on Linux need not be Unicode
        "value_range": source.value_range
        if isinstance(source.value_range, str)
        else "{},{}".format(*source.value_range),
        "checkpoint_sha256": maker.checkpoint_sha256,
        "precision": maker.precision,
        "architecture": maker.architecture.name,
    }
    arrays = {FEATURES: features.image} | ({} if features.hq is None else {HQ_FEATURES: features.hq})
    with whole_file(path) as partial:
        partial.write_bytes(safetensors.numpy.save(arrays, metadata))


def read(path: str | os.PathLike[str], maker: Maker) -> tuple[Features, Source]:
    """Read an embedding file that `write` wrote.

    Args:
        path: The file to read.
        maker: The checkpoint and precision that the embedding must come from.

    Returns:
        The features, read-only, and the image. Files of version 1 may hold neither its name nor its value range, which
        are then "" and "dtype".

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is not an embedding, is damaged, comes from another checkpoint or precision, or is of an
            image of more pixels than `mobilesam.images.photo.open_rgb` accepts.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no such embedding: {path}")
    try:
        file = TensorFile(path, "saved embedding")
    except CheckpointError as error:
        raise ValueError(str(error)) from None
    metadata, shapes, dtypes = file.metadata, file.shapes(), file.dtypes()
    if metadata.get("format") != FORMAT or FEATURES not in shapes:
        raise ValueError(f"{path}: not a saved embedding")
    if metadata.get("format_version") not in READABLE:
        problem = f"format_version {metadata.get('format_version')!a:.20}, expected {' or '.join(READABLE)}"
        raise ValueError(f"{path}: {problem}")
    wanted = [name for name in SHAPES if name in shapes]
    for name in wanted:
        if dtypes[name] != "F32" or shapes[name] != SHAPES[name]:
            problem = f"{name} are {dtypes[name]} {shapes[name]}, expected F32 {SHAPES[name]}"
            raise ValueError(f"{path}: a damaged embedding: {problem}")
    if metadata.get("checkpoint_sha256") != maker.checkpoint_sha256:
        theirs = f"{metadata.get('checkpoint_sha256')!a:.20}"
        ours = f"{maker.checkpoint_sha256[:18]!r}"
        problem = f"made with the checkpoint of SHA-256 {theirs}..., but the model's is {ours}..."
        raise ValueError(f"{path}: {problem}: pass a model of that checkpoint, or encode the image again")
    if metadata.get("precision") != maker.precision:
        problem = f"made in precision {metadata.get('precision')!a:.20}, but the model's is {maker.precision!r}"
        raise ValueError(f"{path}: {problem}: encode the image again")
    architecture = metadata.get("architecture", MOBILE_SAM.name)
    if architecture != maker.architecture.name or (HQ_FEATURES in wanted) != maker.architecture.hq:
        hq = "with" if HQ_FEATURES in wanted else "without"
        problem = f"architecture {architecture!a:.20} {hq} HQ features, but the model is {maker.architecture.name!r}"
        raise ValueError(f"{path}: a damaged embedding: {problem}")
    original_size, input_size = (_size(path, metadata, name) for name in ("original_size", "input_size"))
    if Image.MAX_IMAGE_PIXELS is not None and math.prod(original_size) > 2 * Image.MAX_IMAGE_PIXELS:
        height, width = original_size
        problem = f"the image has {width}x{height} pixels, more than {2 * Image.MAX_IMAGE_PIXELS}, the limit"
        raise ValueError(f"{path}: {problem}; to allow it, raise PIL.Image.MAX_IMAGE_PIXELS")
    expected = resized_size(*original_size, maker.architecture.img_size)
    if input_size != expected:
        problem = f"input_size is {input_size}, expected {expected} for the original_size {original_size}"
        raise ValueError(f"{path}: a damaged embedding: {problem}")
    try:
        value_range = parse_range(metadata.get("value_range", "dtype")[:_LONGEST_TEXT])
    except ValueError as error:
        raise ValueError(f"{path}: a damaged embedding: {error}") from None
    arrays = {name: _array(file, name) for name in wanted}
    return Features(arrays[FEATURES], arrays.get(HQ_FEATURES)), Source(
        original_size, input_size, metadata.get("name", ""), value_range
    )


def _array(file: TensorFile, name: str) -> NDArray[np.float32]:
    try:
        array = file[name]
    except CheckpointError as error:
        raise ValueError(str(error)) from None
    if not np.isfinite(array).all():
        raise ValueError(f"{file.path}: a damaged embedding: {name} are not finite")
    array.flags.writeable = False
    return array


def _size(path: Path, metadata: dict[str, str], name: str) -> Size:
    try:
        text = metadata[name]
        if len(text) > _LONGEST_TEXT:
            raise ValueError
        height, width = map(int, text.split(","))
        if min(height, width) < 1:
            raise ValueError
    except (KeyError, ValueError):
        raise ValueError(f"{path}: a damaged embedding: {name} is {metadata.get(name)!a:.30}, expected 'h,w'") from None
    return height, width
