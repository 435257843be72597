"""Reads `.pt` files without PyTorch, and without executing code from the files."""

from __future__ import annotations

import pickle
import re
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
    write_tiny,
    write_torch,
    write_zip,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from mobilesam.checkpoints import reader, torch_file
from mobilesam.checkpoints.errors import CheckpointError


@pytest.fixture(scope="module")
def fused() -> Tensors:
    return fused_tensors()


@pytest.fixture(scope="module")
def unfused() -> Tensors:
    return unfused_tensors()


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


@pytest.mark.parametrize("key", ["model", "state_dict"])
def test_state_dict_under_a_key(tmp_path: Path, fused: Tensors, key: str) -> None:
    path = write_torch(tmp_path / "a.pt", fused, lambda state: {key: state, "epoch": 3})
    assert_same(reader.read(path), fused)


def test_half_state_dict(tmp_path: Path, fused: Tensors) -> None:
    half = {name: values.astype(np.float16) for name, values in fused.items()}
    assert_same(reader.read(write_torch(tmp_path / "a.pt", half)), half)


def test_strides_and_offset_are_respected(tmp_path: Path) -> None:
    storage = Storage("0", TWELVE)
    state = {
        "transposed": rebuild(storage, 0, (4, 3), (1, 4)),
        "column": rebuild(storage, 1, (3,), (4,)),
        "scalar": rebuild(storage, 11, (), ()),
        "empty": rebuild(storage, 0, (0, 4), (4, 1)),
        "parameter": Call(Global("torch._utils", "_rebuild_parameter"), rebuild(storage, 0, (2,), (1,)), True, None),
    }
    tensors = torch_file.read_torch(write_tiny(tmp_path / "a.pt", state))
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
        (-1, (2,), (1,)),
        (0, (2,), (-1,)),
        (0, (-1,), (1,)),
        (0, (2, 2), (1,)),
        (0, (10**9,), (0,)),
        (2**62, (2,), (1,)),
        (0, (2**40, 2**40), (1, 1)),
        (0, (2,), (2**70,)),
        (0.5, (2,), (1,)),
        ("0", (2,), (1,)),
        (0, (2,), None),
    ],
)
def test_tensor_outside_its_storage_is_refused(tmp_path: Path, offset: Any, size: Any, stride: Any) -> None:
    path = write_tiny(tmp_path / "a.pt", {"x": rebuild(Storage("0", TWELVE), offset, size, stride)})
    with pytest.raises(CheckpointError, match="out of the bounds of its 12 elements") as caught:
        torch_file.read_torch(path)
    one_line(caught.value)


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (Call(Global("os", "system"), "touch executed"), "os.system"),
        (Call(Global("posix", "system"), "touch executed"), "posix.system"),
        (Call(Global("builtins", "eval"), "open('executed', 'w')"), "builtins.eval"),
        (Call(Global("__builtin__", "eval"), "open('executed', 'w')"), "__builtin__.eval"),
        (
            Call(Global("builtins", "getattr"), Global("collections", "OrderedDict"), "mro"),
            "builtins.getattr",
        ),
        ({"x": Call(Global("torch.storage", "_load_from_bytes"), b"")}, "torch.storage._load_from_bytes"),
        ({"x": Global("torch", "BoolStorage")}, "torch.BoolStorage"),
        (Call(Global("collections", "OrderedDict.fromkeys"), ()), "collections.OrderedDict.fromkeys"),
        (Global("torch.nn.modules.container", "Sequential"), "torch.nn.modules.container.Sequential"),
    ],
)
def test_any_other_name_in_the_pickle_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: Any, named: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = write_tiny(tmp_path / "a.pt", value)
    with pytest.raises(CheckpointError, match=re.escape(f"asks for '{named}'")) as caught:
        reader.read(path)
    one_line(caught.value)
    assert not Path("executed").exists()


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (Path("executed"), "touch")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_reduce_method_is_refused_in_every_protocol(tmp_path: Path, protocol: int) -> None:
    path = write_zip(tmp_path / "a.pt", pickle.dumps({"x": Evil()}, protocol), {})
    with pytest.raises(CheckpointError, match=r"asks for '(__builtin__|builtins)\.getattr'"):
        reader.read(path)


def test_pickle_of_any_protocol_is_read(tmp_path: Path) -> None:
    state = pickle.dumps(OrderedDict(a=1), 4)
    with pytest.raises(CheckpointError, match="'a' is a int, not a tensor"):
        torch_file.read_torch(write_zip(tmp_path / "a.pt", state, {}))


@pytest.mark.parametrize(
    ("data_pkl", "problem"),
    [
        (b"", "EOF|no opcodes|exhausted"),
        (b"\x80\x02}", "exhausted"),
        (b"\x80\x02}r\xff\xff\xff\x7f.", "memo index 2147483647"),
        (b"\x80\x02X\xff\xff\xff\x7fabc.", "expected 2147483647 bytes"),
        (b"\x80\x02(((.", "not a readable PyTorch"),
        (b"\x80\x02}X\x01\x00\x00\x00aQ.", "'a', which is no storage"),
        (b"\x80\x02K\x01.", "holds a int, not a state dict"),
        (dump({1: 2}), "1 is a int, not a tensor"),
        (dump({"a\nb": 2}), r"'a\\nb' is a int"),
        (dump({"x": rebuild("0", 0, (2,), (1,))}), "without a storage"),
        (dump({"x": rebuild(Storage("1", TWELVE), 0, (2,), (1,))}), "archive/data/1"),
        (dump({"x": rebuild(Storage("../data.pkl", TWELVE), 0, (2,), (1,))}), "archive/data/"),
        (dump({"x": rebuild(Storage("0", TWELVE, count=13), 0, (2,), (1,))}), "48 bytes, not 13 elements"),
        (dump({"x": rebuild(Storage("0", TWELVE, kind="LongStorage"), 0, (2,), (1,))}), "48 bytes, not 12"),
        (dump({"x": Call(Global("torch._utils", "_rebuild_tensor_v2"))}), "missing 4 required"),
    ],
)
def test_malformed_pickle_is_refused(tmp_path: Path, data_pkl: bytes, problem: str) -> None:
    path = write_zip(tmp_path / "a.pt", data_pkl, {"0": TWELVE.tobytes()})
    with pytest.raises(CheckpointError, match=problem) as caught:
        torch_file.read_torch(path)
    one_line(caught.value)


def test_compressed_record_is_refused(tmp_path: Path) -> None:
    path = write_zip(tmp_path / "a.pt", dump({}), {}, zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match=r"record '\w+' is compressed"):
        torch_file.read_torch(path)


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
    tensor_file = save({"a": TWELVE, "b": TWELVE.astype(np.float16)}, {"k": "v"})
    content = data.draw(st.sampled_from([torch_file, tensor_file]))
    damaged = bytearray(content[: data.draw(st.integers(0, len(content)))])
    for _ in range(data.draw(st.integers(0, 3))):
        if damaged:
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged"
    path.write_bytes(damaged)
    with pytest.raises(CheckpointError) as caught:  # even an undamaged file raises this error, because it lacks tensors
        reader.read(path)
    one_line(caught.value)
