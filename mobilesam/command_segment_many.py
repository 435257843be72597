"""mobilesam segment for many images: what is planned, the run, the report."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from PIL import Image

from . import api, pipeline
from .batch import Task, by_image, find_tasks
from .console import Progress
from .files import check_distinct, remove_leftovers
from .image import check_output, save_image
from .written_prompt import WrittenPrompt

DEFAULT_FORMAT = "png"
OVERLAY_SUFFIX = ".jpg"  # as PNG, a large photo takes longer to write than to segment

Folders = Mapping[str, Path]  # by the PIL mode of what is written into them: L for masks, RGB for overlays


def run(arguments: argparse.Namespace, prompt: WrittenPrompt | None) -> int:
    """Returns the exit code: 0, or 1 where an image or a prompt failed."""
    folders = {mode: path for mode, path in (("L", arguments.output), ("RGB", arguments.overlay)) if path}
    suffix = "." + (arguments.format or DEFAULT_FORMAT).lstrip(".")
    tasks = find_tasks(arguments.images, prompt, suffix)
    _check(tasks, folders)
    open_tasks = [task for task in tasks if not (arguments.resume and _is_done(task, folders))]
    images = by_image(open_tasks)
    model = api.load(arguments.weights, threads=arguments.threads)
    files = [path for task in open_tasks for path in _files(task, folders).values()]
    for folder in {path.parent for path in files}:
        folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(files)

    def write(task: Task, photo: Image.Image, answer: api.Segmentation) -> None:
        files = _files(task, folders)
        if "L" in files:
            answer.save(files["L"])
        if "RGB" in files:  # last, so that a file there means that all are: see _is_done
            save_image(answer.overlay(photo), files["RGB"])

    def after_image() -> None:
        failed = len(report.failures)
        progress.update(report.images, f"{failed} failed" if failed else "")

    report, progress = pipeline.Report(), Progress(len(images), "images")
    try:
        with progress:
            pipeline.run(images, model, write, report, multimask=not arguments.single, after_image=after_image)
    finally:
        _say(report, len(tasks) - len(open_tasks), progress, len(images), folders)
    return 1 if report.failures else 0


def _files(task: Task, folders: Folders) -> dict[str, Path]:
    names = {"L": task.output, "RGB": task.output.with_suffix(OVERLAY_SUFFIX)}
    return {mode: folder / names[mode] for mode, folder in folders.items()}


def _is_done(task: Task, folders: Folders) -> bool:
    return all(path.is_file() for path in _files(task, folders).values())


def _check(tasks: Sequence[Task], folders: Folders) -> None:
    """Raise, before anything is written, where an answer cannot be or would go over a file of this command."""
    checked = set()
    for task in tasks:
        for mode, path in _files(task, folders).items():
            folder = next(parent for parent in path.parents if parent.exists())
            if (folder, path.suffix) not in checked:
                if not folder.is_dir():
                    raise NotADirectoryError(f"for many images expected a folder to write into, got a file: {folder}")
                check_output(folder / f"mask{path.suffix}", mode)
                checked.add((folder, path.suffix))
    images = {task.image for task in tasks}
    check_distinct([*images, *(path for task in tasks for path in _files(task, folders).values())])


def _say(report: pipeline.Report, skipped: int, progress: Progress, images: int, folders: Folders) -> None:
    """What was done, on stdout; what failed and why, on stderr."""
    for failure in report.failures:
        image, reason = str(failure.task.image), failure.reason
        print(f"mobilesam: failed: {reason if image in reason else f'{image}: {reason}'}", file=sys.stderr)
    seconds = progress.seconds
    counts = [f"{report.written} written", f"{len(report.failures)} failed"]
    if skipped:
        counts.append(f"{skipped} there already")
    if report.images < images:
        counts.append(f"{images - report.images} images not reached: go on with --resume")
    rate = f"{seconds:.1f} s, {report.images / seconds:.2f} images/s"
    print(f"{', '.join(counts)} ({rate}): {', '.join(map(str, folders.values()))}", flush=True)
