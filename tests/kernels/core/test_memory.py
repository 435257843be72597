"""The buffer pool reuses the memory of a large array after the array's last view is gone, and not before."""

import gc
import os
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from processes import output
from tolerances import assert_same, normal

from mobilesam import kernels
from mobilesam.kernels.core import memory

LARGE = (256, 1024)  # shape of a 1 MiB float32 array, larger than the pool's smallest block (POOL_LEAST in pool.h)


def address(array: np.ndarray) -> int:
    return array.ctypes.data


@pytest.fixture
def drained() -> list[np.ndarray]:
    """Empty the buffer pool.

    The fixture allocates more arrays of each size than the pool has slots (POOL_SLOTS) and keeps the arrays alive.
    """
    return [memory.empty((64 << i, 1024)) for i in reversed(range(8)) for _ in range(17)]


@pytest.mark.parametrize("shape", [(), (0, 5), (3,), (65535,), LARGE, (2, 3, 129, 513)], ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.bool_, np.int64])
def test_empty_is_like_numpys(shape, dtype):
    got, expected = memory.empty(shape, dtype), np.empty(shape, dtype)
    assert (got.shape, got.dtype, got.strides) == (expected.shape, expected.dtype, expected.strides)
    assert got.flags.writeable
    assert got.flags.c_contiguous
    assert got.flags.aligned
    got[...] = 1
    assert got.all()


@pytest.mark.parametrize("shape", [(), (0, 5), (3,), LARGE, (5 << 20,)], ids=str)
def test_lasting_arrays_do_not_overlap(shape):
    """Arrays from `memory.lasting` do not overlap, even after some of them are gone."""
    kept = []
    for i in range(20):
        array = memory.lasting(shape, np.uint32)
        assert (array.shape, array.dtype, array.flags.c_contiguous) == (shape, np.uint32, True)
        assert address(array) % 64 == 0 or not array.size or array.nbytes > 4 << 20
        array[...] = i
        if i % 3 == 0:
            kept.append((i, array))
        del array
    for i, array in kept:
        assert (array == i).all()


def test_memory_is_used_again_after_its_array(drained):
    first = memory.empty(LARGE)
    before = address(first)
    del first
    gc.collect()
    assert address(memory.empty(LARGE)) == before


def test_memory_of_another_size_serves_if_it_is_not_twice_as_large(drained):
    first = memory.empty(LARGE)
    before = address(first)
    del first
    smaller = memory.empty((150, 1024))
    assert address(smaller) == before
    del smaller
    other = memory.empty((100, 1024))
    assert address(other) != before


@pytest.mark.parametrize(
    "view",
    [
        lambda array: array[3:5],
        lambda array: array.reshape(-1)[::2],
        lambda array: array.view(np.uint8)[:1, :1],
        lambda array: memoryview(array),
        lambda array: np.asarray(memoryview(array)),
        lambda array: array.T,
    ],
    ids=["rows", "steps", "bytes", "memoryview", "array of a memoryview", "transposed"],
)
def test_memory_stays_while_a_view_lives(view):
    whole = memory.empty(LARGE)
    before = address(whole)
    part = view(whole)
    del whole
    gc.collect()
    others = [memory.empty(LARGE) for _ in range(20)]
    assert before not in [address(other) for other in others]
    del part
    gc.collect()
    assert address(memory.empty(LARGE)) == before


def test_a_result_is_not_overwritten_by_later_calls():
    weight = kernels.pack(normal(256, 64))
    first = kernels.linear(normal(1024, 64), weight)
    kept, part = first.copy(), first[100:200]
    del first
    for seed in range(5):
        kernels.linear(normal(1024 + seed, 64), weight)
    assert_same(part, kept[100:200])


def test_the_pool_is_bounded():
    """The pool keeps at most 60 MiB (POOL_LIMIT) of free memory."""
    many = [memory.empty((8 << 20,)) for _ in range(6)]  # arrays of 32 MiB
    places = {address(array) for array in many}
    del many
    gc.collect()
    again = [memory.empty((8 << 20,)) for _ in range(6)]
    for array in again:
        array[:: 1 << 18] = 1  # writes to one element per MiB, so that the memory becomes resident
    assert len({address(array) for array in again}) == 6
    assert len(places) == 6


def test_threads_never_share_memory():
    def work(number: int) -> bool:
        for i in range(200):
            array = memory.empty((70_000 + 5_000 * (i % 7),))
            array[...] = number
            if not (array == number).all():
                return False
            del array
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))


RESIDENT = """
import os
from pathlib import Path
import numpy as np
from mobilesam.kernels.core import memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

before = resident()
for count in range(200):
    memory.empty(((4 + count % 5) << 20,))[...] = 1  # 16 to 32 MiB
print(resident() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc/self/statm")
def test_memory_does_not_grow():
    assert int(output(RESIDENT)) < 92 << 20  # 60 MiB of free memory (POOL_LIMIT) and one 32 MiB array


FORKS = """
import os
import numpy as np
from mobilesam.kernels.core import memory

array = memory.empty((1 << 20,))
array[...] = 1
free = memory.empty((1 << 20,))
del free
child = os.fork()
other = memory.empty((1 << 20,))
other[...] = 2 + (child == 0)
ok = (array == 1).all() and (other == 2 + (child == 0)).all()
if not child:
    os._exit(not ok)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert ok and (other == 2).all()
print("apart")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_has_its_own_pool():
    assert output(FORKS) == "apart"
