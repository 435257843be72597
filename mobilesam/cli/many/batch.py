"""Tasks for many images, collected from images, folders, globs and files of prompts."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

from ..written_prompt import SUFFIXES, WrittenPrompt, read_prompts

_MAGIC = re.compile(r"[*?[]")


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


def is_many(sources: Sequence[str]) -> bool:
    """Whether the sources are anything other than a single image."""
    return len(sources) > 1 or _is_prompts(sources[0]) or _is_glob(sources[0]) or Path(sources[0]).is_dir()


def find_tasks(sources: Sequence[str], prompt: WrittenPrompt | None, suffix: str) -> list[Task]:
    """Collect the tasks of all sources.

    By default an output file has the relative path of its image, with extension `suffix`. The path is relative to the
    given folder, to the folder before a glob's first wildcard, or to the folder of the file of prompts.

    Args:
        sources: Images, folders, globs (`**` matches any number of folders) and files of prompts.
        prompt: Prompt for all images, and for each row of a file of prompts that has no prompt itself.
        suffix: Extension of an output file whose name is not given by a row of a file of prompts.

    Raises:
        OSError: A file of prompts cannot be read.
        ValueError: A source has no image, an image has no prompt, or two tasks have the same output file.
    """
    tasks: list[Task] = []
    for source in sources:
        found = _of_prompts(Path(source), prompt, suffix) if _is_prompts(source) else _of_images(source, prompt, suffix)
        tasks.extend(found)
    by_output: dict[PurePath, Task] = {}
    for task in tasks:
        other = by_output.setdefault(task.output, task)
        if other is not task:
            both = str(task.image) if task.image == other.image else f"{other.image} and {task.image}"
            raise ValueError(
                f"two results would be written to {task.output}, for {both}: give each its own file as 'output' in a "
                "file of prompts"
            )
    return tasks


def by_image(tasks: Iterable[Task]) -> list[list[Task]]:
    """Group the tasks by image, because an image is encoded once for all its tasks."""
    images: dict[Path, list[Task]] = {}
    for task in tasks:
        images.setdefault(task.image, []).append(task)
    return list(images.values())


def _is_prompts(source: str) -> bool:
    return Path(source).suffix.lower() in SUFFIXES


def _is_glob(source: str) -> bool:
    return bool(_MAGIC.search(source)) and not Path(source).exists()


def _of_images(source: str, prompt: WrittenPrompt | None, suffix: str) -> Iterator[Task]:
    if prompt is None:
        raise ValueError("no prompt: give --point X,Y, --box X0,Y0,X1,Y1, or a file of prompts")
    for image, name in images_of(source):
        yield Task(image, prompt, name.with_suffix(suffix))


def images_of(source: str) -> list[tuple[Path, PurePath]]:
    """The images of a source: an image, a folder or a glob.

    Returns:
        Each image's path, and its path relative to the source's folder.

    Raises:
        ValueError: The folder or the glob has no image.
    """
    base, images = _images(source)
    return [(image, _relative(image, base)) for image in images]


def _images(source: str) -> tuple[Path, list[Path]]:
    """The folder that the output paths are relative to, and the images of a source."""
    path = Path(source)
    if path.is_dir():
        extensions = _readable_extensions()
        images = _visible(file for file in path.iterdir() if file.suffix.lower() in extensions)
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


def _readable_extensions() -> set[str]:
    from PIL import Image

    Image.init()
    return {extension for extension, name in Image.EXTENSION.items() if name in Image.OPEN}


def _of_prompts(path: Path, default: WrittenPrompt | None, suffix: str) -> Iterator[Task]:
    for row in read_prompts(path):
        prompt = row.prompt or default
        if prompt is None:
            raise ValueError(f"{path}, line {row.line}: no prompt: give points or a box in this line, or as options")
        image = path.parent / row.image
        if row.output is None:
            output = _relative(image, path.parent).with_suffix(suffix)
        else:
            output = PurePath(row.output)
            if output.is_absolute() or ".." in output.parts or not output.suffix:
                expected = "a file in the output folder, with an extension"
                raise ValueError(f"{path}, line {row.line}: output: expected {expected}, got {row.output!r}")
        yield Task(image, prompt, output)


def _relative(image: Path, base: Path) -> PurePath:
    """The image's path relative to folder `base`, or its bare name if the image is not inside `base`."""
    inside = image.is_relative_to(base) and ".." not in image.relative_to(base).parts
    return image.relative_to(base) if inside else PurePath(image.name)
