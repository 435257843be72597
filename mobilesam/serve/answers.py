"""Answering a prompt: from the prompt to the JSON of its masks. Runs in a worker thread."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mobilesam.api.embedding import Embedding, ScoredRLE
from mobilesam.images.geometry import Size
from mobilesam.images.pictures import mask_image
from mobilesam.masks import rle
from mobilesam.masks.export import TooManyRuns, check_outlines
from mobilesam.masks.objects import SegmentedObject
from mobilesam.masks.polygons import outlines

from .limits import Refused
from .schema import Mask, Masks, MasksRequest, PromptRequest, RunLengths


def segment(
    embedding: Embedding, prompt: PromptRequest, size: Size | None = None, *, only_best: bool = False
) -> list[ScoredRLE]:
    """The masks for a prompt.

    Args:
        embedding: the encoded image.
        prompt: the prompt.
        size: (height, width) of the masks, None for the size of the image.
        only_best: return only the mask with the best score.

    Raises:
        Refused: 422, if the prompt is empty or invalid.
    """
    if prompt.points is None and prompt.box is None:
        raise Refused(422, "no prompt: expected points or a box")
    try:
        return embedding.segment_rle(
            prompt.points,
            prompt.labels,
            box=prompt.box,
            multimask=prompt.multimask,
            size=size,
            only_best=only_best,
        )
    except (TypeError, ValueError) as error:
        raise Refused(422, str(error)) from None


def masks(embedding: Embedding, request: MasksRequest) -> Masks:
    """The answer to a request for masks. Raises Refused (422) for an invalid prompt."""
    height, width = size = display_size(embedding.original_size, request.max_side)
    found = segment(embedding, request, size, only_best=request.candidates == "best")
    best = max(found, key=lambda one: one.score)
    return Masks(width=width, height=height, best=best.index, masks=[_mask(one, request.format) for one in found])


def display_size(size: Size, max_side: int | None) -> Size:
    """The size (h, w), scaled down if its longest side exceeds `max_side`."""
    scale = 1.0 if max_side is None else min(1.0, max_side / max(size))
    return max(1, int(size[0] * scale + 0.5)), max(1, int(size[1] * scale + 0.5))


def _mask(found: ScoredRLE, form: str) -> Mask:
    x, y, width, height = rle.bbox(found.rle)
    answer = Mask(index=found.index, score=found.score, area=rle.area(found.rle), bbox=(x, y, width, height))
    if form == "rle":
        answer.rle = run_lengths(found.rle)
    elif form == "polygons":
        try:
            check_outlines([SegmentedObject(found.rle)])
        except TooManyRuns as error:
            raise Refused(413, str(error)) from None
        rings = outlines(rle.decode(found.rle))
        answer.polygons = [[list(map(tuple, ring.tolist())) for ring in polygon] for polygon in rings]
    else:
        answer.png = base64.b64encode(_one_bit_png(rle.decode(found.rle))).decode("ascii")
    return answer


def run_lengths(runs: rle.RLE) -> RunLengths:
    """Convert an RLE to the `RunLengths` of the API."""
    packed = rle.compress(runs)
    height, width = packed["size"]
    return RunLengths(size=(height, width), counts=packed["counts"])


def _one_bit_png(mask: NDArray[np.bool_]) -> bytes:
    file = io.BytesIO()
    mask_image(mask).convert("1", dither=Image.Dither.NONE).save(file, "PNG", compress_level=1)
    return file.getvalue()
