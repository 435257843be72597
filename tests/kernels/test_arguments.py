"""Errors of every kernel for invalid arguments. The checks do not depend on the ISA."""

import numpy as np
import pytest
from kernel_cases import PACKERS, Case, every_array, every_case, packable, required

from mobilesam import kernels


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
