"""Errors of every kernel for invalid arguments. The checks do not depend on the ISA."""

import inspect
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from kernel_cases import PACKERS, Case, every_array, every_case, packable, required
from plans import Recording, upscale_arrays
from tolerances import normal

from mobilesam import kernels
from mobilesam.kernels.core import check


@every_case
@pytest.mark.parametrize("threads", [0, -1, 1.5, "two"])
def test_bad_threads(case: Case, threads):
    with pytest.raises((TypeError, ValueError), match="threads"):
        case(case.arrays(), threads=threads)


@every_array
@pytest.mark.parametrize("dtype", [np.float64, np.int32, np.complex64, ">f4", object])
def test_other_dtypes_are_refused(case: Case, name: str, dtype):
    arrays = case.arrays()
    with pytest.raises(TypeError, match=rf"\b{name}\b.*float32"):
        case(arrays | {name: arrays[name].astype(dtype)})


@every_array
def test_other_types_are_refused(case: Case, name: str):
    arrays = case.arrays()
    for value in ("text", 1.0, arrays[name].tolist()):
        with pytest.raises(TypeError, match=rf"\b{name}\b"):
            case(arrays | {name: value})
    if name in required(case):
        with pytest.raises(TypeError, match=rf"\b{name}\b"):
            case(arrays | {name: None})


@every_array
def test_empty_arrays_are_refused(case: Case, name: str):
    arrays = case.arrays()
    for axis in range(arrays[name].ndim):
        shape = list(arrays[name].shape)
        shape[axis] = 0
        with pytest.raises(ValueError) as error:
            case(arrays | {name: np.empty(shape, np.float32)})
        assert "\n" not in str(error.value)


@every_array
def test_a_wrong_shape_is_named(case: Case, name: str):
    if case.operation == "resize_logits":
        pytest.skip("resize_logits accepts any shape of logits")
    arrays = case.arrays()
    longer = np.concatenate([arrays[name], arrays[name][..., :1]], axis=-1)
    with pytest.raises(ValueError) as error:
        case(arrays | {name: longer})
    message = str(error.value)
    assert "\n" not in message
    if name not in ("x", "source"):  # if the width of x is wrong, the error may name the weight instead
        assert message.startswith(f"{name}:")
        assert str(longer.shape) in message


@every_array
def test_a_wrong_number_of_axes_is_named(case: Case, name: str):
    arrays = case.arrays()
    deeper = arrays[name].reshape(1, 1, 1, *arrays[name].shape)
    if name == "x" and case.operation in ("linear", "layer_norm"):
        pytest.skip("linear and layer_norm accept any number of axes")
    with pytest.raises(ValueError) as error:
        case(arrays | {name: deeper})
    assert str(error.value).startswith(f"{name}:")
    assert str(deeper.shape) in str(error.value)


@every_case
def test_an_unusable_out_is_refused(case: Case):
    arrays = case.arrays()
    shape = case(arrays).shape
    locked = np.empty(shape, np.float32)
    locked.flags.writeable = False
    unusable = {
        "dtype": np.empty(shape, np.float64),
        "type": np.empty(shape, np.float32).tolist(),
        "length": np.empty((*shape[:-1], shape[-1] + 1), np.float32),
        "axes": np.empty((1, *shape), np.float32),
        "strides": np.empty((*shape, 2), np.float32)[..., 0],
        "order": np.empty(shape, np.float32, order="F"),
        "lock": locked,
    }
    for reason, out in unusable.items():
        with pytest.raises(TypeError if reason in ("dtype", "type") else ValueError, match=r"^out: "):
            case(arrays, out=out)


@packable
def test_panels_of_another_shape_are_refused(case: Case):
    arrays = case.arrays()
    for name in PACKERS[case.operation]:
        for shape in ((3, 5), (3, 1, 2, 5)):
            panels = kernels.pack(np.zeros(shape, np.float32))
            with pytest.raises(ValueError) as error:
                case(arrays | {name: panels})
            assert str(error.value).startswith(f"{name}:")
            assert str(shape) in str(error.value)


def test_float32_with_metadata_is_accepted():
    x, described = np.ones((2, 3), np.float32), np.dtype(np.float32, metadata={"unit": "m"})
    more = np.ones(3, np.float32), np.zeros(3, np.float32)
    assert np.array_equal(kernels.layer_norm(x.astype(described), *more), kernels.layer_norm(x, *more))
    with pytest.raises(TypeError, match=r"^x: expected float32, got >f4"):
        kernels.layer_norm(x.astype(">f4"), *more)


class Strange:
    """A value of a type that no argument has."""


# Values that are wrong for every argument that is not an array.
STRANGE: list[Any] = [
    Strange(), Strange, object, {}, {"a": 1}, set(), b"1", "1", [], [1, 2, 3], (1, 2, 3), [[1]], np.nan, 1j, range(3),
    np.zeros(3), np.zeros((2, 2), object), np.array(["a"]), np.float32("nan"), np.datetime64("2020"), [None, None],
    -1, -(2**70), 2**63, 2**64, 10**30, 10**400, 10**5000, (2**63, 1), (1, 2**40), (-1, 1), ("1", "1"),
    (np.nan, 1.5), (1, 10**5000),
]  # fmt: skip


def accepts(name: str, value: Any) -> bool:
    """Whether an argument accepts a value of STRANGE: eps and scale any number, and thresholds of logits NaN too."""
    if name == "threshold" and isinstance(value, (float, np.floating)):
        return True
    return name in ("eps", "scale", "threshold") and isinstance(value, int) and abs(value) < 10**300


def assert_refused(name: str, call: Callable[[], object], value: Any) -> None:
    """Assert that a call raises an error that begins with the argument's name, after the name of a plan's step."""
    with pytest.raises((TypeError, ValueError, RuntimeError)) as error:
        call()
    kinds = (TypeError, ValueError, RuntimeError) if name == "isa" else (TypeError, ValueError)
    assert type(error.value) in kinds, (name, type(value))
    message = str(error.value)
    assert re.match(rf"(step \d+, \w+: )?(mobilesam\.kernels\.)?{name}\b", message), (message, type(value))
    assert "\n" not in message
    assert len(message) < 400


def options_of(function: Callable[..., Any], arrays: Any) -> list[str]:
    """Names of the arguments that are no arrays."""
    parameters = inspect.signature(function).parameters
    return [name for name in parameters if name not in arrays and name not in ("bias", "residual", "plan", "out")]


@every_case
def test_values_of_wrong_types_and_sizes_are_refused(case: Case):
    arrays, function = case.arrays(), getattr(kernels, case.operation)
    names = options_of(function, arrays) + (["residual"] if isinstance(case.options.get("residual"), bool) else [])
    for name in names:
        for value in STRANGE:
            if not accepts(name, value):
                options = dict(case.options) | {name: value}
                assert_refused(name, lambda options=options: function(**arrays, **options), value)


CALLS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "pack": (kernels.pack, {"precision": "fp32", "isa": None, "lasting": True, "threads": 1}),
    "pack_rows": (kernels.pack_rows, {"precision": "fp32", "isa": None}),
    "pack_winograd": (kernels.pack_winograd, {"threads": 1}),
    "Plan": (kernels.Plan, {"isa": None, "threads": 1}),
    "fma_peak": (kernels.fma_peak, {"repeats": 1, "threads": 1}),
}


@pytest.mark.parametrize("name", CALLS)
def test_values_of_wrong_types_are_refused_by_other_functions(name: str):
    function, options = CALLS[name]
    first = {"pack": [normal(3, 5)], "pack_rows": [normal(3, 5)], "pack_winograd": [normal(32, 3, 3, 2)]}.get(name, [])
    function(*first, **options)
    for argument in options:
        for value in STRANGE:
            changed = options | {argument: value}
            assert_refused(argument, lambda changed=changed: function(*first, **changed), value)
    for value in STRANGE:
        if first:
            assert_refused(r"(weight|rows)", lambda value=value: function(value, **options), value)


def steps_of_a_plan() -> dict[str, tuple[Callable[..., Any], dict[str, Any]]]:
    """For each method of Plan that records a step, the method and valid arguments."""
    made, arrays = Recording(), upscale_arrays(3, 5, 16, 8, 2)
    x, row, image, queries, hyper = made.give(
        normal(2, 3, 16), normal(16), normal(1, 15, 16), normal(2, 3, 32), arrays["hyper"]
    )
    keys, maps, plan = made.give_maps(normal(15, 32)), made.give_maps(normal(15, 64)), made.plan
    one, rows = normal(16), kernels.pack_rows(normal(40, 16))
    upscaling: dict[str, Any] = {name: arrays[name] for name in ("norm_weight", "norm_bias", "b2")}
    upscaling |= {"x": maps, "size": (3, 5), "w2": kernels.pack_rows(arrays["w2"]), "hyper": hyper}
    linear = {"x": x, "weight": normal(16, 16), "bias": one, "activation": None, "residual": x, "scale": 1.0}
    return {
        "linear": (plan.linear, linear | {"in_place": False}),
        "attention": (plan.attention, {"q": x, "k": x, "v": x, "heads": 2}),
        "layer_norm": (plan.layer_norm, {"x": x, "weight": one, "bias": one, "eps": 1e-5, "in_place": False}),
        "add": (plan.add, {"x": x, "other": row}),
        "take": (plan.take, {"x": x, "numbers": [0]}),
        "project": (plan.project, {"x": image, "rows": rows, "added": keys, "shift": one, "scale": one}),
        "attend_image": (plan.attend_image, {"queries": queries, "keys": keys, "values": keys, "bias": normal(32)}),
        "upscale_masks": (plan.upscale_masks, upscaling | {"shift": normal(64), "update": None, "eps": 1e-6}),
    }  # fmt: skip


@pytest.mark.parametrize("step", steps_of_a_plan())
def test_values_of_wrong_types_are_refused_by_the_steps_of_a_plan(step: str):
    function, arguments = steps_of_a_plan()[step]
    function(**arguments)
    for name in arguments:
        for value in STRANGE:
            valid = (
                accepts(name, value)
                if isinstance(arguments[name], float)
                else name == "numbers" and isinstance(value, range)
            )
            if not valid:
                changed = arguments | {name: value}
                assert_refused(name, lambda changed=changed: function(**changed), value)


@every_array
def test_subclasses_of_arrays_count_as_arrays(case: Case, name: str):
    arrays = case.arrays()
    expected = case(arrays)
    kinds = [np.memmap, np.ma.MaskedArray] + ([np.matrix] if arrays[name].ndim == 2 else [])
    for kind in kinds:
        np.testing.assert_array_equal(case(arrays | {name: arrays[name].view(kind)}), expected)


def test_an_out_of_a_subclass_is_filled():
    x, out = normal(3, 5), np.zeros((3, 4), np.float32)
    weight = normal(4, 5)
    kernels.linear(x, weight, out=out.view(np.matrix))
    np.testing.assert_array_equal(out, kernels.linear(x, weight))


def test_outputs_that_no_computer_holds_are_refused_with_their_size():
    x = normal(3, 3, 1)
    with pytest.raises(MemoryError, match=r"out: no memory for an array \(\d+, \d+, 1\) of \d+ bytes"):
        kernels.depthwise_conv2d(x, normal(3, 3, 1), pad=2**31 - 1)
    with pytest.raises(MemoryError, match=r"pad: no memory for an array \(\d+, \d+, 1\) of \d+ bytes"):
        kernels.conv2d(x, normal(2, 3, 3, 1), pad=2**31 - 1, stride=2**31 - 1)
    with pytest.raises(MemoryError, match=r"size: no memory for an array \(\d+, \d+, 3\) of \d+ bytes"):
        kernels.normalize(np.zeros((2, 2, 3), np.uint8), normal(3), normal(3), size=2**31 - 1)
    with pytest.raises(ValueError, match="size: expected at most 4294967295 pixels"):
        kernels.mask_runs(normal(1, 3, 3), crop=(9, 9), padded=(9, 9), size=(2**24, 2**24))


def test_a_misaligned_array_is_copied_and_a_misaligned_out_is_refused():
    x, weight = np.ones((2, 3), np.float32), np.zeros(3, np.float32)
    misaligned = np.frombuffer(bytearray(x.nbytes + 1), np.float32, x.size, offset=1).reshape(x.shape)
    checked = check.array(misaligned, "x", misaligned.shape)
    assert checked.flags.aligned
    assert check.array(x, "x", x.shape) is x
    with pytest.raises(ValueError, match=r"^out: expected .*aligned"):
        kernels.layer_norm(x, weight, weight, out=misaligned)
