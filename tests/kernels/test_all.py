"""What every kernel promises alike: errors in words, `out`, bits that neither layout nor history changes."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from isas import every_isa  # noqa: F401
from kernel_cases import CASES, PACKERS, Case, packed, required
from tolerances import assert_relative_l2, assert_same

from mobilesam import kernels
from mobilesam.kernels import isa

pytestmark = pytest.mark.usefixtures("every_isa")
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
writing_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
every_array = pytest.mark.parametrize(
    ("case", "name"),
    [
        pytest.param(case, name, id=f"{key}-{name}")
        for key, case in CASES.items()
        for name in case.shapes
        if (key, name) != ("upscale_masks", "x")
    ],  # no array, but maps
)
packable = pytest.mark.parametrize("case", [CASES[name] for name in PACKERS], ids=PACKERS)


@every_case
def test_agrees_with_the_reference(case: Case):
    """Coarsely, by norm: 1e-5 is 170 roundings. The tests of each kernel derive what it may err."""
    arrays = case.arrays()
    assert_relative_l2(case(arrays), case.expected(arrays), 1e-5)


@every_case
def test_threads_change_no_bit(case: Case):
    arrays = case.arrays()
    alone = case(arrays, threads=1)
    for threads in (2, 3, 4, None):
        assert_same(case(arrays, threads=threads), alone)


@every_case
@pytest.mark.parametrize("threads", [0, -1, 1.5, "two"])
def test_bad_threads(case: Case, threads):
    with pytest.raises((TypeError, ValueError), match="threads"):
        case(case.arrays(), threads=threads)


@every_case
def test_python_threads_may_call_at_once(case: Case):
    inputs = [case.arrays(seed) for seed in range(4)]
    alone = [case(arrays) for arrays in inputs]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(3):
            for got, expected in zip(pool.map(lambda arrays: case(arrays, threads=2), inputs), alone):
                assert_same(got, expected)


@every_case
def test_nothing_leaks_from_one_call_into_the_next(case: Case):
    """Calls that fill their scratch memory with NaN, which the threads keep for any kernel's next call."""
    arrays = case.arrays()
    before = case(arrays)
    for other in (case, CASES["local_mlp"], CASES["linear"]):
        poison = {name: np.full(shape, np.nan, np.float32) for name, shape in other.shapes.items()}
        assert np.isnan(other(poison)).any()
    assert_same(case(arrays), before)


@every_case
def test_inputs_are_only_read(case: Case):
    arrays = case.arrays()
    for array in arrays.values():
        array.flags.writeable = False
    copies = {name: array.copy() for name, array in arrays.items()}
    assert_same(case(arrays), case(copies))
    for name, array in arrays.items():
        assert_same(array, copies[name])


@every_array
def test_strided_arrays_give_the_same_bits(case: Case, name: str):
    arrays = case.arrays()
    expected = case(arrays)
    contiguous = arrays[name]
    reversed_ = np.ascontiguousarray(contiguous[..., ::-1])[..., ::-1]
    spaced = np.repeat(contiguous, 2, axis=-1)[..., ::2]
    column_major = np.asfortranarray(contiguous)
    for view in (reversed_, spaced, column_major):
        assert_same(view, contiguous)
        assert_same(case(arrays | {name: view}), expected)


@every_array
@pytest.mark.parametrize("dtype", [np.float64, np.int32, np.complex64, ">f4", object])
def test_other_dtypes_are_refused(case: Case, name: str, dtype):
    arrays = case.arrays()
    with pytest.raises(TypeError, match=rf"\b{name}\b.*float32"):
        case(arrays | {name: arrays[name].astype(dtype)})


@every_array
def test_what_is_no_array_is_refused(case: Case, name: str):
    arrays = case.arrays()
    for value in ("text", 1.0, arrays[name].tolist()):
        with pytest.raises(TypeError, match=rf"\b{name}\b"):
            case(arrays | {name: value})
    if name in required(case):
        with pytest.raises(TypeError, match=rf"\b{name}\b"):
            case(arrays | {name: None})


@every_array
def test_misaligned_arrays_are_never_misread(case: Case, name: str):
    arrays = case.arrays()
    expected = case(arrays)
    buffer = b"\0" + arrays[name].tobytes()
    misaligned = np.frombuffer(buffer, np.float32, offset=1).reshape(arrays[name].shape)
    try:
        got = case(arrays | {name: misaligned})
    except (TypeError, ValueError) as error:
        assert name in str(error)  # refused in words
    else:
        assert_same(got, expected)


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
        pytest.skip("takes any length")
    arrays = case.arrays()
    longer = np.concatenate([arrays[name], arrays[name][..., :1]], axis=-1)
    with pytest.raises(ValueError) as error:
        case(arrays | {name: longer})
    message = str(error.value)
    assert "\n" not in message
    # a first argument of another width may be blamed on the weight that it does not fit, and masks' maps for their w2
    if name not in ("x", "q", "source") and (case.operation, name) != ("upscale_masks", "w2"):
        assert message.startswith(f"{name}:")
        assert str(longer.shape) in message


@every_array
def test_a_wrong_number_of_axes_is_named(case: Case, name: str):
    arrays = case.arrays()
    deeper = arrays[name].reshape(1, 1, 1, *arrays[name].shape)
    if name == "x" and case.operation in ("linear", "layer_norm"):
        pytest.skip("takes any number of axes")
    with pytest.raises(ValueError) as error:
        case(arrays | {name: deeper})
    assert str(error.value).startswith(f"{name}:")
    assert str(deeper.shape) in str(error.value)


@writing_case
def test_out_is_filled_and_returned(case: Case):
    arrays = case.arrays()
    expected = case(arrays)
    out = np.full_like(expected, np.nan)
    assert case(arrays, out=out) is out
    assert_same(out, expected)


@writing_case
def test_out_is_written_nowhere_else(case: Case):
    arrays = case.arrays()
    expected = case(arrays)
    memory = np.full(expected.size + 2 * 1021, 7, np.float32)
    out = memory[1021:-1021].reshape(expected.shape)  # 4 bytes after a multiple of 16: any alignment will do
    assert_same(case(arrays, out=out), expected)
    assert (memory[:1021] == 7).all()
    assert (memory[-1021:] == 7).all()


@writing_case
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


@every_array
def test_out_over_an_input_is_right_or_refused(case: Case, name: str):
    arrays = case.arrays()
    expected = case(arrays)
    size = arrays[name].size
    for shift in (0, 1):
        memory = np.zeros(max(size, expected.size) + shift, np.float32)
        shared = memory[shift:][:size].reshape(arrays[name].shape)
        shared[...] = arrays[name]
        out = memory[: expected.size].reshape(expected.shape)
        try:
            got = case(arrays | {name: shared}, out=out)
        except ValueError as error:
            assert str(error).startswith("out:")
            assert_same(shared, arrays[name])
        else:
            assert_same(got, expected)


@packable
def test_packed_weights_give_the_same_bits(case: Case):
    arrays = case.arrays()
    weights = packed(case, arrays)
    for name in PACKERS[case.operation]:
        assert isinstance(weights[name], kernels.Panels)
    assert_same(case(weights), case(arrays))


@packable
def test_packed_weights_are_a_snapshot(case: Case):
    arrays = case.arrays()
    expected = case(arrays)
    weights = packed(case, arrays)
    for name in PACKERS[case.operation]:
        arrays[name][...] = np.nan
    assert_same(case(weights), expected)


@packable
def test_packed_weights_outlive_a_change_of_isa(case: Case):
    arrays = case.arrays()
    weights = packed(case, arrays)
    for name in isa.available():
        with isa.use(name):
            assert_relative_l2(case(weights), case.expected(arrays), 1e-5)


@packable
def test_weights_packed_for_different_isas_are_right_or_refused(case: Case):
    arrays = case.arrays()
    _, *others = PACKERS[case.operation]
    weights = packed(case, arrays)
    for name in isa.available():
        with isa.use(name):
            mixed = weights | {other: packed(case, arrays)[other] for other in others}
        try:
            got = case(mixed)
        except ValueError as error:
            assert name != isa.current()
            assert "ISA" in str(error)
        else:
            assert_relative_l2(got, case.expected(arrays), 1e-5)


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


def test_float32_is_known_whatever_describes_it():
    x, described = np.ones((2, 3), np.float32), np.dtype(np.float32, metadata={"unit": "m"})
    more = np.ones(3, np.float32), np.zeros(3, np.float32)
    assert np.array_equal(kernels.layer_norm(x.astype(described), *more), kernels.layer_norm(x, *more))
    with pytest.raises(TypeError, match=r"^x: expected float32, got >f4"):
        kernels.layer_norm(x.astype(">f4"), *more)
