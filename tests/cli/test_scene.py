"""`mobilesam everything --tile`: rasters and vectors of large images, interrupted and resumed runs, and errors."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
import tifffile
from golden import PHOTOS
from PIL import Image
from rasterio.features import rasterize
from rasterio.transform import Affine

import mobilesam
from mobilesam.cli import scene
from mobilesam.cli.main import main
from mobilesam.masks import rle

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

PARAMETERS = {"points_per_side": 4, "pred_iou_thresh": 0.6, "stability_score_thresh": 0.7}
FLAGS = [text for name, value in PARAMETERS.items() for text in ("--" + name.replace("_", "-"), str(value))]
TILES = ["--tile", "256", "--halo", "64"]  # 2×2 tiles
NARROW = ["--tile", "128", "--halo", "32"]  # two tiles of a strip, which are quick to encode
COMMAND = ["everything", "scene.tif", "-o", "out", *TILES, *FLAGS]
ENDS = ("_labels.tif", ".gpkg", "_overview.jpg")
TRANSFORM = Affine(0.5, 0.0, 500000.0, 0.0, -0.5, 5200000.0)

with Image.open(PHOTOS["coffee"]) as photo:
    COFFEE = np.asarray(photo.convert("RGB"))[:, 50:550]  # 500x400
STRIP = COFFEE[170:250, 100:356]


def write_scene(path: Path, image: np.ndarray, **options: Any) -> None:
    bands = np.moveaxis(np.atleast_3d(image), -1, 0)
    form = {"driver": "GTiff", "count": len(bands), "dtype": image.dtype, "crs": "EPSG:32632", "transform": TRANSFORM}
    with rasterio.open(path, "w", height=image.shape[0], width=image.shape[1], **form | options) as file:
        file.write(bands)


def objects(path: Path) -> tuple[list[Any], dict[str, list[Any]]]:
    """The geometries and the fields of a vector file, in the order of the objects' numbers."""
    about, _, geometries, fields = pyogrio.raw.read(path)
    return list(shapely.from_wkb(geometries)), dict(zip(about["fields"].tolist(), (each.tolist() for each in fields)))


def labels(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        return file.read(1)


def check_results(folder: Path, name: str, vectors: str, size: tuple[int, int], transform: Affine) -> int:
    """The raster and the polygons must show the same objects. Returns the number of objects."""
    image = labels(folder / f"{name}_labels.tif")
    assert (image.dtype, image.shape) == (np.uint32, size)
    shapes, fields = objects(folder / f"{name}.{vectors}")
    assert list(fields) == ["object", "area", "predicted_iou", "stability_score"]
    assert fields["object"] == list(range(1, len(shapes) + 1))
    on_top, order = np.zeros(size, np.uint32), sorted(range(len(shapes)), key=lambda i: -fields["area"][i])
    for i in order:  # of overlapping objects, the smallest is on top
        assert shapes[i].geom_type == "MultiPolygon" and shapes[i].is_valid
        pixels = rasterize([shapes[i]], size, transform=transform).astype(bool)
        assert pixels.sum() == fields["area"][i]
        assert fields["predicted_iou"][i] > 0.6 and fields["stability_score"][i] >= 0.7
        on_top[pixels] = i + 1
    np.testing.assert_array_equal(image, on_top)
    with Image.open(folder / f"{name}_overview.jpg") as overview:
        overview.load()
        assert (overview.height, overview.width) == size
    return len(shapes)


def same_results(a: Path, b: Path) -> bool:
    """Whether both folders have the same files. A GeoPackage holds the time, so only its objects are compared."""
    assert sorted(path.name for path in a.iterdir()) == sorted(path.name for path in b.iterdir())
    return all(
        objects(path) == objects(b / path.name)
        if path.suffix == ".gpkg"
        else path.read_bytes() == (b / path.name).read_bytes()
        for path in a.iterdir()
    )


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The (h, w) of each image that is encoded from now on."""
    sizes: list[tuple[int, int]] = []
    encode = mobilesam.MobileSAM.encode

    def counted(self: mobilesam.MobileSAM, image: Any, **options: Any) -> mobilesam.Embedding:
        sizes.append((image.height, image.width))
        return encode(self, image, **options)

    monkeypatch.setattr(mobilesam.MobileSAM, "encode", counted)
    return sizes


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a scene and the results of the command."""
    folder = tmp_path_factory.mktemp("scene")
    write_scene(folder / "scene.tif", COFFEE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(COMMAND) == 0
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A new current directory with the scene and no results."""
    shutil.copy(finished / "scene.tif", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_rasters_and_vectors_show_the_same_objects(finished: Path) -> None:
    count = check_results(finished / "out", "scene", "gpkg", (400, 500), TRANSFORM)
    assert sorted(path.name for path in (finished / "out").iterdir()) == sorted(f"scene{end}" for end in ENDS)
    with rasterio.open(finished / "out" / "scene_labels.tif") as file:
        assert (file.crs.to_epsg(), file.transform, file.nodata) == (32632, TRANSFORM, 0)
    assert pyogrio.read_info(finished / "out" / "scene.gpkg")["crs"] == "EPSG:32632"
    assert count > 5


def test_resume_leaves_finished_images(finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.chdir(finished)
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    assert main([*COMMAND, "--resume"]) == 0
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before
    assert capsys.readouterr() == ("", "")


def stop_at(call: int, monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Run the command, and interrupt it when it encodes the tile with this number, from 1."""
    encode, calls = mobilesam.MobileSAM.encode, []

    def interrupted(self: mobilesam.MobileSAM, image: Any, **options: Any) -> mobilesam.Embedding:
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return encode(self, image, **options)

    with monkeypatch.context() as patch:
        patch.setattr(mobilesam.MobileSAM, "encode", interrupted)
        assert main(COMMAND) == 130
    assert [path.name for path in (folder / "out").iterdir()] == ["scene_tiles"]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_resume_goes_on_with_the_next_tile(
    finished: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, encoded: list[tuple[int, int]]
) -> None:
    stop_at(2, monkeypatch, folder)
    assert names(folder / "out" / "scene_tiles") == ["000000.npz", "settings.json"]
    for options in (["--points-per-side", "5"], ["--halo", "65"], ["--tile", "255"], ["--bands", "2,1,0"]):
        capsys.readouterr()
        assert main([*COMMAND, "--resume", *options]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert error.startswith("mobilesam: error: out/scene_tiles: the finished tiles were made with other options")
    assert len(encoded) == 1
    assert main([*COMMAND, "--resume"]) == 0
    assert len(encoded) == 4
    assert same_results(folder / "out", finished / "out")


def test_a_damaged_tile_is_named_and_can_be_removed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, encoded: list[tuple[int, int]]
) -> None:
    write_scene(folder / "scene.tif", STRIP)
    command = ["everything", "scene.tif", "-o", "out", *NARROW, *FLAGS]
    write = scene._write

    def interrupted(files: list[Path], *others: Any) -> None:
        write([folder / "expected" / file.name for file in files], *others)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(scene, "_write", interrupted)
        assert main(command) == 130
    assert encoded == [(80, 160), (80, 160)]
    tile = folder / "out" / "scene_tiles" / "000001.npz"
    whole = tile.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", b"no tile", whole[:200] + b"x" * 60 + whole[260:]):
        tile.write_bytes(damaged)
        capsys.readouterr()
        assert main([*command, "--resume"]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert error.startswith("mobilesam: error: out/scene_tiles/000001.npz: the file is damaged, remove it")
    tile.unlink()
    assert main([*command, "--resume"]) == 0
    assert len(encoded) == 3  # only the removed tile is computed again
    assert same_results(folder / "out", folder / "expected")


def test_without_resume_finished_tiles_are_computed_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, encoded: list[tuple[int, int]]
) -> None:
    write_scene(folder / "scene.tif", STRIP)
    command = ["everything", "scene.tif", "-o", "out", *NARROW, *FLAGS]
    old = folder / "out" / "scene_tiles"
    old.mkdir(parents=True)
    (old / "settings.json").write_text("{}")
    (old / "000000.npz").touch()
    assert main(command) == 0
    assert len(encoded) == 2
    assert names(folder / "out") == sorted(f"scene{end}" for end in ENDS)


def test_areas_without_data_are_skipped(folder: Path, encoded: list[tuple[int, int]]) -> None:
    """A tile is skipped if its core has no data, even if its halo has some."""
    image = np.concatenate([STRIP, STRIP[:, :144]], axis=1)
    image[:, :140] = 0
    write_scene(folder / "scene.tif", np.maximum(image, image > 0), nodata=0)
    assert main(["everything", "scene.tif", "-o", "out", *NARROW, *FLAGS]) == 0
    assert encoded == [(80, 192), (80, 176), (80, 48)]
    assert check_results(folder / "out", "scene", "gpkg", (80, 400), TRANSFORM) > 0
    write_scene(folder / "scene.tif", np.zeros_like(image), nodata=0)
    assert main(["everything", "scene.tif", "-o", "out", *NARROW, *FLAGS]) == 0
    assert len(encoded) == 3
    assert not labels(folder / "out" / "scene_labels.tif").any()
    assert objects(folder / "out" / "scene.gpkg")[0] == []


def test_geojson_has_the_records_of_everything_in_the_crs_of_the_scene(
    folder: Path, model: mobilesam.MobileSAM, capsys: pytest.CaptureFixture[str]
) -> None:
    write_scene(folder / "scene.tif", STRIP)
    assert main(["everything", "scene.tif", "-o", "out/deep", *NARROW, *FLAGS, "--vectors", "geojson"]) == 0
    count = check_results(folder / "out" / "deep", "scene", "geojson", (80, 256), TRANSFORM)
    assert pyogrio.read_info(folder / "out" / "deep" / "scene.geojson")["crs"] == "EPSG:32632"
    records = mobilesam.everything(STRIP, model=model, tile=128, halo=32, **PARAMETERS)
    assert count == len(records) > 1
    shapes, fields = objects(folder / "out" / "deep" / "scene.geojson")
    for shape, record in zip(shapes, records):
        pixels = rasterize([shape], STRIP.shape[:2], transform=TRANSFORM)
        np.testing.assert_array_equal(pixels, rle.decode(record["segmentation"]))
    assert fields["predicted_iou"] == [record["predicted_iou"] for record in records]
    said = capsys.readouterr()
    assert said.out.startswith(f"scene.tif: {count} objects, ")
    files = ("scene_labels.tif", "scene.geojson", "scene_overview.jpg")
    assert said.out.endswith(f" s: {', '.join(f'out/deep/{file}' for file in files)}\n")
    assert said.err == ""


def as_tiff(path: Path) -> None:
    tifffile.imwrite(path, STRIP, photometric="rgb", compression="zlib", tile=(64, 64))


@pytest.mark.filterwarnings("error:'crs' was not provided")
@pytest.mark.parametrize(
    ("name", "write"), [("plain.tif", as_tiff), ("picture.png", lambda path: Image.fromarray(STRIP).save(path))]
)
def test_images_without_a_crs_give_pixels(folder: Path, capsys: Any, name: str, write: Callable[[Path], None]) -> None:
    write(folder / name)
    assert main(["everything", name, "-o", "out", *NARROW, *FLAGS]) == 0
    assert capsys.readouterr().err == ""
    stem = Path(name).stem
    assert check_results(folder / "out", stem, "gpkg", (80, 256), Affine.identity()) > 0
    with rasterio.open(folder / "out" / f"{stem}_labels.tif") as file:
        assert (file.crs, file.transform) == (None, Affine.identity())
    assert not pyogrio.read_info(folder / "out" / f"{stem}.gpkg")["crs"]


def test_broken_images_among_others_are_named_and_the_others_done(folder: Path, capsys: Any) -> None:
    as_tiff(folder / "a.tif")
    as_tiff(folder / "b.tif")
    (folder / "b.tif").write_bytes((folder / "b.tif").read_bytes()[:40])
    as_tiff(folder / "c.tif")
    (folder / "c.tif").write_bytes((folder / "c.tif").read_bytes()[:3000])  # the pixels are cut off
    images = ["b.tif", "gone.tif", "c.tif", "a.tif"]
    assert main(["everything", *images, "-o", "out", *NARROW, *FLAGS]) == 1
    said = capsys.readouterr()
    errors = said.err.splitlines()
    assert [line.startswith("mobilesam: failed: ") for line in errors] == [True] * 3
    assert all(name in line for name, line in zip(images, errors))
    assert said.out.startswith("a.tif: ")
    assert said.out.splitlines()[-1] == "1 written, 3 failed: out"
    assert [name for name in names(folder / "out") if name.startswith("a")] == sorted(f"a{end}" for end in ENDS)


REFUSED = {
    "--tile: expected a whole number of at least 1, got '0'": ["--tile", "0"],
    "--tile: expected a whole number of at least 1, got 'many'": ["--tile", "many"],
    "--halo: invalid int value: '6.5'": ["--halo", "6.5"],
    "halo must be at most half of tile, (256, 256), got (129, 129)": ["--halo", "129"],
    "halo must be at least 1 to join masks of neighbouring tiles, got (0, 0)": ["--halo", "0"],
    "halo must be at least 0, got -1": ["--halo", "-1"],
    "--vectors: invalid choice: 'shp'": ["--vectors", "shp"],
    "bands must be below the number of bands, 3, got (0, 1, 3)": ["--bands", "0,1,3"],
    "expected a folder to write into, got a file: scene.tif": ["-o", "scene.tif/deep"],
    "points_per_side must be a whole number of at least 1, got 0": ["--points-per-side", "0"],
}


def code_of(command: list[str]) -> int | str | None:
    try:
        return main(command)
    except SystemExit as stop:  # argparse reports its errors by SystemExit
        return stop.code


@pytest.mark.parametrize("message", REFUSED)
def test_a_wrong_command_ends_in_one_line_and_no_file(folder: Path, capsys: Any, message: str) -> None:
    assert code_of([*COMMAND, *REFUSED[message]]) == 2
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert said.err.startswith("mobilesam: error: ") and message in said.err
    assert names(folder) == ["scene.tif"]


@pytest.mark.parametrize("package", ["rasterio", "pyogrio", "shapely", "pyarrow"])
def test_a_missing_package_is_named_with_its_extra(
    folder: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    """The error comes before the command searches the image."""
    for module in ("raster", "label_raster", "vector_file"):
        monkeypatch.delitem(sys.modules, f"mobilesam.tiles.{module}", raising=False)
        monkeypatch.delattr(f"mobilesam.tiles.{module}", raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    assert main(COMMAND) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"need {package}: pip install 'mobilesam[geo]'" in error
    assert names(folder) == ["scene.tif"]
