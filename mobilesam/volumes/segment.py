"""Segmenting volumes and pictures with boxes, as in the CVPR 2024 challenge on medical images on laptops.

Source: `CVPR24_LiteMedSAM_infer.py` of the MedSAM repository, branch LiteMedSAM, as of April 2024. Later versions of
the script also segment the slices z0 and z1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import kernels
from ..api.decoding import decoder_image
from ..api.embedding import Embedding
from ..api.loading import load
from ..api.model import MobileSAM
from ..images.area import resize_area
from ..images.geometry import resized_size, to_canvas
from ..util.deferred import Once
from .boxes import checked_boxes
from .case import Labels

Progress: TypeAlias = Callable[[int, int], object]

MODEL = "lite_medsam"
AHEAD = 2  # slices that are encoded ahead of the slice that is segmented
MARGIN = 3 / 256  # margin around the previous slice's mask, in sides of the canvas
MOST_IN_UINT8 = 255
FEW_BOXES = 4  # with more boxes on a slice, it is faster to project the image once for all boxes

_default_model = Once(lambda: load(MODEL))


def segment_volume(
    volume: NDArray[np.uint8], boxes: ArrayLike, *, model: MobileSAM | None = None, progress: Progress | None = None
) -> Labels:
    """Segment objects in a volume, each given by a box.

    The box is the prompt for the middle slice z = int((z1 - z0)/2 + z0). From there, each next slice up to z1 - 1 and
    down to z0 + 1 is segmented with the bounding box of the mask of the slice before, enlarged by a margin. The first
    box is used again if that mask is empty. Slice z0 is segmented only if it is the middle slice.

    Each slice is encoded once, and while a slice is segmented the next ones are encoded. An encoded slice takes 4 MB
    and is kept until no box needs it. Only slices that lie above the middle of one box and below the middle of another
    box are kept for long.

    Args:
        volume: (D, H, W) uint8.
        boxes: (M, 6), or (6,) for one box: x0 y0 z0 x1 y1 z1 in voxels. Boxes are clipped to the volume. At most 65535.
        model: The model. None for the downloaded LiteMedSAM, which is loaded once per process.
        progress: Called after each slice with the number of slices done and of all slices. A slice counts once for the
            way up and once for the way down.

    Returns:
        (D, H, W) uint8, or uint16 for more than 255 boxes: the number of the box, from 1, on its object, and 0
        elsewhere. If objects overlap, the higher number counts.

    Raises:
        FileNotFoundError: No model is given, and LiteMedSAM is not downloaded.
        TypeError: `volume` is not a uint8 array.
        ValueError: The volume or a box is invalid.
    """
    _check_uint8(volume, "volume", "(D, H, W)", isinstance(volume, np.ndarray) and volume.ndim == 3)
    checked = checked_boxes(boxes, volume.shape)
    model = _default_model() if model is None else model
    labels = _empty_labels(volume.shape, len(checked))
    objects = [_Object(number, box, volume.shape[1:], model) for number, box in enumerate(checked.tolist(), 1)]
    steps = _steps(objects)
    embeddings = _encoded(volume, [z for z, _ in steps], model)
    for done, ((z, reached), embedding) in enumerate(zip(steps, embeddings), 1):
        masks = _masks(embedding, [each.box(z) for each in reached], model)
        for each, mask in zip(reached, masks):
            each.follow(z, mask)
            _label(labels[z], mask, each.number)
        if progress is not None:
            progress(done, len(steps))
    return labels


def segment_picture(image: NDArray[np.uint8], boxes: ArrayLike, *, model: MobileSAM | None = None) -> Labels:
    """Segment objects in a picture, each given by a box.

    Args:
        image: (H, W) or (H, W, 3) uint8.
        boxes: (M, 4), or (4,) for one box: x0 y0 x1 y1 in pixels. Boxes are clipped to the picture.
        model: See `segment_volume`.

    Returns:
        (H, W) uint8, or uint16 for more than 255 boxes, as in `segment_volume`.

    Raises:
        FileNotFoundError, TypeError, ValueError: See `segment_volume`.
    """
    _check_uint8(image, "image", "(H, W) or (H, W, 3)", isinstance(image, np.ndarray) and image.ndim in (2, 3))
    checked = checked_boxes(boxes, image.shape[:2])
    model = _default_model() if model is None else model
    labels = _empty_labels(image.shape[:2], len(checked))
    embedding = model.encode(image)
    corners = [_on_canvas(box, image.shape[:2], model) for box in checked.tolist()]
    for number, mask in enumerate(_masks(embedding, corners, model), 1):
        _label(labels, mask, number)
    return labels


class _Object:
    """An object of a volume. Its boxes are (x0, y0, x1, y1) in pixels of the model's canvas.

    Attributes:
        number: The object's number, from 1.
        up: The slices on the way up, from the middle slice.
        down: The slices on the way down, from the slice below the middle slice.
    """

    def __init__(self, number: int, box: Sequence[int], size: tuple[int, ...], model: MobileSAM) -> None:
        x0, y0, z0, x1, y1, z1 = box
        self.number, self._side = number, model.canvas_size[0]
        self._middle = int((z1 - z0) / 2 + z0)
        self.up, self.down = range(self._middle, z1), range(self._middle - 1, z0, -1)
        self._first = self._above = self._below = _on_canvas((x0, y0, x1, y1), size, model)

    def box(self, z: int) -> NDArray[np.float32]:
        """The box for slice z. `follow` must have been called for the neighbouring slice nearer to the middle."""
        return self._above if z >= self._middle else self._below

    def follow(self, z: int, mask: NDArray[np.bool_]) -> None:
        """Take the mask of slice z as the start of the next slice. The middle slice's mask is the start both ways."""
        box = self._around(mask)
        if z >= self._middle:
            self._above = box
        if z <= self._middle:
            self._below = box

    def _around(self, mask: NDArray[np.bool_]) -> NDArray[np.float32]:
        resized = resize_area(mask.astype(np.uint8), resized_size(mask.shape[0], mask.shape[1], self._side))
        rows, columns = np.flatnonzero(resized.any(axis=1)), np.flatnonzero(resized.any(axis=0))
        if not len(rows):
            return self._first
        margin = round(MARGIN * self._side)
        box = columns[0] - margin, rows[0] - margin, columns[-1] + margin, rows[-1] + margin
        return np.clip(np.array(box, np.float32), 0, self._side)


def _steps(objects: Sequence[_Object]) -> list[tuple[int, list[_Object]]]:
    """The slices in the order in which they are segmented, each with its objects: all ways up, then all ways down."""
    up, down = dict[int, list[_Object]](), dict[int, list[_Object]]()
    for each in objects:
        for way, slices in ((up, each.up), (down, each.down)):
            for z in slices:
                way.setdefault(z, []).append(each)
    return [*sorted(up.items()), *sorted(down.items(), reverse=True)]


def _encoded(volume: NDArray[np.uint8], order: Sequence[int], model: MobileSAM) -> Iterator[Embedding]:
    """The embeddings of slices in this order. Each slice is encoded once, and AHEAD slices are encoded in advance."""
    left, kept = Counter(order), dict[int, Future[Embedding]]()
    encoder = ThreadPoolExecutor(1)
    try:
        for i, z in enumerate(order):
            for each in order[i : i + 1 + AHEAD]:
                if each not in kept:
                    kept[each] = encoder.submit(model.encode, volume[each])
            yield kept[z].result()
            left[z] -= 1
            if not left[z]:
                del kept[z]
    finally:
        encoder.shutdown(wait=True, cancel_futures=True)


def _masks(embedding: Embedding, boxes: Sequence[NDArray[np.float32]], model: MobileSAM) -> Iterator[NDArray[np.bool_]]:
    """The best mask (H, W) of each box on the canvas."""
    none, no_labels = np.empty((0, 2), np.float32), np.empty(0, np.int32)
    prompts = [model.prompt_encoder.sparse(none, no_labels, box) for box in boxes]
    image = decoder_image(model.network, embedding, kept=len(boxes) > FEW_BOXES)
    for scores, low_res in model.mask_decoder.masks(image, prompts, multimask=model.kind.multimask(None)):
        yield kernels.resize_logits(
            low_res[[scores.argmax()]],
            padded=model.canvas_size,
            crop=embedding.input_size,
            size=embedding.original_size,
            threshold=0.0,
            threads=model.threads,
        )[0]


def _on_canvas(box: Sequence[int], size: tuple[int, ...], model: MobileSAM) -> NDArray[np.float32]:
    corners = np.array(box, np.float64).reshape(2, 2)
    return to_canvas(corners, (size[0], size[1]), model.kind.architecture, corners=True).reshape(4)


def _label(labels: NDArray[Any], mask: NDArray[np.bool_], number: int) -> None:
    labels[mask & (labels < number)] = number


def _empty_labels(shape: tuple[int, ...], count: int) -> Labels:
    return np.zeros(shape, np.uint8 if count <= MOST_IN_UINT8 else np.uint16)


def _check_uint8(array: object, name: str, form: str, fits: bool) -> None:
    if not isinstance(array, np.ndarray) or array.dtype != np.uint8:
        raise TypeError(f"{name} must be a uint8 array {form}, got {getattr(array, 'dtype', type(array).__name__)}")
    if not fits or array.size == 0:
        raise ValueError(f"{name} must be {form}, got shape {array.shape}")
