"""mobilesam everything: writes all masks of each photo as an overlay, a label map and COCO JSON."""

import argparse
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..util.console import Progress, describe, say_counts, say_failed
from ..util.files import check_distinct, check_folder_to_be, remove_leftovers, whole_file
from ..util.options import add_model, positive
from . import scene
from .everything_options import add_everything_options, parameters_of
from .image_options import add_image_options
from .many.batch import add_keep_extension, check_outputs, images_of

if TYPE_CHECKING:
    from PIL import Image

    from ..api.everything import MaskGenerator
    from ..masks.objects import Record


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.set_defaults(run=run)
    add = parser.add_argument
    add("images", nargs="+", metavar="IMAGE", help="a picture, a folder, or a quoted glob such as 'photos/**/*.jpg'")
    add(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="DIR",
        help="output folder; each image NAME gives NAME_overlay.png, NAME_labels.png (16-bit: 0 or the number of the "
        "mask) and NAME.json (COCO JSON with RLE masks)",
    )
    add_keep_extension(parser)
    add("--resume", action="store_true", help="skip images whose output files exist already; with --tile also tiles")
    tiles = parser.add_argument_group("large images (docs/large.md)")
    tiles.add_argument(
        "--tile",
        type=positive,
        metavar="N",
        help="read and search the image in tiles of N pixels; each image NAME gives NAME_labels.tif (32-bit), "
        "NAME.gpkg with polygons, and NAME_overview.jpg; needs the extra [geo]",
    )
    tiles.add_argument(
        "--halo",
        type=int,
        default=scene.HALO,
        metavar="N",
        help="pixels that are read around each tile; more than half an object (default: %(default)s)",
    )
    tiles.add_argument(
        "--vectors",
        choices=scene.VECTORS,
        default=scene.VECTORS[0],
        help="file format of the polygons (default: %(default)s)",
    )
    add_everything_options(parser)
    add_image_options(parser)
    add_model(parser)


def run(arguments: argparse.Namespace) -> int:
    """Returns the exit code: 0, or 1 if one of several images failed."""
    from ..api.everything import MaskGenerator
    from ..api.loading import load
    from ..images.photo import allow_large_photos, open_rgb

    allow_large_photos()
    parameters = parameters_of(arguments)
    images = [image for source in arguments.images for image in images_of(source)]
    stems = {path: name if arguments.keep_extension else name.with_suffix("") for path, name in images}
    if arguments.tile is not None:
        return scene.run(arguments, stems, parameters)
    check_outputs((path, stem.with_name(stem.name + ".json")) for path, stem in stems.items())
    files = {path: _files(arguments.output / stem) for path, stem in stems.items()}
    check_folder_to_be(arguments.output)
    check_distinct([*(path for path, _ in images), *(file for each in files.values() for file in each)])

    model = load(arguments.weights, threads=arguments.threads, precision=arguments.precision)
    generator = MaskGenerator(model, **parameters, output_mode="coco_rle")
    value_range = arguments.value_range or model.kind.value_range
    left = [path for path in files if not (arguments.resume and all(file.is_file() for file in files[path]))]
    written = failed = 0
    try:
        for path in left:
            note = f"{path.name}, {written + failed + 1} of {len(left)}"
            started = time.perf_counter()
            try:
                photo = open_rgb(path, value_range=value_range, bands=arguments.bands)
                records = _records(photo, generator, note)
            except (MemoryError, OSError, TypeError, ValueError) as error:
                if len(images) == 1:
                    raise
                say_failed(path, describe(error))
                failed += 1
                continue
            _write(files[path], photo, records, path.name, parameters)
            written += 1
            seconds = time.perf_counter() - started
            print(f"{path}: {len(records)} masks, {seconds:.2f} s: {', '.join(map(str, files[path]))}", flush=True)
    finally:
        if len(images) > 1:
            say_counts(written, failed, len(files) - len(left), len(files), arguments.output)
    return 1 if failed else 0


def _files(stem: Path) -> list[Path]:
    """The output files of an image, in the order in which they are written."""
    return [stem.with_name(stem.name + end) for end in ("_overlay.png", "_labels.png", ".json")]


def _records(photo: "Image.Image", generator: "MaskGenerator", note: str) -> list["Record"]:
    with Progress(None, "points") as progress:

        def show(done: int, total: int) -> None:
            progress.total = total
            progress.update(done, note)

        return list(generator.generate_iter(photo, value_range="dtype", progress=show))


def _write(
    files: Sequence[Path], photo: "Image.Image", records: Sequence["Record"], name: str, parameters: Mapping[str, float]
) -> None:
    from PIL import Image

    from ..images.pictures import save_image
    from ..masks import draw, export
    from ..masks.objects import SegmentedObject
    from ..version import __version__

    files[0].parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(files)
    size = photo.height, photo.width
    objects = [SegmentedObject.from_record(record) for record in records]
    info = {"description": f"all masks of an image, by mobilesam {__version__}", "parameters": dict(parameters)}
    with ExitStack() as together:  # if one file fails, none is written
        overlay_file, labels_file, json_file = (partial(together.enter_context, whole_file(file)) for file in files)
        save_image(draw.overlay(photo, objects, smallest_on_top=True), overlay_file())
        save_image(Image.fromarray(draw.label_map(objects, size=size, smallest_on_top=True)), labels_file())
        export.save(objects, json_file(), file_name=name, size=size, info=info)
