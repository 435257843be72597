"""Tests that need a new process: access outside the arrays, forks, and the number of threads."""

import os
import shutil
import sys
from pathlib import Path

import pytest
from golden import PHOTOS
from processes import output, run

from mobilesam.kernels import isa, threads
from mobilesam.kernels.core import team

STAYS_INSIDE = """
import numpy as np
from guarded import guarded
from kernel_cases import CASES, Case, attention_shapes
from tolerances import assert_same

small = [Case("layer_norm", {"x": (n,), "weight": (n,), "bias": (n,)}) for n in range(1, 40)]
small += [Case("linear", {"x": (1, 1), "weight": (n, 1), "bias": (n,)}, {"activation": "gelu"}) for n in range(1, 40)]
for c in (1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 23, 31, 32, 33):
    small += [
        Case("linear", {"x": (c, 3), "weight": (c, 3), "bias": (c,)}, {"activation": "gelu"}),
        Case("conv2d", {"x": (3, 4, c), "weight": (c, 3, 3, c), "bias": (c,)}, {"pad": 1}),
        Case("depthwise_conv2d", {"x": (3, 6, c), "weight": (3, 3, c), "bias": (c,)}, {"pad": 1}),
        Case("depthwise_conv2d", {"x": (3, 6, c), "weight": (2, 2, c), "bias": (c,)}, {"stride": 2}),
        Case("depthwise_conv2d", {"x": (3, 6, c), "weight": (2, 2, c), "bias": (c,)}),
        Case("window_attention", attention_shapes(3, 4, c, 1, 2), {"window": 2}),
        Case("resize_logits", {"x": (1, c, c)}, {"padded": (c, 7), "crop": (c, 5), "size": (7, c)}),
    ]
for case in [*CASES.values(), *small]:
    arrays = case.arrays()
    expected = case(arrays)
    for at_end in (True, False):
        print(case.operation, case.shapes, "at the end" if at_end else "at the beginning", flush=True)
        inside = {name: guarded(array, at_end=at_end) for name, array in arrays.items()}
        assert_same(case(inside, out=guarded(expected, at_end=at_end)), expected)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs mprotect")
@pytest.mark.parametrize("name", isa.available())
def test_nothing_outside_an_array_is_touched(name):
    done = run(STAYS_INSIDE, MOBILESAM_ISA=name)
    last = done.stdout.strip().rpartition("\n")[2]
    assert done.returncode == 0, f"{done.stderr.strip()} code {done.returncode} in {last}"


PLANS_STAY_INSIDE = """
from functools import partial
from guarded import guarded
from plan_cases import cases, results_of
from tolerances import assert_same

for name, record in cases():
    expected = results_of(record)
    for at_end in (True, False):
        print(name, "at the end" if at_end else "at the beginning", flush=True)
        for got, same in zip(results_of(record, partial(guarded, at_end=at_end)), expected, strict=True):
            assert_same(got, same)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs mprotect")
@pytest.mark.parametrize("name", isa.available())
@pytest.mark.parametrize("guards", [{}, {"MOBILESAM_GUARDS": "1"}], ids=["bare", "guards"])
def test_plans_touch_nothing_outside_what_they_are_given(name, guards):
    done = run(PLANS_STAY_INSIDE, MOBILESAM_ISA=name, **guards)
    last = done.stdout.strip().rpartition("\n")[2]
    assert done.returncode == 0, f"{done.stderr.strip()} code {done.returncode} in {last}"


FORKS = """
import os, signal
import numpy as np
from kernel_cases import CASES
from tolerances import assert_same

inputs = {name: case.arrays() for name, case in CASES.items()}
before = {name: case(inputs[name], threads=4) for name, case in CASES.items()}

def again():
    for name, case in CASES.items():
        assert_same(case(inputs[name], threads=4), before[name])

child = os.fork()
if not child:
    signal.alarm(30)  # ends a child that hangs
    again()
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
again()
print("both agree")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_computes_the_same():
    assert output(FORKS) == "both agree"


FORKS_WHILE_LOADING = """
import os, signal, threading, time
import mobilesam
from mobilesam.api import loading
from mobilesam.network import mask_decoder, prompt_encoder  # a fork during the import would break the child's import

children = []
for wait in (0.005, 0.015, 0.03):
    loading = threading.Thread(target=mobilesam.load, kwargs={"threads": 2})
    loading.start()
    time.sleep(wait)
    child = os.fork()
    if not child:
        signal.alarm(20)  # ends a child that hangs
        mobilesam.load(threads=1)
        os._exit(0)
    children.append(child)
    loading.join()
assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0, 0]
print("all loaded")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_forked_while_a_model_is_loaded_loads_its_own():
    assert output(FORKS_WHILE_LOADING) == "all loaded"


FORKS_BEFORE_A_TEAM = """
import os, signal
import numpy as np
import mobilesam
from mobilesam import kernels

def threads():
    return len(os.listdir("/proc/self/task"))

def in_child(expected):
    child = os.fork()
    if not child:
        signal.alarm(30)  # ends a child that hangs
        assert kernels.threads.usable(3) == expected
        alone = threads()
        kernels.linear(*arrays, threads=3)
        assert threads() - alone == expected - 1
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

arrays = np.ones((4096, 256), np.float32), np.ones((256, 256), np.float32)
in_child(3)  # forked after the import alone
in_child(3)  # forked after threads were counted, not used
kernels.linear(*arrays, threads=1)
in_child(3)
kernels.linear(*arrays, threads=2)
in_child(3)  # the parent's team has ended before the fork
kernels.linear(*arrays, threads=4)
print("as expected")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
@pytest.mark.skipif(not threads.openmp(), reason="built without OpenMP")
def test_a_forked_child_has_its_own_team():
    assert output(FORKS_BEFORE_A_TEAM, OPENBLAS_NUM_THREADS="1") == "as expected"


MODEL_THREADS = """
import os
import mobilesam
model = mobilesam.load(threads=2)
alone = model.threads
embedding = model.encode("CHELSEA")
child = os.fork()
if not child:
    os._exit(model.threads)
print(alone, model.threads, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_model_reports_the_threads_that_will_run():
    said = output(MODEL_THREADS.replace("CHELSEA", str(PHOTOS["chelsea"])))
    assert said == ("2 2 2" if threads.openmp() else "1 1 1")


ANOTHER_LIBRARYS_TEAM = """
import ctypes, os, signal, sys
import numpy as np
from mobilesam import kernels

arrays = np.ones((4096, 256), np.float32), np.ones((256, 256), np.float32)
runtime = ctypes.CDLL(next(line.split()[-1] for line in open("/proc/self/maps") if "libgomp" in line))
nothing = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(("free", ctypes.CDLL(None)))
runtime.GOMP_parallel(nothing, None, 3, 0)  # free(NULL) on three threads
child = os.fork()
if not child:
    signal.alarm(30)  # ends a child that hangs
    kernels.linear(*arrays, threads=2)
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds the runtime in /proc")
def test_a_forked_child_runs_although_another_library_had_a_team():
    done = run(ANOTHER_LIBRARYS_TEAM)
    if "StopIteration" in done.stderr:
        pytest.skip("built with another OpenMP runtime than GNU's, or without OpenMP")
    assert (done.stdout, done.stderr) == ("0\n", "")


TWO_RUNTIMES = """
import ctypes, os

os.environ.pop("KMP_DUPLICATE_LIB_OK", None)  # may be inherited

def ours():
    import numpy as np
    from mobilesam import kernels

    assert (kernels.linear(np.ones((4096, 256), np.float32), np.ones((256, 256), np.float32), threads=2) == 256).all()

def copy():
    assert ctypes.CDLL(os.environ["COPY"]).omp_get_max_threads() >= 1

def scikit_learn():
    import numpy as np
    from sklearn.cluster import KMeans

    points = np.repeat(np.float32([[0, 0], [9, 9]]), 1000, axis=0)
    assert KMeans(2, n_init=1).fit(points).inertia_ == 0

CALLS
"""
ORDERS = ["ours(); {0}(); ours()", "{0}(); ours(); {0}()"]


@pytest.mark.skipif(not team.has_llvm_runtime(), reason="built with another OpenMP runtime than LLVM's")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds the runtime in /proc")
@pytest.mark.parametrize("calls", ORDERS)
def test_a_second_copy_of_llvms_runtime_may_be_in_the_process(calls, tmp_path):
    maps = Path("/proc/self/maps").read_text().splitlines()
    copy = shutil.copy(next(line.split()[-1] for line in maps if "libomp" in line), tmp_path / "copy.so")
    assert output(TWO_RUNTIMES.replace("CALLS", calls.format("copy")), COPY=str(copy)) == ""


@pytest.mark.extras
@pytest.mark.parametrize("calls", ORDERS)
def test_scikit_learn_may_be_in_the_process(calls):
    """Its wheels contain an OpenMP runtime of their own."""
    pytest.importorskip("sklearn")
    assert output(TWO_RUNTIMES.replace("CALLS", calls.format("scikit_learn"))) == ""


LIMITED = """
import os, resource
import numpy as np
from mobilesam import kernels

x, w = np.ones((4096, 256), np.float32), np.ones((256, 256), np.float32)
expected = kernels.linear(x, w, threads=1)
LIMIT
usable = kernels.threads.usable(64)
assert (kernels.linear(x, w, threads=64) == expected).all()
print(usable, len(os.listdir("/proc/self/task")))
"""
LIMITS = {
    # A user other than root, because root has no such limit. The user may have no further thread.
    "threads of the user": (
        "try:\n    if os.geteuid() == 0: os.setuid(54321)\n"
        "except OSError:\n    raise SystemExit('another user is refused')\n"
        "resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))"
    ),
    # A thread's stack takes 8 MB of the address space on most systems, so 64 threads do not fit.
    "address space": (
        "resource.setrlimit(resource.RLIMIT_STACK, (8 << 20, resource.RLIM_INFINITY))\n"
        "used = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + (200 << 20),) * 2)"
    ),
}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limits of Linux")
@pytest.mark.parametrize("limit", LIMITS)
def test_a_limit_on_threads_means_fewer_threads(limit):
    done = run(LIMITED.replace("LIMIT", LIMITS[limit]), OPENBLAS_NUM_THREADS="1")
    if "another user is refused" in done.stderr:
        pytest.skip("root may not become another user here")
    assert done.returncode == 0, done.stderr
    usable, used = map(int, done.stdout.split())
    if limit == "threads of the user":
        assert usable == used == 1
    else:  # each try may find another number, because the system chooses the addresses
        assert 1 <= usable < 64
        assert 1 <= used < 64


WAITING = """
import os
before = os.environ.copy()
import mobilesam.kernels
copies = "KMP_DUPLICATE_LIB_OK"  # stays set with LLVM's runtime
assert os.environ | {copies: ""} == before | {copies: ""}
import subprocess, sys
child = [sys.executable, "-c", "import os; print(os.environ.get('GOMP_SPINCOUNT'))"]
print(subprocess.check_output(child, text=True).strip())
"""


@pytest.mark.skipif(not threads.openmp(), reason="built without OpenMP")
def test_gnus_runtime_gets_the_bound_on_waiting():
    shown = run("import mobilesam.kernels.core", OMP_DISPLAY_ENV="verbose").stderr
    if "GOMP_SPINCOUNT" not in shown:
        pytest.skip("built with another OpenMP runtime than GNU's")
    assert "GOMP_SPINCOUNT = '10000'" in shown


@pytest.mark.parametrize("variable", ["", "GOMP_SPINCOUNT", "OMP_WAIT_POLICY"])
def test_the_bound_on_waiting_is_not_inherited_and_the_users_choice_stays(variable):
    chosen = {variable: "passive" if "POLICY" in variable else "77"} if variable else {}
    assert output(WAITING, **chosen) == ("77" if variable == "GOMP_SPINCOUNT" else "None")


DEFAULT = "from mobilesam.kernels import threads; print(threads.default_threads())"


@pytest.mark.parametrize("count", [1, 3, 17])
def test_the_environment_sets_the_threads(count):
    assert output(DEFAULT, MOBILESAM_NUM_THREADS=str(count)) == str(count)


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", "1e3", "999999999999"])
def test_a_bad_number_of_threads_in_the_environment(value):
    done = run(DEFAULT, MOBILESAM_NUM_THREADS=value)
    assert done.returncode == 1
    last = done.stderr.strip().rpartition("\n")[2]
    assert last.startswith(("ValueError: MOBILESAM_NUM_THREADS", "RuntimeError: MOBILESAM_NUM_THREADS"))
    assert repr(value) in last


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs sched_setaffinity")
def test_affinity_bounds_the_threads():
    one = min(os.sched_getaffinity(0))
    assert output(f"import os; os.sched_setaffinity(0, [{one}]); {DEFAULT}") == "1"


@pytest.mark.parametrize("affinity", [True, False])
def test_usable_cpus(monkeypatch, affinity):
    if not affinity:
        monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert 1 <= threads.usable_cpus() <= os.cpu_count()


def test_default_threads_are_usable():
    assert 1 <= threads.default_threads() <= (os.cpu_count() or 1) or "MOBILESAM_NUM_THREADS" in os.environ


THREADS_USED = """
import os
import numpy as np
from mobilesam import kernels
x, w = np.ones((4096, 256), np.float32), np.ones((256, 256), np.float32)
kernels.linear(x, w, threads=3)
print(len(os.listdir("/proc/self/task")))
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
@pytest.mark.skipif(not threads.openmp(), reason="built without OpenMP")
def test_threads_are_really_used():
    alone = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    assert output(THREADS_USED, **alone) == "3"
    assert output(THREADS_USED.replace("threads=3", "threads=1"), **alone) == "1"
