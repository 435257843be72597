"""Tasks for many images, collected from images, folders, globs and files of prompts."""

import argparse
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePath
from typing import NamedTuple, TypeAlias

from ...util.console import say_skipped
from ...util.files import image_path
from ...util.rows import SUFFIXES
from ...util.system import is_reserved
from ..written_prompt import WrittenPrompt, read_prompts

_MAGIC = re.compile(r"[*?[]")
OutputOf: TypeAlias = Callable[[PurePath], PurePath]  # the output file of an image, from the image's relative path


class Task(NamedTuple):
    """One prompt to segment.

    Attributes:
        image: Path of the image.
        prompt: The prompt.
        output: File for the mask, relative to the output folder.
    """

    image: Path
    prompt: WrittenPrompt
    output: PurePath


def add_keep_extension(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--keep-extension",
        action="store_true",
        help="for many images: keep the image's extension in the names of its output files, so that a.jpg and a.png do "
        "not clash",
    )


def is_many(sources: Sequence[str]) -> bool:
    """Whether the sources are anything other than a single image. Raises ValueError if a source is no path."""
    first = image_path(sources[0])
    return len(sources) > 1 or is_prompts(sources[0]) or _is_glob(sources[0]) or first.is_dir()


def find_tasks(
    sources: Sequence[str], prompt: WrittenPrompt | None, suffix: str, *, keep_extension: bool = False
) -> list[Task]:
    """Collect the tasks of all sources.

    By default an output file has the relative path of its image, with extension `suffix`. The path is relative to the
    given folder, to the folder before a glob's first wildcard, or to the folder of the file of prompts.

    Args:
        sources: Images, folders, globs (`**` matches any number of folders) and files of prompts.
        prompt: Prompt for all images, and for each row of a file of prompts that has no prompt itself.
        suffix: Extension of an output file whose name is not given by a row of a file of prompts.
        keep_extension: Add `suffix` to the image's name, instead of replacing the image's extension.

    Raises:
        OSError: A file of prompts cannot be read.
        ValueError: A source has no image, an image has no prompt, or two tasks have the same output file.
    """

    def output(name: PurePath) -> PurePath:
        return name.with_name(name.name + suffix) if keep_extension else name.with_suffix(suffix)

    tasks: list[Task] = []
    for source in sources:
        tasks.extend((_of_prompts if is_prompts(source) else _of_images)(source, prompt, output))
    check_outputs((task.image, task.output) for task in tasks)
    return tasks


def prompt_tasks(sources: Sequence[str]) -> list[Task]:
    """The tasks of files of prompts. Their output files may be the same. See `find_tasks` for the errors."""
    return [task for source in sources for task in _of_prompts(source, None, lambda name: name)]


def check_outputs(outputs: Iterable[tuple[Path, PurePath]]) -> None:
    """Check that the outputs of all images have different names. Raises ValueError if not.

    Args:
        outputs: Each image, and the name of its output file.
    """
    images: dict[PurePath, Path] = {}
    for image, output in outputs:
        other = images.setdefault(output, image)
        if other is not image:
            both, remedy = f"{other} and {image}", "give --keep-extension, or write them into different folders"
            if other == image:
                both, remedy = str(image), "give each its own file as 'output' in a file of prompts"
            raise ValueError(f"two results would be written to {output}, for {both}: {remedy}")


def by_image(tasks: Iterable[Task]) -> list[list[Task]]:
    """Group the tasks by image, because an image is encoded once for all its tasks."""
    images: dict[Path, list[Task]] = {}
    for task in tasks:
        images.setdefault(task.image, []).append(task)
    return list(images.values())


def is_prompts(source: str) -> bool:
    """Whether a source is a file of prompts, by its extension."""
    return Path(source).suffix.lower() in SUFFIXES


def _is_glob(source: str) -> bool:
    return bool(_MAGIC.search(source)) and not Path(source).exists()


def _of_images(source: str, prompt: WrittenPrompt | None, output: OutputOf) -> Iterator[Task]:
    if prompt is None:
        raise ValueError("no prompt: give --point X,Y, --box X0,Y0,X1,Y1, or a file of prompts")
    for image, name in images_of(source):
        yield Task(image, prompt, output(name))


def images_of(source: str) -> list[tuple[Path, PurePath]]:
    """The images of a source: an image, a folder or a glob. The other files of a folder are printed as skipped.

    Returns:
        Each image's path, and its path relative to the source's folder.

    Raises:
        ValueError: The folder or the glob has no image.
    """
    base, images = _images(source)
    return [(image, _relative(image, base)) for image in images]


def _images(source: str) -> tuple[Path, list[Path]]:
    """The folder that the output paths are relative to, and the images of a source."""
    path = image_path(source)
    if path.is_dir():
        images = _images_in(path)
        if not images:
            raise ValueError(
                f"no image in folder {path}: expected files with an image's extension (to search its subfolders, give "
                f"'{path}/**/*.jpg')"
            )
        return path, images
    if not _is_glob(source):
        return path.parent, [path]
    fixed = source[: _MAGIC.search(source).start()]  # type: ignore[union-attr]
    folder, name = os.path.split(fixed)
    base = Path(folder)
    images = _visible(base.glob(name + source[len(fixed) :]))
    if not images:
        raise ValueError(f"no file matches {source}")
    return base, images


def _visible(files: Iterable[Path]) -> list[Path]:
    return sorted(file for file in files if not file.name.startswith(".") and not file.is_dir())


def _images_in(folder: Path) -> list[Path]:
    """The files of a folder with the extension of an image. Prints which other files are skipped, and why."""
    from ...images.files import readable_extensions, why_not_readable  # imported here, because it loads Pillow

    extensions = readable_extensions()
    images, skipped = [], defaultdict(list)
    for file in _visible(folder.iterdir()):
        extension = file.suffix.lower()
        if extension in extensions:
            images.append(file)
        else:
            skipped[why_not_readable(extension)].append(file.name)
    for reason, names in skipped.items():
        say_skipped(names, reason)
    return images


def _of_prompts(source: str, default: WrittenPrompt | None, output_of: OutputOf) -> Iterator[Task]:
    path = Path(source)
    for row in read_prompts(path):
        prompt = row.prompt or default
        if prompt is None:
            raise ValueError(f"{path}, line {row.line}: no prompt: give points or a box in this line, or as options")
        try:
            image = path.parent / image_path(row.image)
        except ValueError as error:
            raise ValueError(f"{path}, line {row.line}: image: {error}") from None
        if row.output is None:
            output = output_of(_relative(image, path.parent))
        else:
            output = PurePath(row.output)
            # On Windows, / and C: start a path outside the output folder, and yet such a path is not absolute.
            if output.anchor or ".." in output.parts or not output.suffix or any(map(is_reserved, output.parts)):
                expected = "a file in the output folder, with an extension"
                raise ValueError(f"{path}, line {row.line}: output: expected {expected}, got {row.output!r}")
        yield Task(image, prompt, output)


def _relative(image: Path, base: Path) -> PurePath:
    """The image's path relative to folder `base`, or its bare name if the image is not inside `base`."""
    inside = image.is_relative_to(base) and ".." not in image.relative_to(base).parts
    return image.relative_to(base) if inside else PurePath(image.name)
