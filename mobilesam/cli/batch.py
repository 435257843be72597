"""mobilesam batch: finds all masks in many images on Ray, and writes Parquet files."""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..util.console import Progress, say_failed
from ..util.files import check_folder_to_be, remove_all_leftovers
from ..util.options import add_model, positive
from .everything_options import add_everything_options, parameters_of
from .image_options import add_image_options
from .many.batch import Task, images_of, is_prompts, prompt_tasks

MOST_SAID = 10  # failed images that are named at the end


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run)
    add = parser.add_argument
    add(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="a picture, a folder, or a quoted glob such as 'photos/**/*.jpg'; or files of prompts (.csv, .jsonl), to "
        "segment these prompts instead of finding all masks",
    )
    add(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder for the Parquet files, which all machines of the cluster must share; for mobilesam.batch.read",
    )
    add("--resume", action="store_true", help="skip images that are in the output folder already")
    add("--address", metavar="HOST:PORT", help="address of a running Ray cluster, or auto (default: this machine)")
    add("--workers", type=positive, metavar="N", help="the largest number of workers (default: as many as fit)")
    add("--batch-size", type=positive, default=8, metavar="N", help="images in a task (default: %(default)s)")
    add_everything_options(parser)
    add_image_options(parser)
    add_model(parser, threads="threads and CPUs of each worker (default: 1)")


def run(arguments: argparse.Namespace) -> int:
    """Returns the exit code: 0, or 1 if an image failed."""
    from ..batch import cluster, read
    from ..batch.workers import Everything, Segment

    prompts = _prompts(arguments.images)
    paths = list(prompts or dict.fromkeys(str(path.absolute()) for path in _images(arguments.images)))
    check_folder_to_be(arguments.output)
    there = set(read(arguments.output).paths) if arguments.output.is_dir() else set[str]()
    if there and not arguments.resume:
        raise ValueError(f"{arguments.output}: the folder has results already: give --resume, or another folder")
    left = [path for path in paths if path not in there]
    options: dict[str, Any] = {"value_range": arguments.value_range, "bands": arguments.bands}
    threads = arguments.threads or 1
    if prompts is None:
        options |= parameters_of(arguments)
    # The model is loaded here too, so that an error about it comes in one line before Ray starts.
    (Everything if prompts is None else Segment)(arguments.weights, arguments.precision, threads, **options)
    failed = 0
    if left:
        arguments.output.mkdir(parents=True, exist_ok=True)
        remove_all_leftovers(arguments.output, ".parquet")
        with Progress(len(paths), "images", len(paths) - len(left)) as progress:

            def show(done: int, failed: int, total: int) -> None:
                progress.update(len(paths) - len(left) + done, f"{failed} failed" if failed else "")

            failed = cluster.run(
                left,
                arguments.output.absolute(),
                options,
                prompts=None if prompts is None else [prompts[path] for path in left],
                weights=arguments.weights,
                precision=arguments.precision,
                threads=threads,
                workers=arguments.workers,
                batch_size=arguments.batch_size,
                address=arguments.address,
                progress=show,
            )
    if failed:
        wrong = [(photo["path"], photo["error"]) for photo in read(arguments.output) if photo["error"] is not None]
        for path, error in wrong[:MOST_SAID]:
            say_failed(path, error)
    print(f"{len(left) - failed} written, {failed} failed, {len(paths) - len(left)} there already: {arguments.output}")
    return 1 if failed else 0


def _images(sources: Sequence[str]) -> Iterator[Path]:
    return (path for source in sources for path, _ in images_of(source))


def _prompts(sources: Sequence[str]) -> dict[str, list[dict[str, Any]]] | None:
    """The prompts of each image, by its absolute path. None if the sources are images."""
    kinds = {is_prompts(source) for source in sources}
    if kinds == {False}:
        return None
    if len(kinds) > 1:
        raise ValueError("give images or files of prompts, not both in one batch")
    prompts: dict[str, list[dict[str, Any]]] = {}
    for task in prompt_tasks(sources):
        prompts.setdefault(str(task.image.absolute()), []).append(_in_pixels(task))
    return prompts


def _in_pixels(task: Task) -> dict[str, Any]:
    places = [*(place for point in task.prompt.points for place in point), *(task.prompt.box or ())]
    if any(place.per_cent for place in places):
        raise ValueError(f"{task.image}: a batch needs prompts in pixels, got a prompt in per cent")
    return task.prompt.on(0, 0)
