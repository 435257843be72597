"""Tests of plans: the order of steps, memory that arrays share, runs, errors, threads and processes."""

import copy
import os
import pickle
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier, Thread

import numpy as np
import pytest
from grids import any_case
from hypothesis import given
from hypothesis import strategies as st
from plans import Exact, Recording, record_upscaling, upscale_arrays
from processes import output
from tolerances import assert_relative_l2, assert_same, integers, normal, pass_bound

from mobilesam.kernels import Array, Plan, isa, threads

HERE = str(Path(__file__).parent)

# --- the order of steps, and the memory of arrays ---


def test_steps_see_what_those_before_them_have_made():
    """The plan has two independent steps, a step that needs both, and a step that is independent of all others."""
    x = integers(2, 300, 16)
    made = Recording(threads=3)
    given_x = made.give(x)
    twice = made.plan.add(given_x, given_x)
    thrice, four = made.plan.add(twice, given_x), made.plan.add(twice, twice)
    seven, apart = made.plan.add(thrice, four), made.plan.take(given_x, [1, 0])
    for got, expected in zip(made.run(seven, apart), (7 * x, x[:, [1, 0]]), strict=True):
        assert_same(got, expected)


def sums(x: np.ndarray, pairs: list[tuple[int, int]]) -> list[np.ndarray]:
    """Return x, followed for each pair (i, j) by the sum of the earlier arrays with the numbers i and j."""
    made = [x]
    for i, j in pairs:
        made.append(made[i % len(made)] + made[j % len(made)])
    return made


@any_case(80)
@given(
    rows=st.integers(1, 60),
    channels=st.integers(1, 40),
    pairs=st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), min_size=1, max_size=18),
    wanted=st.sets(st.integers(0, 99), min_size=1, max_size=4),
    threads=st.integers(1, 4),
)
def test_any_graph_of_sums_is_exact(rows, channels, pairs, wanted, threads):
    """Values are whole numbers below 2²⁴, so sums are exact. Random arrays of the plan are marked as results."""
    x, made = integers(rows, channels), Recording(threads=threads)
    expected, steps = sums(x, pairs), [made.give(x)]
    for i, j in pairs:
        steps.append(made.plan.add(steps[i % len(steps)], steps[j % len(steps)]))
    results = [1 + i % len(pairs) for i in sorted(wanted)]
    for got, i in zip(made.run(*(steps[i] for i in results)), results, strict=True):
        assert_same(got, expected[i])


LENGTH = 40  # number of norms, and of sums, in the chain of steps


def chain(plan, x, other) -> list:
    """Record a chain of norms and sums. The last step also reads an array from the first third of the chain."""
    weight, bias, kept = normal(33), normal(1, 33)[0], None
    for i in range(LENGTH):
        x = plan.add(plan.layer_norm(x, weight, bias), other)
        kept = x if i == LENGTH // 3 else kept
    return [plan.add(x, kept), kept]


def test_a_long_chain():
    """If MOBILESAM_GUARDS is not set, the arrays of the chain share memory."""
    x, other = normal(70, 33), normal(1, 70, 33)[0]
    made = Recording()
    results = chain(made.plan, *made.give(x, other))
    for got, expected in zip(made.run(*results), chain(Exact, x, other), strict=True):
        assert_relative_l2(got, expected, pass_bound(*[33, 33, 2] * LENGTH))
    again = Recording(threads=1)
    results = chain(again.plan, *again.give(x, other))
    for array, same in zip(results, again.run(*results), strict=True):
        assert_same(made.plan.view(array), same)


def test_results_stay_to_the_end_of_a_run():
    """Every array is marked as a result, so a later step must not overwrite it."""
    x = integers(9, 37)
    made = Recording()
    array, arrays = made.give(x), []
    for _ in range(12):
        array = made.plan.add(array, array)
        arrays.append(array)
    for i, got in enumerate(made.run(*arrays)):
        assert_same(got, x * 2 ** (i + 1))


WITHOUT_GUARDS = """
import test_plan
from mobilesam.kernels import isa
for name in isa.available():
    with isa.use(name):
        test_plan.test_steps_see_what_those_before_them_have_made()
        test_plan.test_any_graph_of_sums_is_exact()
        test_plan.test_a_long_chain()
        test_plan.test_results_stay_to_the_end_of_a_run()
print("right")
"""


def test_memory_is_used_again_where_no_step_wants_it():
    """Run tests in a process without MOBILESAM_GUARDS, because arrays of a plan only share memory without guards."""
    assert output(f"import sys; sys.path.insert(0, {HERE!r})\n{WITHOUT_GUARDS}") == "right"


# --- runs ---


def test_a_plan_runs_many_times():
    """Each run of a plan reads the arrays that are passed to this run."""
    made = Recording(threads=3)
    x, other = made.give(integers(40, 5), integers(1, 40, 5)[0])
    y = made.plan.result(made.plan.add(made.plan.add(x, other), x))
    assert made.plan.compile() is made.plan
    for i in range(1, 6):
        values = integers(i, 40, 5)[-1], integers(i + 1, 40, 5)[-1]
        made.plan.run({other: values[1], x: values[0]})
        assert_same(made.plan.view(y), 2 * values[0] + values[1])


def test_a_view_is_of_the_last_run():
    made = Recording()
    x = made.give(integers(4, 5))
    y = made.plan.add(x, x)
    made.run(y)
    view = made.plan.view(y)
    made.plan.run({x: np.ones((4, 5), np.float32)})
    assert_same(view, np.full((4, 5), 2, np.float32))
    assert_same(made.plan.view(y), view)


def test_one_array_may_be_given_twice_and_at_any_address():
    made = Recording()
    x, other = made.give(normal(3, 5), normal(3, 5))
    y = made.plan.result(made.plan.add(x, other))
    made.plan.compile()
    memory = np.zeros(16, np.float32)
    for at in range(2):
        value = memory[at : at + 15].reshape(3, 5)
        value[:] = normal(3, 5)
        value.flags.writeable = False
        made.plan.run({x: value, other: value})
        assert_same(made.plan.view(y), 2 * normal(3, 5))


def added(**options) -> tuple[Plan, Array, Array]:
    """Return a compiled plan that adds two input arrays (3, 5), and the Arrays of both inputs."""
    made = Recording(**options)
    x, other = made.give(normal(3, 5), normal(3, 5))
    made.plan.result(made.plan.add(x, other))
    return made.plan.compile(), x, other


X = normal(3, 5)
REFUSED: dict[str, Callable[[Array, Array], dict]] = {
    r"ValueError: given: expected \[Array.*=0.*, Array.*=1.*\], got \[Array.*=0[^=]*=\(3, 5\)\)\]": lambda x, _: {x: X},
    r"ValueError: given: expected .*, got \[\]": lambda x, other: {},
    r"ValueError: given: expected .*, got .*number=2": lambda x, other: {
        x: X, other: X, Array(2, (3, 5)): X,
    },
    r"ValueError: given\[1\]: expected shape \(3, 5\), got \(5, 3\)": lambda x, other: {
        x: X, other: normal(5, 3),
    },
    r"ValueError: given\[0\]: expected shape \(3, 5\), got \(15,\)": lambda x, other: {x: X.ravel(), other: X},
    r"TypeError: given\[1\]: expected float32, got float64": lambda x, other: {x: X, other: np.asarray(X, np.float64)},
    r"TypeError: given\[0\]: expected a float32 NumPy array, got list": lambda x, other: {x: X.tolist(), other: X},
    r"TypeError: given\[0\]: expected a float32 NumPy array, got NoneType": lambda x, other: {x: None, other: X},
    r"ValueError: given\[0\]: .*contiguous": lambda x, other: {x: np.asfortranarray(X), other: X},
    r"ValueError: given: expected .*, got \['x', ": lambda x, other: {"x": X, x: X, other: X},
    # An Array of the plan with a changed, smaller shape. With this input, steps would read past the end of the array.
    r"ValueError: given: expected .*, got .*shape=\(5,\)": lambda x, other: {x._replace(shape=(5,)): X[0], other: X},
}  # fmt: skip


@pytest.mark.parametrize("message", REFUSED)
def test_what_does_not_fit_a_run_is_refused(message):
    """After the error, the plan still runs with valid arrays."""
    plan, x, other = added()
    y = Array(2, (3, 5))
    plan.run({x: X, other: X})
    with pytest.raises((TypeError, ValueError)) as error:
        plan.run(REFUSED[message](x, other))
    assert re.match(message, f"{error.typename}: {error.value}")
    plan.run({x: X, other: X})
    assert_same(plan.view(y), 2 * X)


@pytest.mark.parametrize("threads", [0, -1, 1.5, "two", True])
def test_bad_threads_are_refused(threads):
    with pytest.raises(ValueError, match=r"^threads: "):
        Plan(threads=threads)


def test_an_unknown_isa_is_refused():
    with pytest.raises(RuntimeError, match=r"'vax'.*available here: "):
        Plan(isa="vax")


def test_a_plan_has_the_isa_in_force_or_the_one_of_its_name():
    for name in isa.available():
        assert Plan(isa=name).isa == name
        with isa.use(name):
            assert Plan().isa == name


@pytest.mark.parametrize("length", [0, -1, 2.5, None])
def test_bad_shapes_are_refused(length):
    for make in (lambda: Plan().given(3, length), lambda: Plan().given_maps(length, 9)):
        with pytest.raises((TypeError, ValueError)) as error:
            make()
        assert repr(length) in str(error.value)


def test_rows_of_maps():
    maps = Plan().given_maps(7, 300)
    assert maps.array.shape == (2, 7, 256)
    assert maps.rows(2, 5).rows(1, 3) == maps._replace(first=3, channels=3)
    for first, count in ((0, 8), (3, 5), (-1, 2), (3, -1)):
        with pytest.raises(ValueError, match=r"^maps: expected a range within 7 channels, got first="):
            maps.rows(first, count)


# --- misuse of plans ---


def test_no_step_is_added_once_a_plan_is_compiled():
    plan, x, other = added()
    for add in (lambda: plan.add(x, other), lambda: plan.given(3, 5), lambda: plan.take(x, [0])):
        with pytest.raises((RuntimeError, ValueError)):
            add()
    with pytest.raises(RuntimeError, match=r"^the plan is compiled: no step can be added"):
        plan.add(x, other)
    plan.run({x: X, other: X})
    assert_same(plan.view(Array(2, (3, 5))), 2 * X)


def test_a_plan_that_is_not_compiled_does_not_run():
    """The plan does not run before it is compiled, and runs afterwards."""
    made = Recording()
    x = made.give(X)
    y = made.plan.add(x, x)
    with pytest.raises((RuntimeError, TypeError)):
        made.plan.run({x: X})
    assert_same(made.run(y)[0], 2 * X)


def test_a_plan_of_no_steps_runs():
    Plan().compile().run({})


def test_plans_cannot_be_copied():
    plan, *_ = added()
    for copied in (copy.copy, copy.deepcopy, pickle.dumps):
        for kind in (plan, Plan()):
            with pytest.raises(TypeError, match="cannot be copied"):
                copied(kind)


# --- threads and processes ---


def costly(threads: int) -> tuple[Recording, Array]:
    """Return a plan that runs for some milliseconds, and the Array of the plan's result."""
    made = Recording(threads=threads)
    x = made.give(normal(2, 300, 128))
    for _ in range(10):
        x = made.plan.linear(x, normal(128, 128) / np.float32(128**0.5), activation="relu", residual=x)
        x = made.plan.layer_norm(x, normal(128), normal(1, 128)[0])
    return made, x


def test_a_plan_is_run_by_one_thread_at_a_time():
    """If a second thread runs the plan at the same time, it gets an error, and the first thread's result is correct.

    Both threads start a run together, again and again, until two runs overlap.
    """
    made, y = costly(1)
    (expected,) = made.run(y)
    refused, barrier = list[str](), Barrier(2)

    def run() -> None:
        for _ in range(10_000):
            barrier.wait()
            try:
                made.plan.run(made.given)
            except RuntimeError as error:
                refused.append(str(error))
            barrier.wait()
            if refused:
                break

    threads = [Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert refused == ["the plan is being run by another thread"]
    assert_same(made.plan.view(y), expected)
    made.plan.run(made.given)
    assert_same(made.plan.view(y), expected)


def test_python_threads_each_run_a_plan_of_their_own():
    def run(threads: int) -> np.ndarray:
        made, y = costly(threads)
        (got,) = made.run(y)
        for _ in range(3):
            made.plan.run(made.given)
            assert_same(made.plan.view(y), got)
        return got

    expected = run(1)
    with ThreadPoolExecutor(4) as pool:
        for got in pool.map(run, [1, 2, 3, 4] * 3):
            assert_same(got, expected)


FORKS = """
import os, signal
from test_plan import costly
from tolerances import assert_same

made, y = costly(4)
(before,) = made.run(y)
child = os.fork()
if not child:
    signal.alarm(30)  # ends a child that hangs
    made.plan.run(made.given)
    assert_same(made.plan.view(y), before)
    again, y = costly(3)
    assert_same(again.run(y)[0], before)
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
made.plan.run(made.given)
assert_same(made.plan.view(y), before)
print("both agree")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_runs_a_plan_that_was_recorded_before():
    assert output(f"import sys; sys.path.insert(0, {HERE!r})\n{FORKS}") == "both agree"


def test_what_a_step_fills_is_writeable():
    made = Recording()
    y = record_upscaling(made, upscale_arrays(4, 9, 16, 8, 3))
    made.plan.compile()
    masks = np.zeros(y.shape, np.float32)
    masks.flags.writeable = False
    with pytest.raises(ValueError, match=r"^given\[\d+\]: expected a writeable array"):
        made.plan.run(made.given | {y: masks})


def test_arrays_of_another_plan_and_results_that_are_none_are_refused():
    made, other = Recording(), Plan()
    x = made.give(normal(2, 3, 4))
    for foreign in (other.given(1, 5), x._replace(shape=(2, 3, 5)), x._replace(number=9)):
        with pytest.raises(ValueError, match=r"^step 0, add: x: expected an Array of this plan"):
            made.plan.add(foreign, foreign)
    y = made.plan.add(x, x)
    made.plan.compile()
    with pytest.raises(RuntimeError, match="compiled"):
        made.plan.result(y)
    made.plan.run(made.given)
    with pytest.raises(ValueError, match="expected an array that was passed to `result`"):
        made.plan.view(y)


THREADS_OF_A_PLAN = """
import ctypes, threading, time
import numpy as np
from mobilesam import kernels

capsule = ctypes.pythonapi.PyCapsule_New
capsule.restype, capsule.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
used = set()

@ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)
def work(job, unit):
    used.add(threading.get_native_id())
    time.sleep(0.05)

@ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)
def no_buffers(job, scratch):
    pass

plan = kernels.Plan(threads=3)
unit = capsule(ctypes.cast(work, ctypes.c_void_p).value, b"mobilesam.kernels.unit", None)
layout = capsule(ctypes.cast(no_buffers, ctypes.c_void_p).value, b"mobilesam.kernels.layout", None)
plan.record(unit, layout, bytes(8), 12, [])
plan.compile()
plan.run({})
print(len(used))
"""


@pytest.mark.skipif(not threads.openmp(), reason="this build runs kernels on one thread")
def test_a_plan_runs_on_its_own_threads_whatever_the_default_is():
    assert output(THREADS_OF_A_PLAN, MOBILESAM_NUM_THREADS="1") == "3"
