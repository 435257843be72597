"""Every kernel on every ISA: agreement with the reference, the argument `out`, and arrays of any memory layout."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from isas import every_isa  # noqa: F401
from kernel_cases import CASES, PACKERS, Case, every_array, every_case, packable, packed
from tolerances import assert_relative_l2, assert_same

from mobilesam import kernels
from mobilesam.kernels import isa

pytestmark = pytest.mark.usefixtures("every_isa")


@every_case
def test_agrees_with_the_reference(case: Case):
    """The bound on the norm of the error is coarse: 1e-5 is about 170 roundings. Other tests derive tighter bounds."""
    arrays = case.arrays()
    assert_relative_l2(case(arrays), case.expected(arrays), 1e-5)


@every_case
def test_threads_change_no_bit(case: Case):
    arrays = case.arrays()
    alone = case(arrays, threads=1)
    for threads in (2, 3, 4, None):
        assert_same(case(arrays, threads=threads), alone)


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
    """Calls with NaN inputs fill the threads' scratch memory with NaN. The next call reuses this memory."""
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
def test_misaligned_arrays_are_never_misread(case: Case, name: str):
    arrays = case.arrays()
    expected = case(arrays)
    buffer = b"\0" + arrays[name].tobytes()
    misaligned = np.frombuffer(buffer, np.float32, offset=1).reshape(arrays[name].shape)
    try:
        got = case(arrays | {name: misaligned})
    except (TypeError, ValueError) as error:
        assert name in str(error)
    else:
        assert_same(got, expected)


@every_case
def test_out_is_filled_and_returned(case: Case):
    arrays = case.arrays()
    expected = case(arrays)
    out = np.full_like(expected, np.nan)
    assert case(arrays, out=out) is out
    assert_same(out, expected)


@every_case
def test_out_is_written_nowhere_else(case: Case):
    arrays = case.arrays()
    expected = case(arrays)
    memory = np.full(expected.size + 2 * 1021, 7, np.float32)
    out = memory[1021:-1021].reshape(expected.shape)  # an array that is not aligned to the vector length
    assert_same(case(arrays, out=out), expected)
    assert (memory[:1021] == 7).all()
    assert (memory[-1021:] == 7).all()


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
