"""The pipeline for many images: photos are read and results written in threads while the main thread encodes.

At most AHEAD photos are read in advance and at most AHEAD results wait to be written, so memory does not grow with the
number of photos.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from ...api.embedding import Segmentation
from ...api.model import MobileSAM
from ...images.rgb_photo import Photo
from ...util.console import describe
from .batch import Task

AHEAD = 2  # number of photos read in advance, of results waiting to be written, of reader threads and of writer threads

Read = Callable[[Path], Photo]
Write = Callable[[Task, Image.Image, Segmentation], None]


@dataclass(frozen=True)
class Failure:
    """A task that failed, and the reason in one line."""

    task: Task
    reason: str


@dataclass
class Report:
    """Progress of a run.

    Attributes:
        images: Number of images that are done.
        written: Number of tasks whose files were written.
        failures: Tasks that failed.
    """

    images: int = 0
    written: int = 0
    failures: list[Failure] = field(default_factory=list)


def run(
    images: Sequence[Sequence[Task]],
    model: MobileSAM,
    read: Read,
    write: Write,
    report: Report,
    *,
    multimask: bool | None = None,
    after_image: Callable[[], None] = lambda: None,
) -> None:
    """Segment the tasks of all images, in order, and update `report`.

    If an image cannot be read or a prompt does not fit its image, the report gets a failure and the run continues. If a
    result cannot be written, the run ends with the error of `write`. After an error or an interrupt, the run still
    waits for results that are being written.

    Args:
        images: The tasks, one sequence per image.
        model: The model.
        read: Called in a thread to read a photo.
        write: Called in a thread to write the result of a task.
        report: Updated during the run, so it is valid after an error too.
        multimask: Predict three masks per prompt. If false, predict one. None for the mode of the model.
        after_image: Called after each image.
    """
    writing: deque[Future[None]] = deque()

    def finish(waiting: int) -> None:
        while len(writing) > waiting:
            writing[0].result()
            writing.popleft()
            report.written += 1

    with ThreadPoolExecutor(AHEAD) as readers, ThreadPoolExecutor(AHEAD) as writers:
        try:
            for tasks, photo in _ahead(readers, images, read):
                for task, answer in _answers(tasks, photo, model, multimask):
                    if isinstance(answer, Failure):
                        report.failures.append(answer)
                    else:
                        finish(AHEAD - 1)
                        writing.append(writers.submit(write, task, photo.result().rgb, answer))
                report.images += 1
                after_image()
            finish(0)
        finally:
            readers.shutdown(wait=False, cancel_futures=True)
            wait(writing)
            report.written += sum(future.exception() is None for future in writing)


def _ahead(
    readers: ThreadPoolExecutor, images: Iterable[Sequence[Task]], read: Read
) -> Iterator[tuple[Sequence[Task], Future[Photo]]]:
    """The tasks and the photo of each image. The threads read AHEAD photos in advance."""
    pending: deque[tuple[Sequence[Task], Future[Photo]]] = deque()
    for tasks in images:
        pending.append((tasks, readers.submit(read, tasks[0].image)))
        if len(pending) > AHEAD:
            yield pending.popleft()
    while pending:
        yield pending.popleft()


def _answers(
    tasks: Sequence[Task], photo: Future[Photo], model: MobileSAM, multimask: bool | None
) -> Iterator[tuple[Task, Segmentation | Failure]]:
    try:
        size = photo.result().rgb.size
        embedding = model.encode(photo.result(), value_range="dtype")
    except (MemoryError, OSError, TypeError, ValueError) as error:
        for task in tasks:
            yield task, Failure(task, describe(error))
        return
    for task in tasks:
        try:
            answer = embedding.segment(**task.prompt.on(*size), multimask=multimask)
            _ = answer.mask  # computed here, because running out of memory must be a failure of this task only
            yield task, answer
        except (MemoryError, TypeError, ValueError) as error:
            yield task, Failure(task, describe(error))
