"""Many images: what is to be done, from folders, globs and files of prompts."""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

from ..written_prompt import SUFFIXES, WrittenPrompt, read_prompts

_MAGIC = re.compile(r"[*?[]")


class Task(NamedTuple):
    """A prompt on an image; `output` is the file of its answer, relative to the output folder."""

    image: Path
    prompt: WrittenPrompt
    output: PurePath


def is_many(sources: Sequence[str]) -> bool:
    """Whether the sources are more than one image."""
    return len(sources) > 1 or _is_prompts(sources[0]) or _is_glob(sources[0]) or Path(sources[0]).is_dir()


def find_tasks(sources: Sequence[str], prompt: WrittenPrompt | None, suffix: str) -> list[Task]:
    """A task for each image of the sources: images, folders, globs (`**` is any number of folders), files of prompts.

    prompt: that of every image, and of each row of a file that has none. suffix: of outputs that no row names. An
    output keeps the image's path as seen from the folder, from the glob's fixed part or from the file's folder.
    Raises OSError, or ValueError where there is no image, no prompt, or one output for two images.
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
                f"two results would be {task.output}, of {both}: name each in a file of prompts ('output')"
            )
    return tasks


def by_image(tasks: Iterable[Task]) -> list[list[Task]]:
    """The tasks of each image together, so that it is encoded once."""
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
        raise ValueError("no prompt: give --point X,Y or --box X0,Y0,X1,Y1, or a file of prompts")
    for image, name in images_of(source):
        yield Task(image, prompt, name.with_suffix(suffix))


def images_of(source: str) -> list[tuple[Path, PurePath]]:
    """The images that an image, a folder or a glob stands for, each with its path as seen from there.

    Raises ValueError where there is none.
    """
    base, images = _images(source)
    return [(image, _relative(image, base)) for image in images]


def _images(source: str) -> tuple[Path, list[Path]]:
    """The images of a source, and the folder from which their paths are seen."""
    path = Path(source)
    if path.is_dir():
        extensions = _readable_extensions()
        images = _visible(file for file in path.iterdir() if file.suffix.lower() in extensions)
        if not images:
            raise ValueError(f"no image in folder {path} (by extension; for those in its folders, '{path}/**/*.jpg')")
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
            raise ValueError(f"{path}, line {row.line}: no prompt: give points or a box, there or as options")
        image = path.parent / row.image
        if row.output is None:
            output = _relative(image, path.parent).with_suffix(suffix)
        else:
            output = PurePath(row.output)
            if output.is_absolute() or ".." in output.parts or not output.suffix:
                expected = "a file of the output folder, with an extension"
                raise ValueError(f"{path}, line {row.line}: output: expected {expected}, got {row.output!r}")
        yield Task(image, prompt, output)


def _relative(image: Path, base: Path) -> PurePath:
    """The image's path from the folder `base`, its name alone if it is not in there."""
    inside = image.is_relative_to(base) and ".." not in image.relative_to(base).parts
    return image.relative_to(base) if inside else PurePath(image.name)
