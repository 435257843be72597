"""mobilesam segment for many images: plans the output files, runs the pipeline, prints the report."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image

from ...api.embedding import Segmentation
from ...api.loading import load
from ...images.photo import allow_large_photos, read_photo
from ...util.console import Progress, say_failed
from ...util.files import check_distinct, nearest, remove_leftovers
from ..many import outputs, pipeline
from ..written_prompt import WrittenPrompt
from .batch import Task, by_image, find_tasks
from .outputs import Kind, Style

DEFAULT_FORMAT = "png"
OVERLAY_SUFFIX = ".jpg"  # JPEG, because writing a large photo as PNG takes longer than segmenting the photo
CUTOUT_SUFFIX = ".png"

Folders = Mapping[Kind, Path]


@dataclass(frozen=True)
class _Plan:
    """The output files of a run.

    Attributes:
        folders: Output folder of each kind of file.
        suffixes: Extensions of the mask files.
        style: Options of the files.
    """

    folders: Folders
    suffixes: Sequence[str]
    style: Style

    def files(self, task: Task) -> list[tuple[Kind, Path]]:
        """The files of a task, in the order in which they are written.

        The first mask file is `task.output`. Further mask files have the same name and the extensions `suffixes[1:]`.
        """
        names = {
            "mask": [task.output, *(task.output.with_suffix(suffix) for suffix in self.suffixes[1:])],
            "cutout": [task.output.with_suffix(CUTOUT_SUFFIX)],
            "overlay": [task.output.with_suffix(OVERLAY_SUFFIX)],
        }
        return [(kind, folder / name) for kind, folder in self.folders.items() for name in names[kind]]

    def is_done(self, task: Task) -> bool:
        return all(path.is_file() for _, path in self.files(task))


def run(arguments: argparse.Namespace, prompt: WrittenPrompt | None) -> int:
    """Returns the exit code: 0, or 1 if an image or a prompt failed."""
    allow_large_photos()
    plan = _plan(arguments)
    tasks = find_tasks(arguments.images, prompt, plan.suffixes[0], keep_extension=arguments.keep_extension)
    _check(tasks, plan)
    open_tasks = [task for task in tasks if not (arguments.resume and plan.is_done(task))]
    images = by_image(open_tasks)
    model = load(arguments.weights, threads=arguments.threads, precision=arguments.precision)
    files = [path for task in open_tasks for _, path in plan.files(task)]
    for folder in {path.parent for path in files}:
        folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(files)

    def write(task: Task, photo: Image.Image, answer: Segmentation) -> None:
        outputs.write(plan.files(task), answer, photo, task.image, plan.style)

    def after_image() -> None:
        failed = len(report.failures)
        progress.update(report.images, f"{failed} failed" if failed else "")

    value_range = arguments.value_range or model.kind.value_range
    read = partial(read_photo, architecture=model.kind.architecture, value_range=value_range, bands=arguments.bands)
    multimask = False if arguments.single else None
    model.kind.multimask(multimask)
    report, progress = pipeline.Report(), Progress(len(images), "images")
    try:
        with progress:
            pipeline.run(images, model, read, write, report, multimask=multimask, after_image=after_image)
    finally:
        _say(report, len(tasks) - len(open_tasks), progress, len(images), plan.folders)
    return 1 if report.failures else 0


def _plan(arguments: argparse.Namespace) -> _Plan:
    if len(arguments.outputs) > 1:
        raise ValueError(
            "for many images give one --output, a folder, and the formats as --format png,json, got "
            f"{len(arguments.outputs)} --output options"
        )
    given: dict[Kind, Path | None] = {
        "mask": next(iter(arguments.outputs), None),
        "cutout": arguments.cutout,
        "overlay": arguments.overlay,
    }
    extensions = [part.strip().lstrip(".") for part in (arguments.format or DEFAULT_FORMAT).split(",")]
    if not all(extensions):
        raise ValueError(f"--format: expected extensions such as png or png,json, got {arguments.format!r}")
    style = Style(arguments.name, arguments.crop, arguments.polygons)
    folders = {kind: path for kind, path in given.items() if path}
    return _Plan(folders, [f".{extension}" for extension in extensions], style)


def _check(tasks: Sequence[Task], plan: _Plan) -> None:
    """Check, before any file is written, that all files can be written and that none overwrites another file.

    Raises:
        ModuleNotFoundError, OSError: See `outputs.check`.
        ValueError: An extension is not supported, or a file would overwrite an image or another output file.
    """
    checked = set()
    files = [file for task in tasks for file in plan.files(task)]
    for kind, path in files:
        folder = nearest(path.parent)
        if (kind, folder, path.suffix) not in checked:
            if not folder.is_dir():
                raise NotADirectoryError(f"for many images, expected a folder to write into, got a file: {folder}")
            outputs.check(kind, folder / f"{kind}{path.suffix}", plan.style)
            checked.add((kind, folder, path.suffix))
    check_distinct([*{task.image for task in tasks}, *(path for _, path in files)])


def _say(report: pipeline.Report, skipped: int, progress: Progress, images: int, folders: Folders) -> None:
    """Print the counts of the run to stdout, and each failure with its reason to stderr."""
    for failure in report.failures:
        say_failed(failure.task.image, failure.reason)
    seconds = progress.seconds
    counts = [f"{report.written} written", f"{len(report.failures)} failed"]
    if skipped:
        counts.append(f"{skipped} there already")
    if report.images < images:
        counts.append(f"{images - report.images} images not reached: go on with --resume")
    rate = f"{seconds:.1f} s, {report.images / seconds:.2f} images/s"
    print(f"{', '.join(counts)} ({rate}): {', '.join(map(str, folders.values()))}", flush=True)
