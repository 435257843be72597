"""Exporting objects as a file: cut-outs, a label map, COCO JSON, GeoJSON or SVG. Runs in a worker thread."""

from __future__ import annotations

import re
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO

from PIL import Image

from mobilesam.masks import draw, rle
from mobilesam.masks import export as text
from mobilesam.masks.objects import SegmentedObject

from . import answers
from .lanes import Task
from .limits import Refused
from .schema import ExportObject, ExportRequest
from .store import StoredPhoto

FORMS = ("image/png", "application/zip", "application/json", "application/geo+json", "image/svg+xml")
IN_MEMORY = 8 << 20  # bytes: a larger temporary file is written to disk
CHUNK = 1 << 16
MOST_CUTOUT_PIXELS = 4_000_000_000  # of all cut-outs in one file: a minute or two


@dataclass(frozen=True)
class File:
    """A temporary file to send, open at its start and deleted when it is closed.

    Attributes:
        content: the open file.
        media_type: media type of the content.
        name: file name for the download.
    """

    content: IO[bytes]
    media_type: str
    name: str

    def chunks(self) -> Iterator[bytes]:
        with self.content:
            yield from iter(lambda: self.content.read(CHUNK), b"")


def export(photo: StoredPhoto, request: ExportRequest, open_picture: Callable[[], Image.Image], task: Task) -> File:
    """Export objects in the requested format.

    Raises:
        Refused: 422 if an object does not fit the photo, 413 if the outlines of the objects are too long.
        Stopped: The task was stopped.
    """
    objects = []
    for i, wanted in enumerate(request.objects):
        task.check()
        objects.append(_object(photo, i, wanted))
    content: IO[bytes] = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115
    try:
        media_type, name = _write(content, objects, request, open_picture, task)
        content.seek(0)
    except BaseException:
        content.close()
        raise
    return File(content, media_type, name)


def _write(
    file: IO[bytes],
    objects: list[SegmentedObject],
    request: ExportRequest,
    open_picture: Callable[[], Image.Image],
    task: Task,
) -> tuple[str, str]:
    """Write the objects into the file, and return its media type and name."""
    if request.format in ("geojson", "svg"):
        try:
            text.check_outlines(objects)
        except text.TooManyRuns as error:
            raise Refused(413, str(error)) from None
    if request.format == "labels":
        Image.fromarray(draw.label_map(objects, before_each=task.check)).save(file, "PNG")
        return "image/png", "labels.png"
    if request.format == "coco":
        file.write(text.to_json(text.coco(objects, file_name=request.file_name, before_each=task.check)).encode())
        return "application/json", "coco.json"
    if request.format == "geojson":
        file.write(text.to_json(text.geojson(objects, before_each=task.check)).encode())
        return "application/geo+json", "objects.geojson"
    if request.format == "svg":
        file.write(text.svg(objects, before_each=task.check).encode())
        return "image/svg+xml", "objects.svg"
    pixels = sum(_cutout_pixels(item, request.crop) for item in objects)
    if pixels > MOST_CUTOUT_PIXELS:
        most = f"{MOST_CUTOUT_PIXELS / 1e6:g} megapixels"
        raise Refused(413, f"the cut-outs have {pixels / 1e6:.0f} megapixels; at most {most} are written at once")
    picture = open_picture()
    if len(objects) == 1:
        _cutout(file, picture, objects[0], request.crop)
        return "image/png", "cutout.png"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:  # PNG is compressed already
        for number, item in enumerate(objects, 1):
            task.check()
            with archive.open(f"{number:03} {_plain(item.name)}.png", "w") as member:
                _cutout(member, picture, item, request.crop)
    return "application/zip", "cutouts.zip"


def _cutout_pixels(item: SegmentedObject, crop: bool) -> int:
    runs = item.run_lengths()
    height, width = rle.bbox(runs)[2:] if crop else runs["size"]
    return int(height) * int(width)


def _cutout(file: IO[bytes], picture: Image.Image, item: SegmentedObject, crop: bool) -> None:
    crop = crop and bool(item.pixels().any())  # an empty mask has no box to crop to
    draw.cutout(picture, [item], crop=crop).save(file, "PNG", compress_level=3)


def _plain(name: str) -> str:
    """The name without characters that some file system forbids in file names."""
    return re.sub(r'[\x00-\x1f\x7f<>:"/\\|?*]+', "_", name).strip(" .") or "object"


def _object(photo: StoredPhoto, index: int, wanted: ExportObject) -> SegmentedObject:
    size = photo.embedding.original_size
    colour = None if wanted.colour is None else tuple(bytes.fromhex(wanted.colour[1:]))
    score = None
    try:
        if wanted.prompt is not None:
            found = answers.segment(photo.embedding, wanted.prompt, only_best=wanted.choice is None)
            choice = wanted.choice or 0
            if choice >= len(found):
                raise Refused(422, f"choice: the prompt has {len(found)} candidate masks, got index {choice}")
            runs, score = found[choice].rle, found[choice].score
        elif wanted.rle is not None:
            if wanted.rle.size != size:
                raise Refused(422, f"rle: expected the image's size {size}, got {wanted.rle.size}")
            runs = rle.decompress(wanted.rle.model_dump())
        else:
            raise Refused(422, "expected a prompt or an rle, got neither")
    except Refused as refused:
        raise Refused(422, f"objects.{index}: {refused.detail}") from None
    except (TypeError, ValueError) as error:
        raise Refused(422, f"objects.{index}: {error}") from None
    return SegmentedObject(
        runs,
        wanted.name,
        score,
        colour,  # type: ignore[arg-type]
        file_name=photo.embedding.name,
    )
