"""Guards in memory arenas (kernels/micro/arena.h) detect writes past the end of a buffer."""

import shutil
import subprocess
from pathlib import Path

import pytest
from processes import run

ROOT = Path(__file__).parents[3]
COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")


@pytest.mark.skipif(COMPILER is None, reason="needs a C compiler to build the check of arena.h")
def test_guards_find_a_write_past_the_end_of_a_scratch_buffer(tmp_path):
    check = tmp_path / "check_arena"
    source, headers = ROOT / "tests/micro/check_arena.c", ROOT / "kernels/micro"
    subprocess.run([COMPILER, "-std=gnu11", f"-I{headers}", source, "-o", check], check=True)
    done = subprocess.run([check], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


OVERRUN = """
import ctypes
import numpy as np
from mobilesam import kernels

capsule = ctypes.pythonapi.PyCapsule_New
capsule.restype, capsule.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]

@ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)
def write(job, unit):
    array = ctypes.cast(job, ctypes.POINTER(ctypes.POINTER(ctypes.c_float))).contents
    array[int(sys.argv[1])] = 1.0

@ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)
def no_buffers(job, scratch):
    pass

plan = kernels.Plan(threads=1)
given, made = plan.given(1, 4), plan.result(plan.array(1, 16))
unit = capsule(ctypes.cast(write, ctypes.c_void_p).value, b"mobilesam.kernels.unit", None)
layout = capsule(ctypes.cast(no_buffers, ctypes.c_void_p).value, b"mobilesam.kernels.layout", None)
placeholder = 0xFFF5 << 48 | made.number << 32  # element 0 of the array, as record.pxd writes it
plan.record(unit, layout, placeholder.to_bytes(8, "little"), 1, [made.number])
plan.add(given, given)
plan.compile()
plan.run({given: np.zeros((1, 4), np.float32)})
print(plan.view(made)[0, -1])
"""


@pytest.mark.parametrize(("element", "expected"), [(15, "1.0"), (16, "RuntimeError: plan: a step wrote past the end")])
def test_a_plan_with_guards_finds_a_write_past_the_end_of_an_array(element, expected):
    done = run(OVERRUN.replace("int(sys.argv[1])", str(element)), MOBILESAM_GUARDS="1")
    assert expected in done.stdout + done.stderr
