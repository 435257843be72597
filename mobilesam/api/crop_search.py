"""Three searches for the masks of one crop of an image. Each search returns the masks that pass both score thresholds.

- `every_point` decodes every point of a grid. Source: the reference's automatic_mask_generator.py.
- `hierarchical` decodes a coarse grid first. Then it decodes the points at which no mask of the coarse grid has a high
  logit. Source: TinySAM's hierarchical_mask_generator.py.
- `adaptive` decodes a coarse grid first, too. For each candidate mask it computes a preview, which has one pixel for
  each image token. It computes the whole mask only if the preview is not clearly unstable and not clearly a duplicate.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .. import kernels
from ..architecture import EMBED_SIZE, LOW_RES
from ..images.geometry import Size, to_canvas
from ..masks import rle
from ..network.answers import Candidates
from ..network.hq import HqCandidate
from . import decoding
from .embedding import Embedding

Box = tuple[int, int, int, int]  # x0, y0, x1, y1

MASK_THRESHOLD = 0.0
EDGE = 20  # pixels: a box that ends this close to a crop's edge is taken to be cut off by the crop
COARSE = 4  # a coarse grid has every fourth point of a side

# Settings of the adaptive search. `docs/everything.md` has the measurements that they were chosen by.
SETTLED = 9.5  # a point is not decoded if a preview of the coarse grid has a logit above this number there
PREVIEW_MARGIN = 0.7  # a preview of n pixels is clearly unstable at PREVIEW_MARGIN / √n below the stability threshold
BOX_MARGIN = 0.15  # a preview is clearly a duplicate if its box has an IoU above the NMS threshold + BOX_MARGIN


@dataclass(frozen=True)
class Thresholds:
    """The tests that a mask must pass.

    Attributes:
        predicted_iou: The predicted IoU must exceed this number. 0 or less keeps all masks.
        stability: The stability score must be at least this number. 0 or less keeps all masks.
        stability_offset: Stability is the IoU between the masks at the logit thresholds +offset and -offset.
        box_iou: The IoU of boxes above which the NMS drops the mask with the lower score.
    """

    predicted_iou: float
    stability: float
    stability_offset: float
    box_iou: float


@dataclass(slots=True)
class FoundMask:
    """A mask before it becomes a record. `counts` are COCO run lengths, and coordinates are pixels of the image."""

    counts: NDArray[np.uint32] | rle.Counts
    box: Box
    predicted_iou: float
    stability_score: float
    point: tuple[float, float]
    crop_box: Box


@dataclass(frozen=True, eq=False)
class Crop:
    """An encoded crop of an image.

    Attributes:
        embedding: The embedding of the crop.
        box: The crop's box in the image.
        image_size: (h, w) of the image.
        thresholds: The tests that masks must pass.
        together: Number of points that the decoder processes at a time.
    """

    embedding: Embedding
    box: Box
    image_size: Size
    thresholds: Thresholds
    together: int

    @property
    def lines(self) -> int:
        """Number of rows of image tokens, from the top, that the masks inside the crop depend on."""
        last = (self.embedding.input_size[0] - 0.5) * LOW_RES / self.embedding.model.canvas_size[0] - 0.5
        rows = int(last) + 2  # interpolation at the position `last` reads two rows
        return min(EMBED_SIZE, math.ceil(rows * EMBED_SIZE / LOW_RES))

    def candidates(self, points: NDArray[np.float64]) -> Iterator[Candidates | HqCandidate]:
        """Decode point prompts (N, 2) in pixels of the crop. See `MaskDecoder.candidates`."""
        network, label = self.embedding.model.network, np.ones(1, np.int32)
        image, multimask = decoding.decoder_image(network, self.embedding), network.model.multimask(None)
        for first in range(0, len(points), self.together):
            canvas = self.on_canvas(points[first : first + self.together])
            prompts = [network.prompt_encoder.sparse(point[None], label, None) for point in canvas]
            yield from network.mask_decoder.candidates(image, prompts, multimask=multimask)

    def on_canvas(self, points: NDArray[np.float64]) -> NDArray[np.float32]:
        """Convert points (N, 2) from pixels of the crop to pixels of the model's canvas."""
        return to_canvas(points, self.embedding.original_size, self.embedding.model.kind.architecture)

    def passing_scores(self, candidates: Candidates | HqCandidate) -> list[int]:
        """Indices of the candidates whose predicted IoU passes."""
        least = self.thresholds.predicted_iou
        return np.flatnonzero((candidates.scores > least) | (least <= 0)).tolist()

    def masks(
        self, candidates: Candidates | HqCandidate, wanted: Sequence[int], point: Sequence[float]
    ) -> list[FoundMask]:
        """Compute wanted candidates, and return the masks that are stable and that no crop edge cuts off."""
        return self.masks_of_logits(candidates.draw(wanted, self.lines), candidates.scores[list(wanted)], point)

    def masks_of_logits(
        self, low_res: NDArray[np.float32], scores: NDArray[np.float32], point: Sequence[float]
    ) -> list[FoundMask]:
        """Return the masks that pass, like `masks`, from the K candidates' logits that are given."""
        thresholds, (left, top, *_) = self.thresholds, self.box
        all_runs, counts = self.runs(low_res, MASK_THRESHOLD, thresholds.stability_offset)
        with np.errstate(invalid="ignore"):  # the stability of an empty mask is 0/0, NaN, which passes no threshold
            stability = np.divide(*counts.T.astype(np.float32))
        stable = (stability >= thresholds.stability) | (thresholds.stability <= 0)
        found = []
        for i, runs in enumerate(all_runs):
            box = box_of_runs(runs, self.box)
            if stable[i] and not _is_near_crop_edge(box, self.box, self.image_size):
                shifted = runs + np.array([left, top, top], np.int32)
                score, at = (float(scores[i]), float(stability[i])), (point[0] + left, point[1] + top)
                found.append(FoundMask(rle.from_runs(shifted, self.image_size), box, *score, at, self.box))
        return found

    def runs(
        self, low_res: NDArray[np.float32], threshold: float, offset: float
    ) -> tuple[list[NDArray[np.int32]], NDArray[np.int64]]:
        """The runs of masks in pixels of the crop, and the numbers of pixels for the stability. See `mask_runs`."""
        embedding, (canvas_height, canvas_width) = self.embedding, self.embedding.model.canvas_size
        filled = canvas_height * low_res.shape[1] // LOW_RES, canvas_width
        return kernels.mask_runs(
            low_res, padded=filled, crop=embedding.input_size, size=embedding.original_size,
            threshold=threshold, offset=offset, threads=embedding.model.threads,
        )  # fmt: skip


def every_point(crop: Crop, points: NDArray[np.float64]) -> Iterator[list[FoundMask]]:
    """For each point (N, 2) in pixels of the crop, the masks that pass."""
    for point, candidates in zip(points.tolist(), crop.candidates(points), strict=True):
        passed = crop.passing_scores(candidates)
        yield crop.masks(candidates, passed, point) if passed else []


def hierarchical(crop: Crop, side: int, high_score_thresh: float) -> Iterator[list[FoundMask]]:
    """Decode a coarse grid, then the other points of the full grid, except settled points.

    A point is settled if a mask of the coarse grid that passes has a logit above `high_score_thresh` at its pixel.

    Args:
        crop: The crop.
        side: Points on each side of the full grid.
        high_score_thresh: Logit above which a pixel is settled.

    Yields:
        For each point, the masks that pass.
    """
    height, width = crop.embedding.original_size
    coarse = build_point_grid(max(1, side // COARSE)) * (width, height)
    settled = np.zeros((height, width), bool)
    for point, candidates in zip(coarse.tolist(), crop.candidates(coarse), strict=True):
        passed = crop.passing_scores(candidates)
        found: list[FoundMask] = []
        if passed:
            low_res = candidates.draw(passed, crop.lines)
            for i, score in enumerate(candidates.scores[passed]):
                own = crop.masks_of_logits(low_res[i : i + 1], score[None], point)
                if own:
                    (runs,), _ = crop.runs(low_res[i : i + 1], high_score_thresh, 0.0)
                    for column, first, end in runs.tolist():
                        settled[first:end, column] = True
                found += own
        yield found
    around = np.array(_points_around(coarse, side, (height, width))).reshape(-1, 2)
    open_points = around[~settled[around[:, 1].astype(np.intp), around[:, 0].astype(np.intp)]]
    yield from every_point(crop, open_points)


def _points_around(coarse: NDArray[np.float64], side: int, size: Size) -> list[tuple[float, float]]:
    """The points of the full grid that the coarse grid lacks: up to 15 around each point of the coarse grid.

    The points are a whole number of pixels apart. Points outside the crop are left out.
    """
    (height, width), points = size, []
    step_x, step_y = width // side, height // side
    for x, y in coarse.tolist():
        for i in range(-1, 3):
            for j in range(-1, 3):
                at = x + i * step_x, y + j * step_y
                if (i, j) != (0, 0) and at[0] < width and at[1] < height:
                    points.append(at)
    return points


def adaptive(crop: Crop, points: NDArray[np.float64], side: int | None) -> Iterator[list[FoundMask]]:
    """Decode a coarse grid, then the other points except settled points, and compute only promising candidates.

    A point is settled if a stable preview of the coarse grid has a logit above SETTLED there.

    Args:
        crop: The crop.
        points: (N, 2) in pixels of the crop.
        side: Points on each side, if the points are a grid, row by row. None for other points, which are all decoded.

    Yields:
        For each point, the masks that pass. A settled point has none.
    """
    preview = _Previews(crop)
    row, column = np.divmod(np.arange(len(points)), side or 1)
    coarse = (row % COARSE == COARSE // 2) & (column % COARSE == COARSE // 2)
    levels = [coarse, ~coarse] if side is not None and side >= 2 * COARSE else [np.ones(len(points), bool)]
    settled = np.zeros(len(points), bool)
    for level in levels:
        asked = points[level & ~settled]
        for point, candidates in zip(asked.tolist(), crop.candidates(asked), strict=True):
            yield preview.masks(candidates, point)
        yield from ([] for _ in range(int((level & settled).sum())))
        settled |= preview.settles(points)


class _Previews:
    """The previews of a crop's candidates: chooses which candidates are computed in full.

    Attributes:
        highest: (h, w), the highest logit that a stable preview has at each image token inside the crop.
    """

    def __init__(self, crop: Crop) -> None:
        self._crop, embedding = crop, crop.embedding
        self._step = LOW_RES // EMBED_SIZE
        (height, width), (filled_h, filled_w) = embedding.original_size, embedding.input_size
        per_pixel = LOW_RES / embedding.model.canvas_size[0]  # low-resolution pixels for each canvas pixel
        lines = [max(1, int(np.ceil((filled * per_pixel - 1) / self._step))) for filled in (filled_h, filled_w)]
        self._scale = width / (filled_w * per_pixel), height / (filled_h * per_pixel)
        self.highest = np.full(lines, -np.inf, np.float32)
        self._boxes, self._scores = np.empty((0, 4)), np.empty(0)

    def masks(self, candidates: Candidates | HqCandidate, point: Sequence[float]) -> list[FoundMask]:
        """Compute the promising candidates of a point, the highest score first. Returns the masks that pass."""
        passed, found = self._crop.passing_scores(candidates), []
        if not passed:
            return []
        height, width = self.highest.shape
        previews = candidates.preview(height)[passed, :, :width]
        for i in np.argsort(-candidates.scores[passed], kind="stable").tolist():
            index = passed[i]
            if self._is_promising(previews[i], float(candidates.scores[index])):
                for mask in self._crop.masks(candidates, [index], point):
                    found.append(mask)
                    self._boxes = np.vstack([self._boxes, np.subtract(mask.box, np.tile(self._crop.box[:2], 2))])
                    self._scores = np.append(self._scores, mask.predicted_iou)
        return found

    def _is_promising(self, preview: NDArray[np.float32], score: float) -> bool:
        """Whether a preview is neither clearly unstable nor clearly a duplicate of a mask with a higher score."""
        thresholds = self._crop.thresholds
        offset = thresholds.stability_offset
        pixels = int((preview > -offset).sum())
        if pixels:
            stability = int((preview > offset).sum()) / pixels
            if stability < thresholds.stability - PREVIEW_MARGIN / pixels**0.5:
                return False
            if stability >= thresholds.stability:
                np.maximum(self.highest, preview, out=self.highest)
        inside = preview > MASK_THRESHOLD
        rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
        if not len(rows):
            return True  # an object smaller than the spacing of the preview's pixels may lie between them
        # Each pixel of a preview represents `step` low-resolution pixels, and is at the position of the second one.
        low, high = 1 - (self._step - 1) / 2, 1 + (self._step - 1) / 2
        x0, x1 = ((columns[0] * self._step + low) * self._scale[0], (columns[-1] * self._step + high) * self._scale[0])
        y0, y1 = ((rows[0] * self._step + low) * self._scale[1], (rows[-1] * self._step + high) * self._scale[1])
        others = self._boxes[self._scores >= score]
        sides = np.minimum((x1, y1), others[:, 2:]) - np.maximum((x0, y0), others[:, :2])
        common = sides.clip(0).prod(axis=1)
        union = (x1 - x0) * (y1 - y0) + (others[:, 2:] - others[:, :2]).prod(axis=1) - common
        return not (common > (thresholds.box_iou + BOX_MARGIN) * union).any()

    def settles(self, points: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Whether each of the points (N, 2) is settled: a stable preview has a logit above SETTLED at the point."""
        side = self._crop.embedding.model.canvas_size[0]
        tokens = (self._crop.on_canvas(points) * (EMBED_SIZE / side)).astype(np.intp)
        height, width = self.highest.shape
        x, y = tokens[:, 0].clip(0, width - 1), tokens[:, 1].clip(0, height - 1)
        return self.highest[y, x] > SETTLED


def build_point_grid(n_per_side: int) -> NDArray[np.float64]:
    """The centres (n², 2) of n×n cells of the unit square, row by row, with n = `n_per_side`."""
    offset = 1 / (2 * n_per_side)
    centres = np.linspace(offset, 1 - offset, n_per_side)
    return np.stack(np.meshgrid(centres, centres), axis=-1).reshape(-1, 2)


def box_of_runs(runs: NDArray[np.integer], crop_box: Box) -> Box:
    """Bounding box, in pixels of the image, of runs in a crop. The box of an empty mask is the crop's corner."""
    x0, y0, *_ = crop_box
    if not len(runs):
        return x0, y0, x0, y0
    columns, first, end = runs.T
    return x0 + int(columns[0]), y0 + int(first.min()), x0 + int(columns[-1]), y0 + int(end.max()) - 1


def _is_near_crop_edge(box: Box, crop_box: Box, size: Size) -> bool:
    """Whether a side of the box is near the crop's edge but not near the image's edge."""
    sides = zip(box, crop_box, (0, 0, size[1], size[0]))
    return any(abs(side - crop) <= EDGE < abs(side - image) for side, crop, image in sides)
