"""Opening, validating and writing fused checkpoints, and the packaged checkpoint."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from checkpoint_files import (
    A_CONV,
    A_NORM,
    EXPECTED,
    TWELVE,
    Tensors,
    assert_same,
    fused_tensors,
    one_line,
    unfused_tensors,
    write_torch,
)
from safetensors.numpy import save_file

import mobilesam
from mobilesam import architecture, weights
from mobilesam.checkpoints import reader
from mobilesam.checkpoints.errors import CheckpointError
from mobilesam.checkpoints.fused import open_checkpoint


@pytest.fixture(scope="module")
def fused() -> Tensors:
    return fused_tensors()


@pytest.fixture(scope="module")
def unfused() -> Tensors:
    return unfused_tensors()


def write_fused(path: Path, tensors: Tensors, metadata: Mapping[str, str] | None = None) -> Path:
    save_file(tensors, path, metadata and dict(metadata))
    return path


TABLES = r"(point_embeddings\.\d|not_a_point_embed|no_mask_embed|iou_token|mask_tokens)\.weight"


def test_fp16_rule(tmp_path: Path, fused: Tensors) -> None:
    source = write_fused(tmp_path / "source.safetensors", fused)
    written = reader.convert(source, tmp_path / "out.safetensors")
    for name, values in fused.items():
        layer = name.endswith(".weight") and values.ndim > 1 and not re.search(TABLES, name)
        assert written[name].dtype == (np.float16 if layer else np.float32), name
        np.testing.assert_array_equal(written[name], values.astype(written[name].dtype), err_msg=name)


def test_fp32_keeps_everything(tmp_path: Path, fused: Tensors) -> None:
    source = write_fused(tmp_path / "source.safetensors", fused)
    written = reader.convert(source, tmp_path / "out.safetensors", dtype="fp32")
    assert {values.dtype for values in written.values()} == {np.dtype(np.float32)}
    assert_same(written, fused)
    assert_same(reader.read(tmp_path / "out.safetensors"), fused)


def test_float64_is_rounded(tmp_path: Path, fused: Tensors) -> None:
    wide = fused[A_NORM].astype(np.float64) + 2**-30
    path = write_fused(tmp_path / "a.safetensors", fused | {A_NORM: wide})
    np.testing.assert_array_equal(reader.read(path)[A_NORM], wide.astype(np.float32))
    with pytest.raises(CheckpointError, match=rf"{A_NORM} is F64, expected F16 or F32; convert it first"):
        open_checkpoint(path)


def test_bfloat16_is_read_exactly(tmp_path: Path, fused: Tensors) -> None:
    bits = (fused[A_NORM].view(np.uint32) >> 16).astype(np.uint16)
    path = write_fused(tmp_path / "a.safetensors", fused | {A_NORM: bits.view(np.float16)}, {"k": "long"})
    path.write_bytes(path.read_bytes().replace(b"long", b"lon", 1).replace(b'"F16"', b'"BF16"', 1))
    read = reader.read(path)
    np.testing.assert_array_equal(read[A_NORM], (bits.astype(np.uint32) << 16).view(np.float32))
    path.write_bytes(path.read_bytes().replace(b'"BF16"', b'"I16" ', 1))
    with pytest.raises(CheckpointError, match=rf"'{A_NORM}' is I16, expected F16, BF16, F32 or F64"):
        reader.read(path)


def test_names_with_a_prefix_and_shards_are_read(
    tmp_path: Path, fused: Tensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    named = {f"module.{name}": values for name, values in fused.items()}
    assert_same(reader.read(write_fused(tmp_path / "a.safetensors", named)), fused)
    files = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    places = {name: files[i % 3] for i, name in enumerate(named)}
    for file in files:
        write_fused(tmp_path / file, {name: named[name] for name, place in places.items() if place == file})
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    assert_same(reader.read(index), fused)
    for damaged, message in (
        ("{", "not an index of safetensors files"),
        ('{"weight_map": [1]}', "not an index of safetensors files"),
        ('{"weight_map": {"x": "../a.safetensors"}}', "expected files in the folder of the index"),
        (json.dumps({"weight_map": {"x": files[0]}}), "'x' is not in model-00001"),
    ):
        index.write_text(damaged)
        with pytest.raises(CheckpointError, match=message):
            reader.read(index)
    with monkeypatch.context() as on_windows:
        on_windows.setattr(sys, "platform", "win32")
        index.write_text('{"weight_map": {"x": "CON.safetensors"}}')  # reading the console would wait for the user
        with pytest.raises(CheckpointError, match="expected files in the folder of the index"):
            reader.read(index)
    index.write_text('{"weight_map": {"x": "gone.safetensors"}}')
    with pytest.raises(FileNotFoundError, match="gone"):
        reader.read(index)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x89PNG\r\n\x1a\n" + b"\0" * 100,
        b"\xf4\1\0\0\0\0\0\0{}",
        b"\2\0\0\0\0\0\0\0{]",
        b'\x3b\0\0\0\0\0\0\0{"x":{"dtype":"\\n\\u001b","shape":[1],"data_offsets":[0,4]}}',
    ],
)
def test_malformed_safetensors_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="not a safetensors file, or a damaged one: ") as caught:
        open_checkpoint(path)
    assert one_line(caught.value).startswith(str(path)) and str(caught.value).isprintable()


def test_truncated_checkpoint_is_refused(tmp_path: Path) -> None:
    content = weights.default_path().read_bytes()
    for size in (7, 1000, len(content) - 1):
        (tmp_path / "a.safetensors").write_bytes(content[:size])
        with pytest.raises(CheckpointError, match="damaged"):
            open_checkpoint(tmp_path / "a.safetensors")


def test_names_and_shapes_are_checked_and_listed(tmp_path: Path, fused: Tensors) -> None:
    tensors = fused | {f"extra.{index}": TWELVE for index in range(9)}
    tensors[A_NORM] = TWELVE
    del tensors[A_CONV]
    path = write_fused(tmp_path / "a.safetensors", tensors)
    for read in (open_checkpoint, reader.read):
        with pytest.raises(CheckpointError) as caught:
            read(path)
        message = one_line(caught.value)
        assert f"1 missing ({A_CONV})" in message
        unexpected = "9 unexpected ('extra.0', 'extra.1', 'extra.2', 'extra.3', and 5 more)"
        assert (unexpected in message) == (read is open_checkpoint)  # the reader warns of extra tensors
        assert f"1 of another shape ({A_NORM} is (12,), expected (256,))" in message


def test_batch_norm_must_be_complete(tmp_path: Path, unfused: Tensors) -> None:
    tensors = dict(unfused)
    name = A_CONV.replace("c.weight", "bn.running_var")
    del tensors[name]
    with pytest.raises(CheckpointError, match=re.escape(f"1 missing ({name})")):
        reader.read(write_torch(tmp_path / "a.pt", tensors))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(tmp_path: Path, fused: Tensors, value: float) -> None:
    bad = fused[A_NORM].copy()
    bad[3] = value
    source = write_fused(tmp_path / "a.safetensors", fused | {A_NORM: bad})
    with pytest.raises(CheckpointError, match=rf"NaN or infinite values, as fp32, in {A_NORM}"):
        reader.convert(source, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_negative_variance_is_refused(tmp_path: Path, unfused: Tensors) -> None:
    name = A_CONV.replace("c.weight", "bn.running_var")
    path = write_torch(tmp_path / "a.pt", unfused | {name: -np.ones(32, np.float32)})
    with pytest.raises(CheckpointError, match=rf"NaN or infinite values, as fp32, in {A_CONV}"):
        reader.read(path)


def test_overflow_of_float16_is_refused(tmp_path: Path, fused: Tensors) -> None:
    source = write_fused(tmp_path / "a.safetensors", fused | {A_CONV: np.full_like(fused[A_CONV], 7e4)})
    with pytest.raises(CheckpointError, match=rf"as fp16, in {A_CONV}"):
        reader.convert(source, tmp_path / "out.safetensors")
    reader.convert(source, tmp_path / "out.safetensors", dtype="fp32")


def test_integer_weights_are_refused(tmp_path: Path, fused: Tensors) -> None:
    path = write_torch(tmp_path / "a.pt", fused | {A_NORM: np.ones(256, np.int64)})
    with pytest.raises(CheckpointError, match=f"not floating point: {A_NORM}"):
        reader.read(path)


def test_unconverted_files_are_refused_with_the_command(tmp_path: Path, unfused: Tensors) -> None:
    path = write_torch(tmp_path / "mobile_sam.pt", unfused)
    with pytest.raises(CheckpointError, match=r"mobilesam convert .*mobile_sam\.pt --output"):
        open_checkpoint(path)
    tensors = {name: values for name, values in unfused.items() if values.dtype == np.float32}
    path = write_fused(tmp_path / "a.safetensors", tensors)
    with pytest.raises(CheckpointError, match="BatchNorms are not fused; convert it first"):
        open_checkpoint(path)


def test_unknown_format_version_is_refused(tmp_path: Path, fused: Tensors) -> None:
    path = write_fused(tmp_path / "a.safetensors", fused, {"format_version": "2"})
    with pytest.raises(CheckpointError, match="format_version '2', expected '1'"):
        open_checkpoint(path)


def test_missing_files(tmp_path: Path) -> None:
    nothing = tmp_path / "nothing.safetensors"
    for use in (
        lambda: open_checkpoint(nothing),
        lambda: reader.read(nothing),
        lambda: reader.convert(nothing, tmp_path / "out.safetensors"),
    ):
        with pytest.raises(FileNotFoundError, match=r"no such checkpoint: .*nothing\.safetensors"):
            use()
    with pytest.raises(FileNotFoundError, match="no such folder"):
        reader.convert(weights.default_path(), tmp_path / "absent" / "out.safetensors")
    with pytest.raises(IsADirectoryError, match="over a folder"):
        reader.convert(weights.default_path(), tmp_path)
    with pytest.raises(CheckpointError, match="no file: expected"):
        reader.convert([], tmp_path / "out.safetensors")
    with pytest.raises(ValueError, match="dtype must be 'fp16' or 'fp32', not 'int8'"):
        reader.convert(weights.default_path(), tmp_path / "out.safetensors", dtype="int8")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_broken_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"old")

    def fail(self: Path, target: Path) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        reader.convert(weights.default_path(), path)
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == b"old"


def test_default_checkpoint_is_complete_and_finite(tmp_path: Path) -> None:
    opened = open_checkpoint()
    assert opened.path == weights.default_path()
    assert opened.shapes() == {name: EXPECTED[name] for name in opened}
    assert opened.metadata["dtype"] == "fp16"
    halves = {name for name, values in opened.items() if values.dtype == np.float16}
    assert halves == {name for name, spec in architecture.tensor_specs().items() if spec.is_matrix}
    again = reader.convert(weights.default_path(), tmp_path / "again.safetensors")  # raises an error for NaN
    assert_same(again, opened)


def test_threads_share_a_checkpoint() -> None:
    opened = open_checkpoint()
    expected = dict(opened)
    with ThreadPoolExecutor(8) as pool:
        for tensors in pool.map(dict, [opened] * 8):
            assert_same(tensors, expected)


def test_a_loaded_model_does_not_need_its_file(tmp_path: Path) -> None:
    """A model computes some constants at their first use, but does not read the checkpoint file for them."""
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(weights.default_path().read_bytes())
    model = mobilesam.load(copy)
    maps = Path("/proc/self/maps")
    assert not maps.exists() or str(copy) not in maps.read_text()
    checkpoint_file = model.checkpoint
    copy.write_bytes(b"another")
    with pytest.raises(CheckpointError, match=r"copy\.safetensors: changed since it was opened"):
        checkpoint_file[next(iter(checkpoint_file))]
    copy.unlink()
    with pytest.raises(FileNotFoundError, match=r"no such checkpoint: .*copy\.safetensors"):
        checkpoint_file[next(iter(checkpoint_file))]
    embedding = mobilesam.Embedding(np.zeros((64, 64, 256), np.float32), (64, 64), (1024, 1024), model)
    expected = mobilesam.Embedding(embedding.features, (64, 64), (1024, 1024), mobilesam.load())
    prompts = [{"points": [(20, 30)]}, {"box": (1, 2, 30, 40)}]
    for got, same in zip(embedding.segment_many(prompts), expected.segment_many(prompts), strict=True):
        np.testing.assert_array_equal(got.low_res, same.low_res)


def test_an_unknown_name_is_a_key_error() -> None:
    opened = open_checkpoint()
    assert A_NORM in opened and "nothing" not in opened
    with pytest.raises(KeyError, match="nothing"):
        opened["nothing"]


def test_checksums_in_the_readme() -> None:
    readme = weights.default_path().with_name("README.md").read_text(encoding="utf-8")
    sums = dict(reversed(line.split("  ")) for line in re.findall(r"^[0-9a-f]{64}  \S+$", readme, re.MULTILINE))
    assert sums.pop("mobilesam.safetensors") == hashlib.sha256(weights.default_path().read_bytes()).hexdigest()
    metadata = open_checkpoint().metadata
    names, hashes = metadata["source"].split(", "), metadata["source_sha256"].split(", ")
    assert sums == dict(zip(names, hashes))


def test_attention_bias_index_is_the_order_of_first_appearance() -> None:
    for window in (1, 7, 14):
        points = [(y, x) for y in range(window) for x in range(window)]
        order: dict[tuple[int, int], int] = {}
        index = [[order.setdefault((abs(a - c), abs(b - d)), len(order)) for c, d in points] for a, b in points]
        np.testing.assert_array_equal(architecture.attention_bias_index(window), index)
