"""mobilesam everything --tile: finds all objects of large images, and writes them as rasters and vectors."""

import argparse
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from ..util.console import Progress, describe, say_counts, say_failed
from ..util.files import check_distinct, check_folder_to_be, remove_leftovers, whole_file

if TYPE_CHECKING:
    from ..api.everything import MaskGenerator
    from ..tiles.source import Source
    from ..tiles.spill import ObjectFile

VECTORS = ("gpkg", "geojson")
HALO = 256  # pixels


def run(arguments: argparse.Namespace, names: Mapping[Path, PurePath], parameters: Mapping[str, Any]) -> int:
    """Find the objects of each image.

    Args:
        arguments: The command's arguments.
        names: The path of each image, and the name of its results without extension.
        parameters: The parameters of `MaskGenerator`.

    Returns:
        The exit code: 0, or 1 if one of several images failed.
    """
    from ..api.everything import MaskGenerator
    from ..api.loading import load
    from ..tiles import label_raster, vector_file  # noqa: F401 (errors about missing packages come before the work)

    ends = "_labels.tif", f".{arguments.vectors}", "_overview.jpg"
    files = {path: [arguments.output / f"{name}{end}" for end in ends] for path, name in names.items()}
    check_folder_to_be(arguments.output)
    check_distinct([*files, *(file for each in files.values() for file in each)])
    model = load(arguments.weights, threads=arguments.threads, precision=arguments.precision, images=1)
    generator = MaskGenerator(model, **parameters, output_mode="uncompressed_rle")
    left = [path for path in files if not (arguments.resume and all(file.is_file() for file in files[path]))]
    written = failed = 0
    try:
        for path in left:
            started = time.perf_counter()
            try:
                count = _segment(
                    path, arguments.output / f"{names[path]}_tiles", files[path], generator, parameters, arguments
                )
            except (MemoryError, OSError, TypeError, ValueError) as error:
                if len(files) == 1:
                    raise
                say_failed(path, describe(error))
                failed += 1
                continue
            written += 1
            seconds = time.perf_counter() - started
            print(f"{path}: {count} objects, {seconds:.2f} s: {', '.join(map(str, files[path]))}", flush=True)
    finally:
        if len(files) > 1:
            say_counts(written, failed, len(files) - len(left), len(files), arguments.output)
    return 1 if failed else 0


def _segment(
    path: Path,
    folder: Path,
    files: Sequence[Path],
    generator: "MaskGenerator",
    parameters: Mapping[str, Any],
    arguments: argparse.Namespace,
) -> int:
    """Find the objects of an image, tile by tile, and write them. Returns the number of objects."""
    from ..api.tiled_everything import check_halo, masks_of_tiles
    from ..tiles.grid import Grid
    from ..tiles.join import join
    from ..tiles.opening import open_source
    from ..tiles.spill import ObjectFile, TileFiles

    model = generator.model
    value_range = arguments.value_range or model.kind.value_range
    source = open_source(path, value_range=value_range, bands=arguments.bands)
    grid = Grid(source.size, arguments.tile, arguments.halo)
    check_halo(grid)
    settings = {
        "image": path.name, "bytes": path.stat().st_size, "size": grid.size, "tile": grid.tile, "halo": grid.halo,
        "parameters": dict(parameters), "weights": model.checkpoint.sha256, "precision": model.precision,
        "value_range": value_range, "bands": arguments.bands,
    }  # fmt: skip
    tiles = TileFiles(folder, settings)
    done = tiles.open(resume=arguments.resume)
    with Progress(len(grid), "tiles", len(done)) as progress:
        for finished, (number, masks) in enumerate(masks_of_tiles(source, grid, generator, done=done), len(done) + 1):
            tiles.write(number, masks)
            progress.update(finished, path.name)
    with ObjectFile() as objects:
        for mask in join(((number, tiles.read(number, grid)) for number in range(len(grid))), grid):
            objects.add(mask)
        _write(files, source, objects)
        tiles.remove()
        return len(objects)


def _write(files: Sequence[Path], source: "Source", objects: "ObjectFile") -> None:
    from ..images.pictures import save_image
    from ..tiles.label_raster import write_labels
    from ..tiles.overview import overview
    from ..tiles.vector_file import write_vectors

    width = source.size[1]
    georeference = getattr(source, "georeference", None)
    files[0].parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(files)
    with ExitStack() as together:  # if one file fails, none is written
        labels_file, vector_file, overview_file = (partial(together.enter_context, whole_file(file)) for file in files)
        write_labels(labels_file(), source.size, lambda top, end: objects.labels(top, end, width), georeference)
        write_vectors(vector_file(), objects, georeference)
        save_image(overview(source, objects), overview_file())
