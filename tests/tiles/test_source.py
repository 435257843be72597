"""Images that are read by windows: each kind of file against the array it holds, and errors in one line."""

import json
import os
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import tifffile
import zarr
from PIL import Image
from rasterio.enums import ColorInterp
from rasterio.transform import Affine

from mobilesam.tiles.grid import Box
from mobilesam.tiles.opening import open_source
from mobilesam.tiles.source import Source

RNG = np.random.default_rng(7)
GRAY, RGB = RNG.integers(0, 256, (61, 83), np.uint8), RNG.integers(0, 256, (61, 83, 3), np.uint8)
RGBA, DEEP = RNG.integers(0, 256, (61, 83, 4), np.uint8), RNG.integers(0, 65536, (61, 83), np.uint16)
BANDS = RNG.integers(0, 4096, (61, 83, 6), np.uint16)
TRANSFORM = Affine(0.5, 0.0, 500000.0, 0.0, -0.5, 5200000.0)
BOXES: list[Box] = [(0, 0, 83, 61), (10, 20, 50, 33), (0, 60, 1, 61), (80, 40, 83, 61)]

Write = Callable[[Path, np.ndarray], Any]  # gives the image for open_source


def check_windows(source: Source, array: np.ndarray) -> None:
    """Each window of the source must be that of the array, in its dtype."""
    assert source.size == array.shape[:2]
    for box in BOXES:
        x0, y0, x1, y1 = box
        window = source.read(box)
        assert window.dtype == array.dtype
        np.testing.assert_array_equal(window, array[y0:y1, x0:x1])


def as_memmap(folder: Path, array: np.ndarray) -> np.memmap:
    made = np.memmap(folder / "a.raw", array.dtype, "w+", shape=array.shape)
    made[:] = array
    return made


def as_npy(folder: Path, array: np.ndarray) -> Path:
    np.save(folder / "a.npy", array)
    return folder / "a.npy"


def as_fortran_npy(folder: Path, array: np.ndarray) -> Path:
    return as_npy(folder, np.asfortranarray(array))


def as_zarr(folder: Path, array: np.ndarray) -> Any:
    chunks = (32, 32, *array.shape[2:])
    made = zarr.open(str(folder / "a.zarr"), mode="w", shape=array.shape, chunks=chunks, dtype=array.dtype)
    made[:] = array
    return made


def as_zarr_folder(folder: Path, array: np.ndarray) -> str:
    as_zarr(folder, array)
    return str(folder / "a.zarr")


def as_zarr_image(folder: Path, array: np.ndarray) -> Path:
    """A group with the levels of a pyramid, as in OME-Zarr."""
    zarr.open_group(str(folder / "a.zarr"), mode="w")
    for level, values in (("1", array[::2, ::2]), ("0", array)):
        path = str(folder / "a.zarr" / level)
        zarr.open(path, mode="w", shape=values.shape, chunks=values.shape, dtype=values.dtype)[:] = values
    return folder / "a.zarr"


def as_tiff(folder: Path, array: np.ndarray) -> Path:
    colours = array.ndim == 3 and array.shape[2] in (3, 4)
    kind = {"photometric": "rgb" if colours else "minisblack"}
    if array.ndim == 3 and not colours:
        kind |= {"planarconfig": "contig"}
    tifffile.imwrite(folder / "a.tif", array, tile=(32, 32), compression="zlib", **kind)
    return folder / "a.tif"


def as_planar_tiff(folder: Path, array: np.ndarray) -> Path:
    values = np.moveaxis(array, -1, 0)
    kind = "rgb" if len(values) in (3, 4) else "minisblack"
    tifffile.imwrite(folder / "a.tif", values, tile=(32, 32), photometric=kind, planarconfig="separate")
    return folder / "a.tif"


def as_geotiff(folder: Path, array: np.ndarray, **options: Any) -> Path:
    values = np.atleast_3d(array)
    form = {"driver": "GTiff", "count": values.shape[2], "dtype": array.dtype, "tiled": True}
    place = {"crs": "EPSG:32632", "transform": TRANSFORM, "blockxsize": 32, "blockysize": 32}
    size = {"height": values.shape[0], "width": values.shape[1]}
    with rasterio.open(folder / "a.tif", "w", **form | place | size | options) as file:
        if values.shape[2] == 4:
            file.colorinterp = ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha
        file.write(np.moveaxis(values, -1, 0))
    return folder / "a.tif"


PLAIN = {
    "an array": lambda _, array: array,
    "a memory map": as_memmap,
    "an npy file": as_npy,
    "an npy file in Fortran's order": as_fortran_npy,
}
ZARR = {"a zarr array": as_zarr, "a zarr folder": as_zarr_folder, "an OME-Zarr image": as_zarr_image}


@pytest.mark.parametrize("array", [GRAY, RGB, RGBA, DEEP], ids=["gray", "RGB", "RGBA", "16 bit"])
@pytest.mark.parametrize("write", (each := PLAIN | ZARR).values(), ids=each)
def test_windows_of_arrays(tmp_path: Path, write: Write, array: np.ndarray) -> None:
    source = open_source(write(tmp_path, array))
    check_windows(source, array)
    assert not any(map(source.is_empty, BOXES))


@pytest.mark.parametrize("array", [GRAY, RGB, RGBA, DEEP], ids=["gray", "RGB", "RGBA", "16 bit"])
def test_windows_of_tiff_files(tmp_path: Path, array: np.ndarray) -> None:
    source = open_source(as_tiff(tmp_path, array))
    check_windows(source, array)
    assert source.name == "a.tif"
    assert not source.is_empty(BOXES[1])


def test_windows_of_planar_tiff_files(tmp_path: Path) -> None:
    check_windows(open_source(as_planar_tiff(tmp_path, RGB)), RGB)


def test_windows_of_the_largest_level_of_a_pyramid(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(RGB, tile=(16, 16), photometric="rgb", subifds=1)
        file.write(RGB[::2, ::2], tile=(16, 16), photometric="rgb", subfiletype=1)
    check_windows(open_source(tmp_path / "a.tif"), RGB)


@pytest.mark.parametrize("array", [GRAY, RGB, DEEP], ids=["gray", "RGB", "16 bit"])
def test_windows_of_geotiff_files(tmp_path: Path, array: np.ndarray) -> None:
    source = open_source(as_geotiff(tmp_path, array))
    check_windows(source, array)
    assert not any(map(source.is_empty, BOXES))
    assert (source.georeference.crs.startswith("PROJCS["), source.georeference.transform) == (True, TRANSFORM[:6])


def test_big_tiff_files(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.btf", RGB, bigtiff=True, tile=(32, 32), photometric="rgb")
    plain, placed = open_source(tmp_path / "a.btf"), open_source(as_geotiff(tmp_path, GRAY, BIGTIFF="YES"))
    check_windows(plain, RGB)
    check_windows(placed, GRAY)
    assert [hasattr(source, "georeference") for source in (plain, placed)] == [False, True]


@pytest.mark.parametrize(
    "write", (each := {**PLAIN, **ZARR, "tiff": as_tiff, "planar": as_planar_tiff}).values(), ids=each
)
@pytest.mark.parametrize("bands", [(5, 0, 3), (2, 2, 2)])
def test_three_of_many_bands(tmp_path: Path, write: Write, bands: tuple[int, int, int]) -> None:
    check_windows(open_source(write(tmp_path, BANDS), bands=bands), BANDS[:, :, list(bands)])


def test_three_of_many_bands_of_a_geotiff(tmp_path: Path) -> None:
    check_windows(open_source(as_geotiff(tmp_path, BANDS), bands=(5, 0, 3)), BANDS[:, :, [5, 0, 3]])


def test_three_times_the_only_band() -> None:
    check_windows(open_source(GRAY, bands=(0, 0, 0)), np.stack([GRAY] * 3, axis=2))


def test_a_picture_is_decoded_as_a_whole(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    for image in (tmp_path / "a.png", Image.open(tmp_path / "a.png"), (tmp_path / "a.png").read_bytes()):
        source = open_source(image)
        check_windows(source, RGB)
    assert open_source(str(tmp_path / "a.png")).name == "a.png"


def test_the_value_range_of_a_picture_is_applied_to_the_whole(tmp_path: Path) -> None:
    """The value range of other files is applied to each window, by the model."""
    Image.fromarray(DEEP).save(tmp_path / "a.png")
    picture = open_source(tmp_path / "a.png", value_range=(0, 4095), bands=None)
    assert picture.value_range == "dtype"
    levels = np.rint(np.clip(DEEP / 4095 * 255, 0, 255)).astype(np.uint8)
    check_windows(picture, np.stack([levels] * 3, axis=2))
    assert open_source(DEEP, value_range=(0, 4095)).value_range == (0, 4095)
    assert open_source(as_geotiff(tmp_path, DEEP), value_range="minmax").value_range == "minmax"


def test_alpha_says_where_a_geotiff_is_empty(tmp_path: Path) -> None:
    image = RGBA.copy()
    image[:, :, 3] = 255
    image[:40, :50, 3] = 0
    source = open_source(as_geotiff(tmp_path, image))
    expected = image[:, :, :3].copy()
    expected[:40, :50] = 0
    check_windows(source, expected)
    empty = {(0, 0, 50, 40): True, (20, 10, 30, 20): True, (0, 0, 51, 40): False, (49, 39, 50, 41): False}
    assert {box: source.is_empty(box) for box in empty} == empty


@pytest.mark.parametrize("nodata", [0, 65535])
def test_a_nodata_value_says_where_a_geotiff_is_empty(tmp_path: Path, nodata: int) -> None:
    image = np.clip(DEEP, 1, 65534)
    image[30:, :40] = nodata
    source = open_source(as_geotiff(tmp_path, image, nodata=nodata))
    expected = image.copy()
    expected[30:, :40] = 0
    check_windows(source, expected)
    empty = {(0, 30, 40, 61): True, (5, 40, 6, 41): True, (0, 29, 40, 61): False, (40, 30, 83, 61): False}
    assert {box: source.is_empty(box) for box in empty} == empty


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_of_a_float_geotiff_that_are_not_finite_become_0(tmp_path: Path, value: float) -> None:
    image = RNG.random((61, 83)).astype(np.float32)
    image[5, 7] = image[40:, 60:] = value
    source = open_source(as_geotiff(tmp_path, image))
    check_windows(source, np.where(np.isfinite(image), image, np.float32(0)))


def test_nan_as_the_nodata_value_is_no_data(tmp_path: Path) -> None:
    image = RNG.random((61, 83)).astype(np.float32)
    image[:, :30] = np.nan
    source = open_source(as_geotiff(tmp_path, image, nodata=np.nan))
    assert source.is_empty((0, 0, 30, 61))
    assert not source.is_empty((29, 0, 31, 61))


def test_a_geotiff_that_has_only_a_transform(tmp_path: Path) -> None:
    source = open_source(as_geotiff(tmp_path, RGB, crs=None))
    assert (source.georeference.crs, source.georeference.transform) == ("", TRANSFORM[:6])


def text_file(name: str, text: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(text)
        return folder / name

    return write


def empty_group(folder: Path) -> Path:
    zarr.open_group(str(folder / "a.zarr"), mode="w")
    return folder / "a.zarr"


def cut(write: Write, array: np.ndarray) -> Callable[[Path], Path]:
    def written(folder: Path) -> Path:
        path = write(folder, array)
        path.write_bytes(path.read_bytes()[:60])
        return path

    return written


def objects(folder: Path) -> Path:
    np.save(folder / "c.npy", np.array([None]), allow_pickle=True)
    return folder / "c.npy"


def truncated_npy(folder: Path) -> Path:
    np.save(folder / "d.npy", RGB)
    (folder / "d.npy").write_bytes((folder / "d.npy").read_bytes()[:-1])
    return folder / "d.npy"


def video(folder: Path) -> Path:
    tifffile.imwrite(folder / "a.tif", np.zeros((5, 2, 20, 30), np.uint8), photometric="minisblack")
    return folder / "a.tif"


REFUSED = {
    "No such file": lambda folder: folder / "gone.tif",
    "a folder that zarr cannot open": lambda folder: folder,
    "a group without an array '0'": empty_group,
    "a.tif: ": text_file("a.tif", b"no TIFF file"),
    "a TIFF image with axes : expected rows": text_file("a.svs", b"II*\0\x08\0\0\0\0\0\0\0\0\0x"),
    "corrupted IFD structure": cut(as_geotiff, RGB),
    "a.btf: ": text_file("a.btf", b"II+\0\x08\0"),
    "Cannot read TIFF header": text_file("a.tif", b"II*\0"),
    "not an image": text_file("a.png", b"no PNG file"),
    "a.npy: not an .npy file with an array of numbers": text_file("a.npy", b"no array"),
    "b.npy: not an .npy file": text_file("b.npy", b""),
    "c.npy: expected an array of numbers, got dtype object": objects,
    "d.npy: truncated: expected 15317 bytes": truncated_npy,
    "a TIFF image with axes QQYX": video,
    "not empty, got shape \\(0, 5\\)": lambda _: np.zeros((0, 5), np.uint8),
    "not empty, got shape \\(5, 0, 3\\)": lambda _: np.zeros((5, 0, 3), np.uint8),
    "not empty, got shape \\(5,\\)": lambda _: np.zeros(5, np.uint8),
    "not empty, got shape \\(1, 5, 6, 3\\)": lambda _: np.zeros((1, 5, 6, 3), np.uint8),
    "1 to 4 channels, or bands=": lambda _: BANDS,
    "6 bands: choose red, green and blue with bands=": lambda folder: as_geotiff(folder, BANDS),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_is_no_image_is_refused_in_one_line(tmp_path: Path, message: str) -> None:
    with pytest.raises((ValueError, OSError), match=message) as error:
        open_source(REFUSED[message](tmp_path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "write", (each := {**PLAIN, **ZARR, "tiff": as_tiff, "geotiff": as_geotiff}).values(), ids=each
)
@pytest.mark.parametrize("bands", [(0, 1, 6), (0, 1, -1), (0, 1), "012"])
def test_bands_that_are_not_there_are_refused(tmp_path: Path, write: Write, bands: Any) -> None:
    with pytest.raises(ValueError, match=r"bands|channel 6"):
        open_source(write(tmp_path, BANDS), bands=bands)


def test_an_npy_file_that_is_truncated_while_it_is_read_gives_an_error(tmp_path: Path) -> None:
    """A memory map would end the process."""
    source = open_source(as_npy(tmp_path, RGB))
    os.truncate(tmp_path / "a.npy", 5000)
    assert source.read((0, 0, 83, 1)).shape == (1, 83, 3)
    with pytest.raises(ValueError, match=r"a\.npy: truncated while it was read"):
        source.read((0, 0, 83, 61))


CODECS = [
    {"compressor": {"id": "pickle"}},
    {"filters": [{"id": "shuffle"}, {"id": "pickle"}]},
    {"compressor": {"id": "pickle", "protocol": 5}, "dtype": "|O"},
    {"dtype": "|O"},
    {"dtype": [["a", "|O"]]},
]


@pytest.mark.parametrize("changes", CODECS, ids=str)
@pytest.mark.parametrize("where", [".zarray", ".zmetadata"])
def test_a_zarr_array_cannot_execute(tmp_path: Path, where: str, changes: dict[str, Any]) -> None:
    """numcodecs has a codec `pickle`, which executes what a chunk holds."""
    array = {"zarr_format": 2, "shape": [4, 4], "chunks": [4, 4], "dtype": "|u1", "compressor": None, "filters": None}
    array |= {"fill_value": 0, "order": "C", **changes}
    content = {"metadata": {"0/.zarray": array}, "zarr_consolidated_format": 1} if where == ".zmetadata" else array
    (tmp_path / where).write_text(json.dumps(content))
    (tmp_path / ".zgroup").write_text('{"zarr_format": 2}')
    (tmp_path / "0.0").write_bytes(pickle.dumps(Executes(str(tmp_path / "executed"))))
    with pytest.raises(ValueError, match=r"expected a codec for numbers, got 'pickle'|expected an array of numbers"):
        open_source(tmp_path).read((0, 0, 4, 4))
    assert not (tmp_path / "executed").exists()


class Executes:
    """An object whose pickle creates a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path(self.path),)


def test_metadata_of_zarr_3_are_checked(tmp_path: Path) -> None:
    array = {"zarr_format": 3, "node_type": "array", "data_type": "uint8", "codecs": [{"name": "numcodecs.pickle"}]}
    (tmp_path / "zarr.json").write_text(json.dumps(array))
    with pytest.raises(ValueError, match=r"expected a codec for numbers, got 'numcodecs\.pickle'"):
        open_source(tmp_path)
    (tmp_path / "zarr.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="damaged metadata"):
        open_source(tmp_path)


@pytest.mark.parametrize("name", ["scene.tif", "scene.img", "scene.jp2"])
def test_a_virtual_raster_under_another_name_is_refused(tmp_path: Path, name: str) -> None:
    secret = as_geotiff(tmp_path, RGB)
    text = '<VRTDataset rasterXSize="83" rasterYSize="61"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>'
    text += f"<SourceFilename>{secret}</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>"
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match="got a text that may name other files"):
        open_source(tmp_path / name)
    (tmp_path / "scene.vrt").write_text(text)
    assert open_source(tmp_path / "scene.vrt").size == (61, 83)


def test_what_is_no_image_at_all_is_refused() -> None:
    with pytest.raises(TypeError, match="image must be"):
        open_source(7)


MISSING = {
    "rasterio": ("mobilesam[geo]", as_geotiff, "raster"),
    "tifffile": ("mobilesam[tiff,zarr]", as_tiff, "tiff_pages"),
    "zarr": ("mobilesam[zarr]", as_zarr_folder, "zarr_array"),
}


@pytest.mark.parametrize("package", MISSING)
def test_a_missing_package_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    extra, write, module = MISSING[package]
    image = write(tmp_path, RGB)
    monkeypatch.delitem(sys.modules, f"mobilesam.tiles.{module}", raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError) as error:
        open_source(image)
    assert f"pip install '{extra}'" in str(error.value)
    assert error.value.name == package


def test_a_tile_of_a_tiff_file_counts_as_pixels(tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "a.tif", GRAY, tile=(1024, 1024), compression="zlib", metadata=None)
    check_windows(open_source(tmp_path / "a.tif"), GRAY)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500_000)  # the limit is twice this value
    with pytest.raises(ValueError, match=r"a\.tif: the file has 1 tile of 1024x1024 pixels, and the limit is 1000000"):
        open_source(tmp_path / "a.tif")
