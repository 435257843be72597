"""Embedding files: loaded embeddings give the same masks as saved ones, and unsuitable files raise errors."""

import json
import os
import re

import numpy as np
import processes
import pytest
import safetensors.numpy
from golden import PHOTOS
from PIL import Image

import mobilesam
from mobilesam import Embedding
from mobilesam.api import embedding_file
from mobilesam.architecture import ARCHITECTURES
from mobilesam.checkpoints.reader import convert
from mobilesam.images.canvas import to_encoder_input
from mobilesam.images.rgb_photo import Photo


@pytest.fixture(scope="module")
def saved(embedding, tmp_path_factory) -> bytes:
    """The bytes of an embedding file of the photo chelsea."""
    path = tmp_path_factory.mktemp("saved") / "chelsea.safetensors"
    embedding.save(path)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    return path.read_bytes()


def changed(saved: bytes, **metadata: str | None) -> bytes:
    """Return the bytes of the file `saved` with changed metadata. None removes an entry."""
    with_all = safe_metadata(saved) | metadata
    tensors = safetensors.numpy.load(saved)
    return safetensors.numpy.save(tensors, {key: value for key, value in with_all.items() if value is not None})


def safe_metadata(saved: bytes) -> dict[str, str]:
    size = int.from_bytes(saved[:8], "little")
    return json.loads(saved[8 : 8 + size])["__metadata__"]


def test_a_loaded_embedding_gives_the_same_answers(model, embedding, saved, tmp_path):
    (tmp_path / "file").write_bytes(saved)
    for path in (tmp_path / "file", str(tmp_path / "file")):
        loaded = Embedding.load(path, model)
        assert (loaded.original_size, loaded.input_size, loaded.model) == ((300, 451), (681, 1024), model)
        np.testing.assert_array_equal(loaded.features, embedding.features)
        assert not loaded.features.flags.writeable
    one, other = (e.segment([(220, 140)], box=(60, 20, 430, 290)) for e in (loaded, embedding))
    np.testing.assert_array_equal(one.low_res, other.low_res)
    np.testing.assert_array_equal(one.masks, other.masks)


def test_the_packaged_model_is_the_default(embedding, saved, tmp_path, monkeypatch):
    monkeypatch.setattr("mobilesam.api.model._packaged_model", lambda: embedding.model)
    (tmp_path / "file").write_bytes(saved)
    assert Embedding.load(tmp_path / "file").model is embedding.model


def test_metadata_names_the_checkpoint_and_precision(model, saved):
    assert safe_metadata(saved) == {
        "format": "mobilesam embedding",
        "format_version": "2",
        "architecture": "mobile_sam",
        "original_size": "300,451",
        "input_size": "681,1024",
        "name": "chelsea.png",
        "value_range": "dtype",
        "checkpoint_sha256": model.checkpoint.sha256,
        "precision": "fp32",
    }
    assert re.fullmatch("[0-9a-f]{64}", model.checkpoint.sha256)


def test_another_checkpoint_is_refused(model, saved, tmp_path):
    (tmp_path / "file").write_bytes(saved)
    convert(model.checkpoint.path, tmp_path / "other.safetensors", dtype="fp32")
    other = mobilesam.load(tmp_path / "other.safetensors")
    message = f"file: made with the checkpoint of SHA-256 '{model.checkpoint.sha256[:10]}"
    with pytest.raises(ValueError, match=f"{message}.*but the model's is '{other.checkpoint.sha256[:18]}'") as caught:
        Embedding.load(tmp_path / "file", other)
    assert "\n" not in str(caught.value)


REFUSED = {
    "not a saved embedding, or a damaged one": [
        lambda _: b"",
        lambda _: b"no safetensors at all",
        lambda saved: saved[:1000],
        lambda saved: saved[:-1],
        lambda _: PHOTOS["chelsea"].read_bytes(),
    ],
    "not a saved embedding": [
        lambda saved: changed(saved, format=None),
        lambda saved: safetensors.numpy.save({"other": np.zeros(3)}, safe_metadata(saved)),
    ],
    "format_version '3', expected 1 or 2": [lambda saved: changed(saved, format_version="3")],
    "architecture 'hq_sam' without HQ features, but the model is 'mobile_sam'": [
        lambda saved: changed(saved, architecture="hq_sam")
    ],
    "features are F16 (64, 64, 256), expected F32 (64, 64, 256)": [
        lambda saved: safetensors.numpy.save({"features": np.zeros((64, 64, 256), np.float16)}, safe_metadata(saved))
    ],
    "features are F32 (256, 64, 64)": [
        lambda saved: safetensors.numpy.save({"features": np.zeros((256, 64, 64), np.float32)}, safe_metadata(saved))
    ],
    "features are not finite": [
        lambda saved: safetensors.numpy.save(
            {"features": np.full((64, 64, 256), np.nan, np.float32)}, safe_metadata(saved)
        )
    ],
    "made in precision 'bf16', but the model's is 'fp32': encode the image again": [
        lambda saved: changed(saved, precision="bf16")
    ],
    "original_size is '0,451', expected 'h,w'": [lambda saved: changed(saved, original_size="0,451")],
    "original_size is None": [lambda saved: changed(saved, original_size=None)],
    "input_size is '681', expected 'h,w'": [lambda saved: changed(saved, input_size="681")],
    "input_size is (681, 1025), expected (681, 1024) for the original_size (300, 451)": [
        lambda saved: changed(saved, input_size="681,1025")
    ],
    "input_size is (681, 1024), expected (1024, 1024)": [lambda saved: changed(saved, original_size="451,451")],
    "input_size is (681, 1024), expected (1024, 681)": [lambda saved: changed(saved, original_size="451,300")],
    "the image has 40000x30000 pixels, more than": [
        lambda saved: changed(saved, original_size="30000,40000", input_size="768,1024")
    ],
    f"original_size is '{'9' * 29}, expected 'h,w'": [lambda saved: changed(saved, original_size="9" * 10**6)],
    "a damaged embedding: ": [lambda saved: changed(saved, value_range="9" * 10**6)],
}


@pytest.mark.parametrize("message", REFUSED)
def test_another_file_is_refused(model, saved, tmp_path, message):
    path = tmp_path / "file.safetensors"
    for spoil in REFUSED[message]:
        path.write_bytes(spoil(saved))
        with pytest.raises(ValueError, match=re.escape(message)) as caught:
            Embedding.load(path, model)
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)


def test_a_checkpoint_file_is_refused(model):
    with pytest.raises(ValueError, match="not a saved embedding"):
        Embedding.load(model.checkpoint.path, model)


def test_the_limit_of_pixels_is_that_of_photos(model, saved, tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(saved)
    for limit in (300 * 451 // 2, None):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        assert Embedding.load(tmp_path / "file", model).original_size == (300, 451)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300 * 451 // 2 - 1)
    with pytest.raises(ValueError, match="451x300 pixels, more than 135298, the limit; to allow it, raise"):
        Embedding.load(tmp_path / "file", model)


@pytest.mark.parametrize("size", [(300, 451), (451, 300), (1, 3000), (256, 256), (1023, 1)])
@pytest.mark.parametrize("kind", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_the_sizes_of_an_encoded_image_fit_each_other(saved, tmp_path, kind, size):
    """The sizes that `to_encoder_input` returns are accepted, for each architecture."""
    _, input_size = to_encoder_input(Photo(Image.new("RGB", size[::-1])), kind)
    arrays = {name: np.zeros(shape, np.float32) for name, shape in embedding_file.SHAPES.items()}
    features = embedding_file.Features(arrays["features"], arrays["hq_features"] if kind.hq else None)
    maker = embedding_file.Maker("0" * 64, "fp32", kind)
    embedding_file.write(tmp_path / "file", features, embedding_file.Source(size, input_size, "", "dtype"), maker)
    _, source = embedding_file.read(tmp_path / "file", maker)
    assert (source.original_size, source.input_size) == (size, input_size)


def test_a_file_that_is_truncated_while_it_is_read_is_refused(saved, tmp_path):
    """Truncating a memory-mapped file would kill the process, so the process is another one."""
    path = tmp_path / "file"
    path.write_bytes(saved)
    checksum = safe_metadata(saved)["checkpoint_sha256"]
    code = f"""
import os
from mobilesam.api import embedding_file
from mobilesam.architecture import MOBILE_SAM
read = embedding_file.parse_range
def cut(text):
    os.truncate({str(path)!r}, 10_000)
    return read(text)
embedding_file.parse_range = cut
try:
    embedding_file.read({str(path)!r}, embedding_file.Maker({checksum!r}, "fp32", MOBILE_SAM))
except ValueError as error:
    print(error)
"""
    assert processes.output(code) == f"{path}: changed since it was opened"


def test_missing_files_and_folders(model, embedding, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such embedding"):
        Embedding.load(tmp_path / "nowhere", model)
    with pytest.raises(FileNotFoundError, match="no such folder to write into"):
        embedding.save(tmp_path / "nowhere/file")
    with pytest.raises(IsADirectoryError, match="over a folder"):
        embedding.save(tmp_path)


def test_a_failing_write_leaves_the_old_file_and_nothing_else(embedding, tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"old")

    def full(*_: object) -> bytes:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(embedding_file.safetensors.numpy, "save", full)
    with pytest.raises(OSError, match="No space left"):
        embedding.save(tmp_path / "file")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_a_file_of_version_1_loads(model, embedding, saved, tmp_path):
    old = {"format_version": "1", "architecture": None}
    for also in ({}, {"name": None, "value_range": None}):  # the first files held neither
        (tmp_path / "file").write_bytes(changed(saved, **old, **also))
        loaded = Embedding.load(tmp_path / "file", model)
        np.testing.assert_array_equal(loaded.features, embedding.features)
        assert loaded.name == ("" if also else "chelsea.png")
        assert loaded.hq_features is None
