"""Embeddings in micro-sam's zarr layout: files that micro-sam wrote, files that `save` writes, and errors."""

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import related_models
import zarr
from golden import DATA, PHOTOS
from PIL import Image

import mobilesam
from mobilesam import architecture
from mobilesam.tiles.grid import Box

ZARR_2 = int(zarr.__version__.split(".")[0]) < 3
pytestmark = pytest.mark.skipif(ZARR_2, reason="micro-sam's files have zarr's format 3, which zarr 2 does not read")

with Image.open(PHOTOS["coffee"]) as photo:
    STRIP = np.asarray(photo.convert("RGB"))[150:200, :300]
NARROW = {"tile": (50, 100), "halo": (0, 25)}  # 3 tiles of the strip, which are quick to encode
# micro-sam's outer boxes of an image of (150, 130) with tiles of 64 and a halo of 16
OUTER: list[Box] = [
    (0, 0, 80, 80), (48, 0, 130, 80), (112, 0, 130, 80), (0, 48, 80, 144), (48, 48, 130, 144), (112, 48, 130, 144),
    (0, 112, 80, 150), (48, 112, 130, 150), (112, 112, 130, 150),
]  # fmt: skip


def pattern(number: int) -> np.ndarray:
    """The features (64, 64, 256) of the part with this number (data/README.md)."""
    y, x = np.mgrid[:64, :64]
    return np.repeat((x % 16 / 8 + 2 * (y // 32) + number).astype(np.float32)[..., None], 256, axis=2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder with micro-sam's files, which name the model vit_t here."""
    with zipfile.ZipFile(DATA / "micro_sam.zip") as file:
        file.extractall(tmp_path)
    for name in ("image", "tiled", "stack"):
        change(tmp_path / f"{name}.zarr", model_type="vit_t")
    return tmp_path


def change(folder: Path, **attributes: Any) -> None:
    """Change attributes of a group. None removes an attribute."""
    path = folder / "zarr.json"
    data = json.loads(path.read_text())
    data["attributes"] |= attributes
    data["attributes"] = {key: value for key, value in data["attributes"].items() if value is not None or key in NULL}
    path.write_text(json.dumps(data))


NULL = ("input_size", "original_size")  # null in the files themselves


def test_every_tile_of_micro_sam_is_read(model: mobilesam.MobileSAM, folder: Path) -> None:
    tiled = model.load_tiled(folder / "tiled.zarr", np.load(folder / "tiled.npy"))
    assert (tiled.grid.size, tiled.grid.tile, tiled.grid.halo) == ((150, 130), (64, 64), (16, 16))
    assert [tile.outer for tile in tiled.grid] == OUTER
    for number, (x0, y0, x1, y1) in enumerate(OUTER):
        embedding = tiled.tile(number)
        np.testing.assert_array_equal(embedding.features, pattern(number))
        about = json.loads((folder / "tiled.zarr" / "features" / str(number) / "zarr.json").read_text())["attributes"]
        assert list(embedding.original_size) == about["original_size"] == [y1 - y0, x1 - x0]
        assert list(embedding.input_size) == about["input_size"]
        assert not embedding.features.flags.writeable


def test_prompts_on_tiles_of_micro_sam(model: mobilesam.MobileSAM, folder: Path) -> None:
    """Without the image, a prompt in one tile is answered, and a prompt that spans tiles is not."""
    tiled = model.load_tiled(folder / "tiled.zarr")
    answer = tiled.segment([(129, 149)])
    expected = tiled.tile(8).segment([(17, 37)])
    np.testing.assert_array_equal(answer.tile.low_res, expected.low_res)
    assert (answer.offset, answer.mask.shape) == ((112, 112), (150, 130))
    with pytest.raises(ValueError, match="loaded without its image: load it with image="):
        tiled.segment(box=(60, 60, 70, 70))
    with pytest.raises(ValueError, match="loaded without its image"):
        tiled.save(folder / "new.zarr")
    assert not (folder / "new.zarr").exists()
    done: list[int] = []
    tiled.encode_all(lambda *now: done.append(1))
    assert done == []  # all tiles are in the file


def test_an_image_without_tiles_is_one_tile(model: mobilesam.MobileSAM, folder: Path) -> None:
    for image in (None, np.load(folder / "image.npy"), folder / "image.npy"):
        tiled = model.load_tiled(folder / "image.zarr", image)
        assert (len(tiled.grid), tiled.original_size, tiled.name) == (1, (60, 80), "image.zarr")
        np.testing.assert_array_equal(tiled.tile(0).features, pattern(0))
        assert tiled.tile(0).input_size == (768, 1024)


@pytest.mark.parametrize("z", [0, 1, 2])
def test_a_slice_of_a_stack(model: mobilesam.MobileSAM, folder: Path, z: int) -> None:
    for image in (None, np.load(folder / "stack.npy")[z]):
        tiled = model.load_tiled(folder / "stack.zarr", image, z=z)
        assert tiled.original_size == (60, 80)
        np.testing.assert_array_equal(tiled.tile(0).features, pattern(z))


def remove(name: str) -> Any:
    return lambda folder: shutil.rmtree(folder / name)


def replaced(name: str, *shape: int) -> Any:
    def replace(folder: Path) -> None:
        shutil.rmtree(folder / name)
        zarr.open(str(folder / name), mode="w", shape=shape, dtype="float32")[:] = 1

    return replace


def attribute(**attributes: Any) -> Any:
    return lambda folder: change(folder, **attributes)


def without_mark(folder: Path) -> None:
    data = json.loads((folder / "zarr.json").read_text())
    del data["attributes"]["input_size"]
    (folder / "zarr.json").write_text(json.dumps(data))


DAMAGE = {
    "not complete: micro-sam sets the attribute input_size last": ("tiled", without_mark),
    "tile 7 has no features": ("tiled", remove("features/7")),
    "tile 4 has no features": ("tiled", remove("features/4/c")),
    r"expected features of shape \(1, 256, 64, 64\), got \(1, 256, 32, 32\)": (
        "tiled",
        replaced("features/5", 1, 256, 32, 32),
    ),
    r"shape \(1, 256, 64, 64\), got \(256, 64, 64\)": ("image", replaced("features", 256, 64, 64)),
    r"shape \(1, 256, 64, 64\), got \(3, 1, 1, 256, 64, 64\)": ("stack", replaced("features", 3, 1, 1, 256, 64, 64)),
    "expected a zarr group with embeddings of micro-sam": ("tiled", remove("features")),
    "got 'vit_b'": ("tiled", attribute(model_type="vit_b")),
    "got None": ("tiled", attribute(model_type=None)),
    "no valid tiles: 'halo'": ("tiled", lambda folder: change(folder / "features", halo=None)),
    "no valid tiles: tile must be at least 1": (
        "tiled",
        lambda folder: change(folder / "features", tile_shape=[0, 0], halo=[0, 0]),
    ),
}


@pytest.mark.parametrize("message", DAMAGE)
def test_damaged_embeddings_are_refused(model: mobilesam.MobileSAM, folder: Path, message: str) -> None:
    name, damage = DAMAGE[message]
    z = 0 if name == "stack" else None
    path = folder / f"{name}.zarr"
    damage(path)
    with pytest.raises(ValueError, match=message) as error:
        tiled = model.load_tiled(path, z=z)
        for number in range(len(tiled.grid)):
            tiled.tile(number)
    assert str(error.value).startswith(f"{path}: ")


def test_micro_sams_other_models_are_refused(model: mobilesam.MobileSAM, tmp_path: Path) -> None:
    with zipfile.ZipFile(DATA / "micro_sam.zip") as file:
        file.extractall(tmp_path)
    with pytest.raises(
        ValueError, match="expected embeddings of the model type vit_t, which is MobileSAM, got 'vit_b'"
    ):
        model.load_tiled(tmp_path / "tiled.zarr")


@pytest.mark.parametrize(
    ("name", "z", "message"),
    [
        ("stack", None, "expected z from 0 to 2 for a stack, got z=None"),
        ("stack", 3, "expected z from 0 to 2 for a stack, got z=3"),
        ("stack", -1, "expected z from 0 to 2 for a stack, got z=-1"),
        ("tiled", 0, "expected no z for an image, got z=0"),
    ],
)
def test_a_slice_must_be_in_the_stack(
    model: mobilesam.MobileSAM, folder: Path, name: str, z: int | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        model.load_tiled(folder / f"{name}.zarr", z=z)


def test_another_image_is_refused(model: mobilesam.MobileSAM, folder: Path) -> None:
    image = np.load(folder / "tiled.npy")
    image[100, 100] ^= 1
    with pytest.raises(ValueError, match="another image: the checksums of the values differ"):
        model.load_tiled(folder / "tiled.zarr", image)
    with pytest.raises(ValueError, match=r"an image of size \(150, 130\), got \(130, 150\)"):
        model.load_tiled(folder / "tiled.zarr", image.T)
    with pytest.raises(ValueError, match="another image"):
        model.load_tiled(folder / "tiled.zarr", np.load(folder / "tiled.npy").astype(np.uint16))


def test_a_missing_folder_and_other_folders_are_refused(model: mobilesam.MobileSAM, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.zarr"):
        model.load_tiled(tmp_path / "gone.zarr")
    (tmp_path / "notes.txt").write_text("no zarr group")
    for path in (tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(ValueError, match="expected a zarr group with embeddings of micro-sam"):
            model.load_tiled(path)


@pytest.fixture(scope="module")
def saved(model: mobilesam.MobileSAM, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A strip of a photo in tiles, and the folder that `save` wrote."""
    path = tmp_path_factory.mktemp("saved") / "strip.zarr"
    tiled = model.encode_tiled(STRIP, **NARROW)
    tiled.save(path)
    return tiled, path


@pytest.mark.parametrize("image", [STRIP, None], ids=["with the image", "without"])
def test_saved_embeddings_are_the_same_bits(model: mobilesam.MobileSAM, saved: tuple[Any, Path], image: Any) -> None:
    tiled, path = saved
    loaded = model.load_tiled(path, image)
    assert [tile.outer for tile in loaded.grid] == [tile.outer for tile in tiled.grid]
    for number, point in enumerate([(50, 25), (150, 10), (270, 40)]):
        some, others = loaded.tile(number), tiled.tile(number)
        np.testing.assert_array_equal(some.features, others.features)
        assert (some.original_size, some.input_size) == (others.original_size, others.input_size)
        assert loaded.segment([point]).rle == tiled.segment([point]).rle
    if image is not None:
        box = (90, 5, 120, 45)
        assert loaded.segment(box=box).rle == tiled.segment(box=box).rle


def kinds(attributes: dict[str, Any]) -> dict[str, Any]:
    """The type of each attribute, and of the items of lists."""
    return {
        key: [type(item) for item in value] if isinstance(value, list) else type(value)
        for key, value in attributes.items()
    }


def test_saved_attributes_are_micro_sams(folder: Path, saved: tuple[Any, Path]) -> None:
    theirs, ours = zarr.open(str(folder / "tiled.zarr"), mode="r"), zarr.open(str(saved[1]), mode="r")
    for name in ("", "features", "features/0"):
        some, others = (dict(root[name].attrs) if name else dict(root.attrs) for root in (ours, theirs))
        assert kinds(some) == kinds(others)
    array, expected = ours["features/0"], theirs["features/0"]
    assert (array.shape, array.chunks, array.dtype) == (expected.shape, expected.chunks, expected.dtype)
    assert sorted(ours["features"]) == ["0", "1", "2"]
    assert ours.attrs["model_name"] == ours.attrs["model_type"] == "vit_t"
    assert dict(ours["features"].attrs) == {"shape": [50, 300], "tile_shape": [50, 100], "halo": [0, 25]}
    assert dict(ours["features/1"].attrs) == {"original_size": [50, 150], "input_size": [341, 1024]}


def test_the_signature_is_micro_sams(model: mobilesam.MobileSAM, folder: Path, monkeypatch: Any) -> None:
    """Of the image's values, however many rows are read at a time."""
    from mobilesam.tiles import micro_sam
    from mobilesam.tiles.source import ArraySource

    image = np.load(folder / "tiled.npy")
    expected = zarr.open(str(folder / "tiled.zarr"), mode="r").attrs["data_signature"]
    for rows in (1, 64, 1024):
        monkeypatch.setattr(micro_sam, "ROWS", rows)
        assert micro_sam.signature(ArraySource(image)) == expected
        assert micro_sam.signature(ArraySource(np.asfortranarray(image))) == expected


def test_an_existing_folder_is_kept(model: mobilesam.MobileSAM, saved: tuple[Any, Path]) -> None:
    before = sorted(saved[1].rglob("*"))
    new = model.encode_tiled(STRIP, **NARROW)
    new._encode = None  # nothing is encoded before the error
    with pytest.raises(FileExistsError) as error:
        new.save(saved[1])
    assert error.value.filename == str(saved[1])
    assert sorted(saved[1].rglob("*")) == before


def test_a_failure_leaves_nothing(saved: tuple[Any, Path], tmp_path: Path, monkeypatch: Any) -> None:
    tiled, _ = saved
    tile = tiled.tile
    numbers: list[int] = []

    def failing(number: int) -> mobilesam.Embedding:
        numbers.append(number)
        if number == 1:
            assert len(list(tmp_path.iterdir())) == 1  # the partial folder
            raise OSError("no space left on device")
        return tile(number)

    monkeypatch.setattr(tiled, "tile", failing)
    with pytest.raises(OSError, match="no space left"):
        tiled.save(tmp_path / "new.zarr")
    assert numbers == [0, 1]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", [architecture.LITE_MEDSAM, architecture.HQ_SAM], ids=lambda kind: kind.name)
def test_other_architectures_are_refused(
    saved: tuple[Any, Path], tmp_path: Path, kind: architecture.Architecture
) -> None:
    other = mobilesam.load(related_models.write(tmp_path / "other.safetensors", kind))
    message = f"micro-sam has no model with the architecture {kind.name}"
    with pytest.raises(ValueError, match=message):
        other.encode_tiled(STRIP, **NARROW).save(tmp_path / "new.zarr")
    with pytest.raises(ValueError, match=message):
        other.load_tiled(saved[1])
    assert not (tmp_path / "new.zarr").exists()
