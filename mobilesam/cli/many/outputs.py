"""The files that an answer of `mobilesam segment` becomes: whether they can be written, and writing them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from PIL import Image

from ...api.model import Segmentation
from ...images.pictures import check_output, save_image
from ...masks import export

Kind: TypeAlias = Literal["mask", "cutout", "overlay"]
Files: TypeAlias = Iterable[tuple[Kind, Path]]


class Style(NamedTuple):
    """name: what the object is called; crop: cut-outs to the object's box; polygons: in COCO's JSON too."""

    name: str
    crop: bool
    polygons: bool


def write(files: Files, answer: Segmentation, photo: Image.Image, image: Path, style: Style) -> None:
    """Write an answer's files in their order, each whole or not at all. image: the photo's path."""
    for kind, path in files:
        if kind == "overlay":
            save_image(answer.overlay(photo), path)
        elif kind == "cutout":
            crop = style.crop and bool(answer.mask.any())  # an empty mask has no box to crop to
            save_image(answer.cutout(photo, crop=crop), path)
        elif path.suffix.lower() in export.SUFFIXES:
            item = answer.as_object(style.name)
            export.save([item], path, file_name=image.name, polygons=style.polygons)
        else:
            answer.save(path)


def check(kind: Kind, path: Path, style: Style) -> None:
    """Raise where such a file cannot be written; nothing is created.

    Raises ValueError for an extension, OSError for a folder, ModuleNotFoundError for a package that is not installed.
    """
    if kind != "mask":
        check_output(path, "RGBA" if kind == "cutout" else "RGB")
    elif path.suffix.lower() in export.SUFFIXES:
        export.check_output(path, polygons=style.polygons)
    else:
        check_output(path)
