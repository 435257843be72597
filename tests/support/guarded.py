"""Arrays next to inaccessible pages: reading or writing past the array ends the process."""

import ctypes
import mmap
import sys

import numpy as np

PAGE = mmap.PAGESIZE
PROT_NONE = 0
if sys.platform != "win32":
    _mprotect = ctypes.CDLL(None, use_errno=True).mprotect
    _mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def guarded(array: np.ndarray, *, at_end: bool) -> np.ndarray:
    """A copy of `array` that touches an inaccessible page, either at its end or at its beginning."""
    pages = -(-array.nbytes // PAGE)
    memory = mmap.mmap(-1, (pages + 2) * PAGE)
    start = np.frombuffer(memory, np.uint8).ctypes.data
    for forbidden in (start, start + (pages + 1) * PAGE):
        if _mprotect(forbidden, PAGE, PROT_NONE):
            raise OSError(ctypes.get_errno(), "mprotect failed")
    offset = (pages + 1) * PAGE - array.nbytes if at_end else PAGE
    copy = np.frombuffer(memory, array.dtype, array.size, offset).reshape(array.shape)
    copy[...] = array
    return copy
