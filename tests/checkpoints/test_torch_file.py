"""Reads `.pt` files without PyTorch, at any depth, in both formats, and without executing code from the files."""

from __future__ import annotations

import pickle
import re
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_files import (
    A_CONV,
    A_NORM,
    EXPECTED,
    TWELVE,
    Call,
    Global,
    Storage,
    Tensors,
    assert_same,
    dump,
    fused_tensors,
    one_line,
    rebuild,
    unfused_tensors,
    write_legacy,
    write_tiny,
    write_torch,
    write_zip,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from mobilesam.checkpoints import reader
from mobilesam.checkpoints.errors import CheckpointError
from mobilesam.checkpoints.torch_file import FEW_OPCODES, read_torch


@pytest.fixture(scope="module")
def fused() -> Tensors:
    return fused_tensors()


@pytest.fixture(scope="module")
def unfused() -> Tensors:
    return unfused_tensors()


def only(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a file with one mapping of tensors."""
    (mapping,) = read_torch(path)
    return dict(mapping)


def test_state_dict_is_read_and_batch_norm_fused(tmp_path: Path, unfused: Tensors) -> None:
    tensors = reader.read(write_torch(tmp_path / "mobile_sam.pt", unfused))
    assert {name: values.shape for name, values in tensors.items()} == EXPECTED
    assert all(values.dtype == np.float32 for values in tensors.values())
    np.testing.assert_array_equal(tensors[A_NORM], unfused[A_NORM])

    # The fused weight w' and bias b' are defined by BatchNorm(w @ x) = w' @ x + b'.
    # The stored w' and b' are float32, so they have a relative rounding error of 2^-24.
    root = A_CONV.removesuffix("c.weight")
    w = unfused[A_CONV].reshape(32, -1).astype(np.float64)
    gamma, beta, mean, var = (
        unfused[f"{root}bn.{part}"].astype(np.float64) for part in ("weight", "bias", "running_mean", "running_var")
    )
    x = np.random.default_rng(1).standard_normal(w.shape[1])
    expected = (w @ x - mean) / np.sqrt(var + 1e-5) * gamma + beta
    w_fused, b_fused = tensors[A_CONV].reshape(32, -1).astype(np.float64), tensors[f"{root}c.bias"]
    bound = 2**-24 * (np.abs(w_fused) @ np.abs(x) + np.abs(b_fused))
    assert (np.abs(w_fused @ x + b_fused - expected) <= 1.01 * bound).all()


CANARY = Call(Global("os", "system"), "touch executed")
LOSS = Call(
    Global("numpy.core.multiarray", "scalar"), Call(Global("numpy", "dtype"), "f8", False, True), b"\0\0\0\0\0\0\xf0?"
)
OPTIMIZER = {"state": {0: {"step": 3, "exp_avg": [0.5]}}, "param_groups": [{}]}
BESIDE = {"optimizer": OPTIMIZER, "epoch": 3, "best_loss": LOSS, "args": Call(Global("argparse", "Namespace"), "a")}
WRAPPINGS: dict[str, tuple[str, Any]] = {  # the prefix of the names, and what is around the state dict
    "plain": ("", lambda state: state),
    "model": ("", lambda state: {**BESIDE, "model": state}),
    "state_dict": ("", lambda state: {"state_dict": state, **BESIDE}),
    "model_state, sam.": ("sam.", lambda state: {"model_state": state, "decoder_state": {}, **BESIDE}),
    "net": ("", lambda state: {"net": state}),
    "ema, deep": ("", lambda state: {"training": {"best": [1, (2, {"ema": state})]}}),
    "module.": ("module.", lambda state: {"model": state, **BESIDE}),
    "_orig_mod.": ("_orig_mod.", lambda state: state),
    "module._orig_mod.": ("module._orig_mod.", lambda state: {"state_dict": state}),
    "model.module.sam.": ("model.module.sam.", lambda state: state),
    "OrderedDict": ("", lambda state: Call(Global("collections", "OrderedDict"), [[*pair] for pair in state.items()])),
    "in an object": ("", lambda state: {"trainer": Call(Global("lightning", "Trainer"), state)}),
    "a canary beside": ("", lambda state: {"canary": CANARY, "model": state}),
    "a canary in the mapping": ("", lambda state: {"model": {"canary": CANARY, **state}}),
}
DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": "bfloat16", "float64": np.float64}


def to_bfloat16(values: np.ndarray) -> np.ndarray:
    """The values rounded to bfloat16, as float32."""
    bits = values.astype(np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16 << 16).astype(np.uint32).view(np.float32)


@pytest.fixture(scope="module")
def small_expected() -> dict[str, tuple[int, ...]]:
    """A few of MobileSAM's tensors, for tests of many files."""
    wanted = ("image_encoder.neck.", "prompt_encoder.no_mask", "mask_decoder.iou_token", "image_encoder.patch_embed.")
    return {name: shape for name, shape in EXPECTED.items() if name.startswith(wanted)}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_checkpoint_in_any_wrapping(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_expected, wrapping: str, legacy: bool, dtype: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("mobilesam.architecture.expected_tensors", lambda *_: small_expected)
    monkeypatch.setattr("mobilesam.checkpoints.state_dict.expected_tensors", lambda *_: small_expected)
    rng = np.random.default_rng(5)
    tensors = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in small_expected.items()}
    prefix, wrap = WRAPPINGS[wrapping]
    named = {prefix + name: values for name, values in tensors.items()}
    write = write_legacy if legacy else write_torch
    read = reader.read(write(tmp_path / "a.pt", named, wrap, dtype=dtype))
    expected = {
        name: to_bfloat16(values) if dtype == "bfloat16" else values.astype(DTYPES[dtype]).astype(np.float32)
        for name, values in tensors.items()
    }
    assert_same(read, expected)
    assert not Path("executed").exists()


def test_extra_tensors_are_listed_in_a_warning(tmp_path: Path, fused: Tensors) -> None:
    more = {**fused, "mask_decoder.new_token.weight": np.ones((1, 256), np.float32)}
    with pytest.warns(UserWarning, match=r"1 tensors are not used: 'mask_decoder.new_token.weight'"):
        assert_same(reader.read(write_torch(tmp_path / "a.pt", more)), fused)


OTHER_MODELS = {
    "SAM ViT-B": {"image_encoder.blocks.0.attn.proj.weight": (768, 1)},
    "SAM ViT-L": {"module.image_encoder.blocks.0.attn.proj.weight": (1024, 1)},
    "SAM ViT-H": {"sam.image_encoder.blocks.0.attn.proj.weight": (1280, 1)},
    "SAM 2": {"image_encoder.trunk.blocks.0.norm1.weight": (1,)},
    "a TinyViT encoder alone": {"layers.0.blocks.0.conv1.c.weight": (1,)},
    "a YOLO model, such as FastSAM": {"model.0.conv.weight": (1,)},
    "another model, with tensors such as 'fc.weight'": {"fc.weight": (1,)},
}


@pytest.mark.parametrize("model", OTHER_MODELS)
def test_another_model_is_named(tmp_path: Path, model: str) -> None:
    tensors = {name: np.zeros(shape, np.float32) for name, shape in OTHER_MODELS[model].items()}
    with pytest.raises(CheckpointError, match=re.escape(f"not a MobileSAM checkpoint: it looks like {model}")):
        reader.read(write_torch(tmp_path / "a.pt", tensors))


def test_missing_tensors_are_named(tmp_path: Path, fused: Tensors) -> None:
    few = {name: values for name, values in fused.items() if not name.startswith("mask_decoder.transformer.")}
    with pytest.raises(CheckpointError, match=r"missing \(mask_decoder\.transformer\.layers\.0") as caught:
        reader.read(write_torch(tmp_path / "a.pt", few))
    one_line(caught.value)


def test_strides_and_offset_are_respected(tmp_path: Path) -> None:
    storage = Storage("0", TWELVE)
    state = {
        "transposed": rebuild(storage, 0, (4, 3), (1, 4)),
        "column": rebuild(storage, 1, (3,), (4,)),
        "scalar": rebuild(storage, 11, (), ()),
        "empty": rebuild(storage, 0, (0, 4), (4, 1)),
        "parameter": Call(Global("torch._utils", "_rebuild_parameter"), rebuild(storage, 0, (2,), (1,)), True, None),
    }
    tensors = only(write_tiny(tmp_path / "a.pt", state))
    grid = TWELVE.reshape(3, 4)
    assert_same(
        tensors,
        {
            "transposed": grid.T,
            "column": grid[:, 1],
            "scalar": np.array(11.0),
            "empty": np.empty((0, 4)),
            "parameter": TWELVE[:2],
        },
    )
    with pytest.raises(ValueError, match="read-only"):
        tensors["column"][0] = 1


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (0, (13,), (1,)),
        (1, (12,), (1,)),
        (0, (3, 4), (5, 1)),
        (13, (), ()),
        (0, (10**9,), (0,)),
        (2**61, (2,), (1,)),
        (0, (2**40, 2**40), (1, 1)),
    ],
)
def test_a_tensor_outside_its_storage_is_refused(tmp_path: Path, offset: Any, size: Any, stride: Any) -> None:
    path = write_tiny(tmp_path / "a.pt", {"x": rebuild(Storage("0", TWELVE), offset, size, stride)})
    with pytest.raises(CheckpointError, match="out of the bounds of its 12 elements") as caught:
        only(path)
    one_line(caught.value)


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (-1, (2,), (1,)),
        (0, (2,), (-1,)),
        (0, (-1,), (1,)),
        (0, (2, 2), (1,)),
        (0, (2,), (2**70,)),
        (0.5, (2,), (1,)),
        ("0", (2,), (1,)),
        (True, (2,), (1,)),
        (0, (2,), None),
    ],
)
def test_a_tensor_of_an_impossible_layout_is_no_tensor(tmp_path: Path, offset: Any, size: Any, stride: Any) -> None:
    assert read_torch(write_tiny(tmp_path / "a.pt", {"x": rebuild(Storage("0", TWELVE), offset, size, stride)})) == []


@pytest.mark.parametrize(
    ("storage", "problem"),
    [
        (Storage("1", TWELVE), "no storage '1'"),
        (Storage("../data.pkl", TWELVE), "no storage"),
        (Storage("0", TWELVE, count=13), "48 bytes, not 52"),
        (Storage("0", TWELVE, kind="LongStorage"), "48 bytes, not 96"),
        (Storage("0", TWELVE, kind="QInt8Storage"), "'x' has a storage of an unknown kind"),
    ],
)
def test_a_wrong_storage_is_refused(tmp_path: Path, storage: Storage, problem: str) -> None:
    (mapping,) = read_torch(write_tiny(tmp_path / "a.pt", {"x": rebuild(storage, 0, (2,), (1,))}))
    assert mapping.shapes() == {"x": (2,)}
    with pytest.raises(CheckpointError, match=problem):
        mapping["x"]


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (Path("executed"), "touch")


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_nothing_in_a_pickle_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int) -> None:
    monkeypatch.chdir(tmp_path)
    evil = {
        "x": Evil(),
        "y": OrderedDict(a=Evil()),
        "z": [Evil(), {Evil()}, frozenset([Evil()]), Path("a"), re.compile("a")],
    }
    assert read_torch(write_zip(tmp_path / "a.pt", pickle.dumps(evil, protocol), {})) == []
    with pytest.raises(CheckpointError, match="holds no mapping from names to tensors"):
        reader.read(tmp_path / "a.pt")
    assert not Path("executed").exists()


def nested(depth: int) -> bytes:
    """A pickle with a deeply nested tuple as a dict's key. Its hash overflows the C stack."""
    return b"\x80\x02}(" + b"N" + b"\x85" * depth + b"K\x01u."


HOSTILE = {
    "a nested key": nested(200_000),
    "nested lists": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "a list in itself": b"\x80\x02]q\x00h\x00a.",
    "doubling": b"\x80\x02N" + b"2" * 60 + b".",
    "doubling by memo": b"\x80\x02)q\x00" + b"h\x00h\x00\x86q\x00" * 60 + b".",
    "too many opcodes": b"\x80\x02" + b"N0" * (FEW_OPCODES // 2 + 9) + b"N.",
    "a method of OrderedDict": b"\x80\x02ccollections\nOrderedDict\n)R}X\x05\x00\x00\x00itemsK\x01sb.",
    "a large memo index": b"\x80\x02}r\xff\xff\xff\x7f.",
    "a large text": b"\x80\x02X\xff\xff\xff\x7fabc.",
    "a missing memo entry": b"\x80\x02h\x07.",
    "marks alone": b"\x80\x02(((.",
    "an empty stack": b"\x80\x02\x86.",
    "an odd number of items": b"\x80\x02}(X\x01\x00\x00\x00au.",
    "no end": b"\x80\x02}",
    "nothing": b"",
    "protocol 0": b"(dp0\nS'a'\np1\nI1\ns.",
}


@pytest.mark.parametrize("what", HOSTILE)
@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_hostile_pickle_ends_soon_in_one_line(tmp_path: Path, what: str, legacy: bool) -> None:
    path = tmp_path / "a.pt"
    if legacy:
        path.write_bytes(write_legacy(path, {}).read_bytes().replace(dump({}), HOSTILE[what]))
    else:
        write_zip(path, HOSTILE[what], {})
    with pytest.raises(CheckpointError) as caught:
        reader.read(path)
    one_line(caught.value)


def test_compressed_record_is_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.pt", dump({}), {}, zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match=r"record '[\w.]+' is compressed"):
        read_torch(path)


def test_overlapping_records_are_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.pt", dump({}), {"0": TWELVE.tobytes(), "1": TWELVE.tobytes()})
    data = bytearray(path.read_bytes())
    last = data.rindex(b"PK\x01\x02")
    data[last + 42 : last + 46] = data[data.rindex(b"PK\x01\x02", 0, last) + 42 :][:4]  # the place of the record before
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match="records overlap"):
        read_torch(path)


def test_a_cut_legacy_file_is_refused(tmp_path: Path) -> None:
    data = write_legacy(tmp_path / "a.pt", {"x": TWELVE}).read_bytes()
    assert_same(only(tmp_path / "a.pt"), {"x": TWELVE})
    for kept in (20, len(data) // 2, len(data) - 1):
        (tmp_path / "a.pt").write_bytes(data[:kept])
        with pytest.raises(CheckpointError):
            only(tmp_path / "a.pt")


def test_a_legacy_count_of_elements_is_not_trusted(tmp_path: Path) -> None:
    data = write_legacy(tmp_path / "a.pt", {"x": TWELVE}).read_bytes()
    (tmp_path / "a.pt").write_bytes(data.replace(struct.pack("<q", 12), struct.pack("<q", 1 << 60)))
    with pytest.raises(CheckpointError, match="bytes, not"):
        only(tmp_path / "a.pt")


def test_other_zip_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("word/document.xml", "<xml/>")
    with pytest.raises(CheckpointError, match="not a PyTorch checkpoint"):
        reader.read(tmp_path / "a.pt")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_raises_only_checkpoint_errors(tmp_path: Path, data: st.DataObject) -> None:
    state = {
        "a": rebuild(Storage("0", TWELVE), 0, (3, 4), (4, 1)),
        "b": rebuild(Storage("0", TWELVE), 2, (2,), (1,)),
    }
    torch_file = write_tiny(tmp_path / "a.pt", state).read_bytes()
    legacy_file = write_legacy(tmp_path / "a.pt", {"a": TWELVE}).read_bytes()
    tensor_file = save({"a": TWELVE, "b": TWELVE.astype(np.float16)}, {"k": "v"})
    content = data.draw(st.sampled_from([torch_file, legacy_file, tensor_file]))
    damaged = bytearray(content[: data.draw(st.integers(0, len(content)))])
    for _ in range(data.draw(st.integers(0, 3))):
        if damaged:
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged"
    path.write_bytes(damaged)
    with pytest.raises(CheckpointError) as caught:  # even an undamaged file raises this error, because it lacks tensors
        reader.read(path)
    one_line(caught.value)
