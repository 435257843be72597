"""Everything-mode: all masks of an image, from a grid of point prompts over the image and over crops of it.

Source: the reference's automatic_mask_generator.py and utils/amg.py. Parameter names, defaults, records and their order
are the reference's. The order of the computation differs from the reference:

- The predicted IoUs of a point's candidate masks are computed first. If the predicted IoU of a mask is too low, the
  mask is never computed.
- A mask is converted from 256×256 logits to run lengths in one pass (`kernels.mask_runs`).
- The smallest crops are processed first, because the NMS between crops ranks their masks first. So the masks of a crop
  are final when the crop is done.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from ..images.arrays import ImageLike
from ..images.geometry import Size
from ..images.photo import open_rgb
from ..images.value_range import Bands, ValueRange
from ..kernels.core.check import shortened
from ..masks import rle
from ..masks.objects import Record
from ..masks.regions import nms, remove_small_regions
from ..masks.rle import RLE, UncompressedRLE
from ..tiles.grid import HALO, Grid
from ..tiles.opening import open_source
from .crop_search import (
    Box,
    Crop,
    FoundMask,
    Thresholds,
    adaptive,
    box_of_runs,
    build_point_grid,
    every_point,
    hierarchical,
)
from .embedding import Embedding
from .model import MobileSAM, default_model
from .tiled_everything import check_halo, everything_tiled

Progress = Callable[[int, int], object]
Draft = Callable[[Record], object]

MOST_CROP_LAYERS = 8  # layer 8 has 65,536 crops
MOST_POINTS_PER_SIDE = 1024
MOST_POINTS_PER_BATCH = 1024  # the decoder's arrays take about 2 MB for each point
MOST = 2**31 - 1  # largest whole number of any other parameter

OUTPUT_MODES = ("binary_mask", "uncompressed_rle", "coco_rle")


class MaskGenerator:
    """Generates all masks of an image. The parameters are those of the reference's SamAutomaticMaskGenerator."""

    def __init__(
        self,
        model: MobileSAM,
        points_per_side: int | None = 32,
        points_per_batch: int = 64,
        pred_iou_thresh: float = 0.88,
        stability_score_thresh: float = 0.95,
        stability_score_offset: float = 1.0,
        box_nms_thresh: float = 0.7,
        crop_n_layers: int = 0,
        crop_nms_thresh: float = 0.7,
        crop_overlap_ratio: float = 512 / 1500,
        crop_n_points_downscale_factor: int = 1,
        point_grids: Sequence[ArrayLike] | None = None,
        min_mask_region_area: float = 0,
        output_mode: str = "binary_mask",
        *,
        adaptive: bool = False,
    ) -> None:
        """Check and store the parameters.

        Args:
            model: A model from `mobilesam.load`.
            points_per_side: Points on each side of the square grid, at most 1024. None if `point_grids` is given.
            points_per_batch: Number of points that the decoder processes at a time, if it is below 1024. The masks do
                not depend on this number.
            pred_iou_thresh: A mask is kept if its predicted IoU exceeds this threshold. 0 keeps all masks.
            stability_score_thresh: A mask is kept if its stability score is at least this threshold. 0 keeps all
                masks.
            stability_score_offset: Stability is the IoU between the masks at the logit thresholds +offset and -offset.
            box_nms_thresh: If the boxes of two masks of one crop have an IoU above this threshold, the mask with the
                lower predicted IoU is dropped.
            crop_n_layers: Number of extra layers of crops, at most 8. Layer i has 4^i crops. Layer 0, the whole image,
                is always used.
            crop_nms_thresh: If the boxes of two masks of different crops have an IoU above this threshold, the mask of
                the larger crop is dropped.
            crop_overlap_ratio: Overlap of the crops of layer 1, as a fraction of the image's short side. The overlap
                halves with each further layer.
            crop_n_points_downscale_factor: In layer i, `points_per_side` is divided by this factor to the power i.
            point_grids: One (N, 2) array of points per layer, x and y from 0 to 1, used in place of `points_per_side`.
            min_mask_region_area: If above 0, holes and islands of fewer pixels are removed from the masks. A mask that
                this removal changed is dropped if it duplicates another mask.
            output_mode: Form of each record's mask: "binary_mask", "uncompressed_rle" or "coco_rle".
            adaptive: Ask fewer points, and compute only masks that can become records. This takes about a third of the
                time, and a few records in a hundred differ (docs/everything.md).

        Raises:
            TypeError: `model` is not a MobileSAM.
            ValueError: A parameter is invalid. The message names the parameter.
        """
        if not isinstance(model, MobileSAM):
            raise TypeError(f"model must be a MobileSAM from mobilesam.load(), got {type(model).__name__}")
        if (points_per_side is None) == (point_grids is None):
            raise ValueError("give points_per_side or point_grids, and None for the other")
        if output_mode not in OUTPUT_MODES:
            raise ValueError(f"output_mode must be one of {', '.join(OUTPUT_MODES)}, got {output_mode!r}")
        self.model = model
        self.points_per_batch = checked_whole("points_per_batch", points_per_batch, 1)
        self.pred_iou_thresh = checked_number("pred_iou_thresh", pred_iou_thresh)
        self.stability_score_thresh = checked_number("stability_score_thresh", stability_score_thresh)
        self.stability_score_offset = checked_number("stability_score_offset", stability_score_offset)
        self.box_nms_thresh = checked_number("box_nms_thresh", box_nms_thresh)
        self.crop_n_layers = checked_whole("crop_n_layers", crop_n_layers, 0, MOST_CROP_LAYERS)
        self.crop_nms_thresh = checked_number("crop_nms_thresh", crop_nms_thresh)
        self.crop_overlap_ratio = checked_number("crop_overlap_ratio", crop_overlap_ratio, 1)
        self.crop_n_points_downscale_factor = checked_whole(
            "crop_n_points_downscale_factor", crop_n_points_downscale_factor, 1
        )
        self.min_mask_region_area = checked_number("min_mask_region_area", min_mask_region_area)
        self.output_mode, self.adaptive = output_mode, bool(adaptive)
        layers = self.crop_n_layers + 1
        if point_grids is not None:
            self.point_grids = _checked_grids(point_grids, layers)
            self._sides: list[int | None] = [None] * layers  # points on each side, for each layer
        else:
            side = checked_whole("points_per_side", points_per_side, 1, MOST_POINTS_PER_SIDE)
            factor = self.crop_n_points_downscale_factor
            if side < factor**self.crop_n_layers:
                raise ValueError(
                    f"points_per_side must leave a point per side in each layer: at least {factor**self.crop_n_layers} "
                    f"with crop_n_layers {self.crop_n_layers} and crop_n_points_downscale_factor {factor}, got {side}"
                )
            self._sides = [side // factor**i for i in range(layers)]
            self.point_grids = [build_point_grid(side // factor**i) for i in range(layers)]

    def generate(
        self, image: ImageLike, *, value_range: ValueRange | None = None, bands: Bands | None = None
    ) -> list[Record]:
        """Generate the records of all masks.

        Masks of smaller crops come first. Masks of one crop are in descending order of predicted IoU. Masks that
        `min_mask_region_area` changed come last.

        Args:
            image: Any image that `MobileSAM.encode` accepts.
            value_range: See `MobileSAM.encode`.
            bands: See `MobileSAM.encode`.

        Raises:
            OSError, TypeError, ValueError: See `MobileSAM.encode`.
        """
        return list(self.generate_iter(image, value_range=value_range, bands=bands))

    def generate_iter(
        self,
        image: ImageLike,
        *,
        value_range: ValueRange | None = None,
        bands: Bands | None = None,
        progress: Progress | None = None,
        embedding: Embedding | None = None,
        draft: Draft | None = None,
    ) -> Iterator[Record]:
        """Generate the records of `generate` in the same order, each as soon as it is final.

        A record is final when its crop is done. Before its crop is done, a mask of a later point in the crop can still
        replace the record's mask. A mask of a later crop cannot, because the mask of the earlier crop is kept. With
        `crop_n_layers` 0, the image is the only crop, so all records come at the end.

        The image is opened, and errors about it are raised, before this method returns.

        Args:
            image: Any image that `MobileSAM.encode` accepts.
            value_range: See `MobileSAM.encode`.
            bands: See `MobileSAM.encode`.
            progress: Called after each point with the number of points done and the number of all points.
            embedding: The image's embedding, if it was encoded before.
            draft: Called with the record of a mask as soon as the mask passes the thresholds, unless its box is a
                duplicate of an earlier draft's. A mask that is found later may become a record in a draft's place.

        Raises:
            OSError, TypeError, ValueError: See `MobileSAM.encode`. ValueError is also raised if the embedding is of an
                image of another size.
        """
        value_range = self.model.kind.value_range if value_range is None else value_range
        photo = open_rgb(image, value_range=value_range, bands=bands)
        if embedding is not None and embedding.original_size != (photo.height, photo.width):
            raise ValueError(f"embedding: expected an image of {photo.width}x{photo.height} pixels, got {embedding!r}")
        return self._records(photo, progress or (lambda done, total: None), embedding, draft)

    def _records(
        self, photo: Image.Image, progress: Progress, embedding: Embedding | None, draft: Draft | None
    ) -> Iterator[Record]:
        size = photo.height, photo.width
        crops = _ranked(generate_crop_boxes(size, self.crop_n_layers, self.crop_overlap_ratio))
        total, done = sum(len(self.point_grids[layer]) for _, layer, _ in crops), 0
        boxes: list[Box] = []
        ranks: list[np.float32] = []
        unchanged: list[Box] = []
        changed: list[FoundMask] = []
        drafted: list[Box] = []
        for crop_box, layer, rank in crops:
            masks: list[FoundMask] = []
            for masks_of_point in self._masks_of_crop(self._encode(photo, crop_box, embedding), layer):
                masks += masks_of_point
                if draft is not None:
                    for mask in masks_of_point:
                        together = [*drafted, mask.box]
                        if len(nms(together, [1.0] * len(drafted) + [0.0], self.box_nms_thresh)) == len(together):
                            drafted = together
                            draft(self._record(mask, size))
                done += 1
                progress(done, total)
            masks = _kept(masks, nms([m.box for m in masks], [m.predicted_iou for m in masks], self.box_nms_thresh))
            if len(crops) > 1:
                scores = ranks + [rank] * len(masks)
                among_all = nms(boxes + [mask.box for mask in masks], scores, self.crop_nms_thresh)
                masks = _kept(masks, among_all[len(boxes) :] - len(boxes))
            boxes += [mask.box for mask in masks]
            ranks += [rank] * len(masks)
            for mask in masks:
                if self.min_mask_region_area > 0 and _clean(mask, size, self.min_mask_region_area):
                    changed.append(mask)
                else:
                    unchanged.append(mask.box)
                    yield self._record(mask, size)
        # Unchanged masks have passed both NMS thresholds and get the higher score, so only changed masks are dropped.
        scores = [np.float32(1)] * len(unchanged) + [np.float32(0)] * len(changed)
        among_all = nms(unchanged + [m.box for m in changed], scores, max(self.box_nms_thresh, self.crop_nms_thresh))
        for mask in _kept(changed, among_all[len(unchanged) :] - len(unchanged)):
            yield self._record(mask, size)

    def _encode(self, photo: Image.Image, box: Box, embedding: Embedding | None) -> Crop:
        size, whole = (photo.height, photo.width), box == (0, 0, *photo.size)
        if embedding is None or not whole:
            # The whole image is already in its value range.
            embedding = self.model.encode(photo if whole else photo.crop(box), value_range="dtype")
        thresholds = Thresholds(
            self.pred_iou_thresh, self.stability_score_thresh, self.stability_score_offset, self.box_nms_thresh
        )
        return Crop(embedding, box, size, thresholds, min(self.points_per_batch, MOST_POINTS_PER_BATCH))

    def _masks_of_crop(self, crop: Crop, layer: int) -> Iterator[list[FoundMask]]:
        """For each point of the layer's grid, the masks that pass both score thresholds and no crop edge cuts off."""
        x0, y0, x1, y1 = crop.box
        points = self.point_grids[layer] * (x1 - x0, y1 - y0)
        if self.adaptive:
            return adaptive(crop, points, self._sides[layer])
        return every_point(crop, points)

    def _record(self, mask: FoundMask, size: Size) -> Record:
        plain: UncompressedRLE = {"size": list(size), "counts": mask.counts.tolist()}
        return {
            "segmentation": rle.in_form(plain, self.output_mode),
            "area": int(mask.counts[1::2].sum()),
            "bbox": _box_xywh(mask.box),
            "predicted_iou": mask.predicted_iou,
            "point_coords": [list(mask.point)],
            "stability_score": mask.stability_score,
            "crop_box": _box_xywh(mask.crop_box),
        }


class HierarchicalMaskGenerator(MaskGenerator):
    """Generates masks as TinySAM's hierarchical mode: a coarse grid first, then the points that it leaves open.

    Source: TinySAM's hierarchical_mask_generator.py. Of each crop, a grid with a quarter of the points per side is
    asked first. Pixels at which the logits of a mask that passes exceed `high_score_thresh` are settled. Then the
    points of the full grid that are not settled are asked. One NMS follows for the masks of both grids. The reference
    ignores `crop_n_layers`.
    """

    def __init__(
        self,
        model: MobileSAM,
        points_per_side: int = 32,
        points_per_batch: int = 64,
        pred_iou_thresh: float = 0.88,
        high_score_thresh: float = 8.5,
        stability_score_thresh: float = 0.95,
        stability_score_offset: float = 1.0,
        box_nms_thresh: float = 0.7,
        crop_n_layers: int = 0,
        crop_nms_thresh: float = 0.7,
        crop_overlap_ratio: float = 512 / 1500,
        crop_n_points_downscale_factor: int = 1,
        min_mask_region_area: float = 0,
        output_mode: str = "binary_mask",
    ) -> None:
        """Check and store the parameters, which are those of `SamAutomaticMaskGenerator`, in the reference's order.

        Args:
            high_score_thresh: Logit above which a mask settles a pixel.

        Raises:
            TypeError, ValueError: See `SamAutomaticMaskGenerator`.
        """
        super().__init__(
            model,
            points_per_side,
            points_per_batch,
            pred_iou_thresh,
            stability_score_thresh,
            stability_score_offset,
            box_nms_thresh,
            crop_n_layers,
            crop_nms_thresh,
            crop_overlap_ratio,
            crop_n_points_downscale_factor,
            None,
            min_mask_region_area,
            output_mode,
        )
        self.high_score_thresh = checked_number("high_score_thresh", high_score_thresh, least=-math.inf)

    def hierarchical_generate(
        self, image: ImageLike, *, value_range: ValueRange | None = None, bands: Bands | None = None
    ) -> list[Record]:
        """Generate the records of all masks. See `generate`, which does the same."""
        return self.generate(image, value_range=value_range, bands=bands)

    def _masks_of_crop(self, crop: Crop, layer: int) -> Iterator[list[FoundMask]]:
        side = self._sides[layer]
        assert side is not None, "the points are a grid"
        settled = side**2
        for masks in hierarchical(crop, side, self.high_score_thresh):
            settled -= 1
            yield masks
        yield from ([] for _ in range(settled))  # so that the progress reaches its end


def everything(
    image: Any,
    *,
    value_range: ValueRange | None = None,
    bands: Bands | None = None,
    model: MobileSAM | None = None,
    tile: int | Size | None = None,
    halo: int | Size = HALO,
    progress: Progress | None = None,
    **parameters: Any,
) -> list[Record]:
    """Generate all masks of an image, without a prompt.

    Without `tile`, shorthand for `SamAutomaticMaskGenerator(model, **parameters).generate(image)`.

    With `tile`, the image is read and searched in tiles, and masks of neighbouring tiles that show the same object are
    joined (docs/large.md). Memory is needed for a tile and for the records.

    Args:
        image: Any image that `MobileSAM.encode` accepts, and with `tile` any that `MobileSAM.encode_tiled` accepts.
        value_range: See `MobileSAM.encode`.
        bands: See `MobileSAM.encode`.
        model: The model. None for the packaged checkpoint, which is loaded once per process.
        tile: Side, or (h, w), of the cores of the tiles in pixels. None for no tiles.
        halo: Width, or (h, w), of the margin that is read on each side of a core. It should exceed half an object, and
            is at most half of `tile`.
        progress: Called with the number of points, or of tiles, that are done, and with the number of all.
        **parameters: Parameters of `SamAutomaticMaskGenerator`. With `tile`, they are used for each tile, and
            `output_mode` is "coco_rle" by default.

    Returns:
        The records, in the order of `SamAutomaticMaskGenerator.generate`, or with `tile` row of tiles by row of tiles.
        Boxes, points and run lengths are in pixels of the whole image. The crop box of a record is its tile.

    Raises:
        OSError, TypeError, ValueError: See `MobileSAM.encode` and `SamAutomaticMaskGenerator`.
        ModuleNotFoundError: The file needs an extra that is not installed.
    """
    model = default_model() if model is None else model
    if tile is None:
        generator = MaskGenerator(model, **parameters)
        return list(generator.generate_iter(image, value_range=value_range, bands=bands, progress=progress))
    source = open_source(image, value_range=model.kind.value_range if value_range is None else value_range, bands=bands)
    grid = Grid(source.size, tile, halo)
    check_halo(grid)
    output_mode = parameters.pop("output_mode", "coco_rle")
    MaskGenerator(model, output_mode=output_mode)  # checks the output mode
    generator = MaskGenerator(model, **parameters, output_mode="uncompressed_rle")
    return list(everything_tiled(source, grid, generator, output_mode, progress))


def _clean(mask: FoundMask, size: Size, min_area: float) -> bool:
    """Remove small holes and islands from the mask, in place. Returns whether any were removed."""
    cleaned: RLE = {"size": size, "counts": mask.counts}
    cleaned, had_holes = remove_small_regions(cleaned, min_area, "holes")
    cleaned, had_islands = remove_small_regions(cleaned, min_area, "islands")
    if had_holes or had_islands:
        mask.counts = np.array(cleaned["counts"], np.uint32)
        mask.box = box_of_runs(rle.to_runs(cleaned), (0, 0, 0, 0))
    return had_holes or had_islands


def _kept(masks: list[FoundMask], indices: NDArray[np.int64]) -> list[FoundMask]:
    return [masks[i] for i in indices.tolist()]


def _box_xywh(box: Box) -> list[int]:
    x0, y0, x1, y1 = box
    return [x0, y0, x1 - x0, y1 - y0]


def generate_crop_boxes(size: Size, n_layers: int, overlap_ratio: float) -> list[tuple[Box, int]]:
    """The box and the layer of each crop. Empty crops are left out, so a small image has fewer crops.

    Raises:
        ValueError: An argument is invalid. The message names the argument.
    """
    height, width = size = checked_whole("height", size[0], 1), checked_whole("width", size[1], 1)
    n_layers = checked_whole("n_layers", n_layers, 0, MOST_CROP_LAYERS)
    overlap_ratio = checked_number("overlap_ratio", overlap_ratio, 1)
    crops: list[tuple[Box, int]] = [((0, 0, width, height), 0)]
    for layer in range(1, n_layers + 1):
        n = 2**layer
        overlap = int(overlap_ratio * min(size) * (2 / n))
        crop_w, crop_h = (math.ceil((overlap * (n - 1) + length) / n) for length in (width, height))
        for i, j in product(range(n), range(n)):
            x0, y0 = (crop_w - overlap) * i, (crop_h - overlap) * j
            if x0 < width and y0 < height:
                crops.append(((x0, y0, min(x0 + crop_w, width), min(y0 + crop_h, height)), layer))
    return crops


def _ranked(crops: list[tuple[Box, int]]) -> list[tuple[Box, int, np.float32]]:
    """The crops and their ranks, highest rank first. The rank is 1/area, which the NMS between crops uses as score."""
    areas = np.array([(x1 - x0) * (y1 - y0) for (x0, y0, x1, y1), _ in crops], np.float32)
    ranks = np.float32(1) / areas
    return [(*crops[i], ranks[i]) for i in np.argsort(-ranks, kind="stable").tolist()]


def checked_whole(name: str, value: object, least: int, most: int = MOST) -> int:
    """Return `value` as an int. Raises ValueError, which names the parameter, unless it is from `least` to `most`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {shortened(value)}")
    if value > most:
        raise ValueError(f"{name} must be a whole number of at most {most}, got {shortened(value)}")
    return int(value)


def checked_number(name: str, value: object, most: float = math.inf, *, least: float = 0) -> float:
    """Return `value` as a float. Raises ValueError unless it is a finite number from `least` to `most`."""
    numeric = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    try:
        number = float(value) if numeric else math.nan  # type: ignore[arg-type]
    except OverflowError:  # a whole number beyond the largest float
        number = math.inf
    if not math.isfinite(number) or not least <= number <= most:
        finite = "finite number" if math.isinf(least) else "number of at least 0"
        expected = finite if math.isinf(most) else f"number from 0 to {most:g}"
        raise ValueError(f"{name} must be a {expected}, got {shortened(value)}")
    return number


def _checked_grids(point_grids: Sequence[ArrayLike], layers: int) -> list[NDArray[np.float64]]:
    if isinstance(point_grids, np.ndarray) and point_grids.ndim != 3:
        raise ValueError(f"point_grids must be a list with one (N, 2) array per layer, got shape {point_grids.shape}")
    if not isinstance(point_grids, (Sequence, np.ndarray)) or isinstance(point_grids, (str, bytes)):
        kind = type(point_grids).__name__
        raise ValueError(f"point_grids must be a list with one (N, 2) array per layer, got {kind}")
    grids = []
    for grid in point_grids:
        try:
            points = np.asarray(grid, np.float64)
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"point_grids must hold arrays (N, 2) of numbers, got {shortened(grid)}") from None
        if points.ndim != 2 or points.shape[1] != 2 or not len(points):
            raise ValueError(f"point_grids must hold arrays (N, 2) of at least one point, got shape {points.shape}")
        outside = points[~((points >= 0) & (points <= 1)).all(axis=1)]
        if len(outside):
            raise ValueError(f"point_grids must have x and y from 0 to 1, got ({outside[0, 0]:g}, {outside[0, 1]:g})")
        grids.append(points)
    if len(grids) < layers:
        raise ValueError(f"point_grids must have a grid for each of the {layers} layers, got {len(grids)}")
    return grids
