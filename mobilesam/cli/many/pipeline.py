"""Many images at once: some are read and some answers written while one is encoded.

Photos ahead of the encoder and answers behind it are few, whatever there is to do, so memory is bounded by the largest
photos and not by their number.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from PIL import Image

from ...api.model import MobileSAM, Segmentation
from ...images.photo import read_photo
from ...images.rgb_photo import Photo
from ...util.console import describe
from .batch import Task

AHEAD = 2  # photos read before their turn; also answers that wait to be written, and the threads for either

Write = Callable[[Task, Image.Image, Segmentation], None]


@dataclass(frozen=True)
class Failure:
    """A task that has no answer, and why, in one line."""

    task: Task
    reason: str


@dataclass
class Report:
    """What a run did: images gone through, answers written, tasks that failed."""

    images: int = 0
    written: int = 0
    failures: list[Failure] = field(default_factory=list)


def run(
    images: Sequence[Sequence[Task]],
    model: MobileSAM,
    write: Write,
    report: Report,
    *,
    multimask: bool = True,
    after_image: Callable[[], None] = lambda: None,
) -> None:
    """Answer the tasks of each image, in order, and keep `report`.

    write: called in threads, to write the answer of a task. An image that cannot be read, or a prompt that does not fit
    it, is a failure in the report and the others go on; an answer that cannot be written ends the run with its error.
    That, as an interrupt, waits for the answers that are being written.
    """
    writing: deque[Future[None]] = deque()

    def finish(waiting: int) -> None:
        while len(writing) > waiting:
            writing[0].result()
            writing.popleft()
            report.written += 1

    with ThreadPoolExecutor(AHEAD) as readers, ThreadPoolExecutor(AHEAD) as writers:
        try:
            for tasks, photo in _ahead(readers, images):
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
    readers: ThreadPoolExecutor, images: Iterable[Sequence[Task]]
) -> Iterator[tuple[Sequence[Task], Future[Photo]]]:
    """Each image's tasks and its photo, of which AHEAD are read before they are asked for."""
    pending: deque[tuple[Sequence[Task], Future[Photo]]] = deque()
    for tasks in images:
        pending.append((tasks, readers.submit(read_photo, tasks[0].image)))
        if len(pending) > AHEAD:
            yield pending.popleft()
    while pending:
        yield pending.popleft()


def _answers(
    tasks: Sequence[Task], photo: Future[Photo], model: MobileSAM, multimask: bool
) -> Iterator[tuple[Task, Segmentation | Failure]]:
    try:
        size = photo.result().rgb.size
        embedding = model.encode(photo.result())
    except (MemoryError, OSError, TypeError, ValueError) as error:
        for task in tasks:
            yield task, Failure(task, describe(error))
        return
    for task in tasks:
        try:
            answer = embedding.segment(**task.prompt.on(*size), multimask=multimask)
            _ = answer.mask  # made here, where a lack of memory is this task's failure
            yield task, answer
        except (MemoryError, TypeError, ValueError) as error:
            yield task, Failure(task, describe(error))
