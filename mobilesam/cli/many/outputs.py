"""Output files of `mobilesam segment`: checks that they can be written, and writes them."""

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from PIL import Image

from ...api.embedding import Segmentation
from ...images.pictures import check_output, save_image
from ...masks import export
from ...util.files import is_replaceable, whole_file

Kind: TypeAlias = Literal["mask", "cutout", "overlay"]
Files: TypeAlias = Iterable[tuple[Kind, Path]]


class Style(NamedTuple):
    """Options of the output files.

    Attributes:
        name: Name of the object in COCO JSON, GeoJSON and SVG.
        crop: Crop cut-outs to the object's box.
        polygons: Add polygons to COCO JSON.
    """

    name: str
    crop: bool
    polygons: bool


def write(files: Files, answer: Segmentation, photo: Image.Image, image: Path, style: Style) -> None:
    """Write the files of a segmentation. If one file fails, none is written.

    Args:
        files: Kind and path of each file.
        answer: The segmentation.
        photo: The photo as RGB.
        image: Path of the photo.
        style: Options of the files.
    """
    with ExitStack() as together:
        # The last file is written first. A file that cannot be replaced may still fail, so it must be the first.
        for kind, path in sorted(files, key=lambda file: not is_replaceable(file[1])):
            _write(kind, together.enter_context(whole_file(path)), answer, photo, image, style)


def _write(kind: Kind, path: Path, answer: Segmentation, photo: Image.Image, image: Path, style: Style) -> None:
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
    """Check that a file can be written, without creating it.

    Raises:
        ModuleNotFoundError: A package that the format needs is not installed.
        OSError: The folder does not exist or is not writable, or the path is a folder.
        ValueError: The extension is not supported.
    """
    if kind != "mask":
        check_output(path, "RGBA" if kind == "cutout" else "RGB")
    elif path.suffix.lower() in export.SUFFIXES:
        export.check_output(path, polygons=style.polygons)
    else:
        check_output(path)
