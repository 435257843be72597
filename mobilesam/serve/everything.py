"""Finding all masks of an image, and streaming them as JSON lines while the search runs."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future

import numpy as np
from PIL import Image

from mobilesam.api.embedding import Embedding
from mobilesam.api.everything import MaskGenerator
from mobilesam.api.model import MobileSAM
from mobilesam.images.geometry import Size
from mobilesam.masks import rle
from mobilesam.masks.objects import Record

from .answers import display_size, run_lengths
from .lanes import Stopped, Task
from .limits import Refused
from .schema import EverythingLine, EverythingRequest, Found

PROGRESS_SECONDS = 0.1

logger = logging.getLogger("mobilesam.serve")


class Search:
    """A search for all masks. It runs in a worker thread, and passes JSON lines to the event loop that created it.

    If the client reads slowly, the lines wait in memory and the thread does not wait. The lines are small: they hold
    run lengths.

    Raises:
        Refused: 422, if the parameters are invalid.
    """

    def __init__(self, model: MobileSAM, request: EverythingRequest) -> None:
        parameters = request.model_dump(exclude={"max_side", "drafts"})
        try:
            self._generator = MaskGenerator(model, output_mode="coco_rle", **parameters)
        except ValueError as error:
            raise Refused(422, str(error)) from None
        self._max_side, self._drafts = request.max_side, request.drafts
        self._lines: asyncio.Queue[str | None] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._task = Task()
        self._progress_time = 0.0

    def run(self, open_picture: Callable[[Task], Image.Image], embedding: Embedding) -> None:
        """Search the picture, whose embedding is known. Runs in a worker thread."""
        try:
            records = self._generator.generate_iter(
                open_picture(self._task), value_range="dtype", progress=self._progress, embedding=embedding,
                draft=self._draft if self._drafts else None,
            )  # fmt: skip
            for record in records:
                self._send(EverythingLine(mask=self._found(record)))
        except Stopped:
            pass
        except Refused as refused:
            self._send(EverythingLine(error=refused.detail))
        except Exception:
            logger.exception("everything failed")
            self._send(EverythingLine(error="the server failed on this request; its log has the details"))
        finally:
            self._loop.call_soon_threadsafe(self._lines.put_nowait, None)

    async def lines(self, work: Future[None]) -> AsyncIterator[str]:
        """Yield the JSON lines as the search produces them. Closing the iterator stops the search.

        Args:
            work: the future of the call of `run` in a worker thread.
        """
        try:
            while (line := await self._lines.get()) is not None:
                yield line
        finally:
            self._task.stop()
            work.cancel()

    def _send(self, line: EverythingLine) -> None:
        text = line.model_dump_json(exclude_none=True) + "\n"
        self._loop.call_soon_threadsafe(self._lines.put_nowait, text)

    def _progress(self, done: int, total: int) -> None:
        self._task.check()
        now = time.monotonic()
        if done == total or now - self._progress_time > PROGRESS_SECONDS:
            self._progress_time = now
            self._send(EverythingLine(progress=(done, total)))

    def _draft(self, record: Record) -> None:
        self._send(EverythingLine(draft=self._found(record)))

    def _found(self, record: Record) -> Found:
        runs = record["segmentation"]
        assert isinstance(runs, dict)
        x, y, width, height = rle.bbox(runs)
        found = Found(
            score=record["predicted_iou"],
            stability=record["stability_score"],
            area=record["area"],
            bbox=(x, y, width, height),
            rle=run_lengths(runs),
        )
        size: Size = tuple(runs["size"])  # type: ignore[assignment]
        smaller = display_size(size, self._max_side)
        if self._max_side is not None:
            found.display = run_lengths(_sampled(runs, size, smaller)) if smaller != size else found.rle
        return found


def _sampled(runs: rle.RLE, size: Size, smaller: Size) -> rle.RLE:
    """The mask resampled to a smaller size (h, w), by the nearest pixel to the centre of each new pixel."""
    rows, columns = (((np.arange(few) + 0.5) * (many / few)).astype(np.intp) for few, many in zip(smaller, size))
    return rle.encode(rle.decode(runs)[rows[:, None], columns])
