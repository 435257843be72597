"""Limits on threads and on the address space, during a first use, a later use, and in the server."""

import sys
from pathlib import Path

import commands
import pytest

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limits of Linux")

ANSWER = """
import hashlib, os, resource, sys
import mobilesam
from mobilesam.api import loading, model
from mobilesam.cli import main, segment

def answer(threads, *, photo="photos/a.png"):
    result = mobilesam.load("lite.safetensors", threads=threads).encode(photo).segment(box=(9, 9, 50, 40))
    return hashlib.sha256(result.low_res.tobytes() + result.scores.tobytes()).hexdigest()

def refused():
    print("refused")
    sys.exit()
"""
# Another real user, because root has no such limit. The process keeps root's access to files, but not the two
# capabilities that lift the limit. The user may have no further thread.
NO_THREAD = """
if os.geteuid() == 0:
    import ctypes
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    libc = ctypes.CDLL(None)
    try:
        os.setresuid(54321, 0, 0)
    except OSError:
        refused()
    if libc.capget(header, sets):
        refused()
    for i in (0, 1):  # effective, permitted: without CAP_SYS_ADMIN and CAP_SYS_RESOURCE
        sets[i] &= ~(1 << 21 | 1 << 24)
    if libc.capset(header, sets):
        refused()
resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
"""
# A thread's stack takes 8 MB of the address space on most systems, so 64 threads do not fit.
ADDRESS_SPACE = """
resource.setrlimit(resource.RLIMIT_STACK, (8 << 20, resource.RLIM_INFINITY))
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (400 << 20),) * 2)
"""
LIMITS = {"threads of the user": NO_THREAD, "address space": ADDRESS_SPACE}


@pytest.fixture(scope="module")
def expected(inputs: Path) -> str:
    code, out, err = commands.finish(commands.python(inputs, ANSWER + "print(answer(1))"))
    assert code == 0, err
    return out


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("earlier", ["", "answer(2)\n"], ids=["first use", "later use"])
def test_a_limit_does_not_change_the_answer(folder: Path, expected: str, limit: str, earlier: str) -> None:
    program = ANSWER + earlier + LIMITS[limit] + "print(answer(64))"
    code, out, err = commands.finish(commands.python(folder, program))
    if out == "refused\n":
        pytest.skip("the real user may not be changed here")
    if limit == "address space" and code:  # the threads' stacks may leave too little memory
        assert (code, out) == (1, "")
        assert err.splitlines()[-1].startswith("MemoryError")
    else:
        assert (code, out, err) == (0, expected, "")
