"""Packed weights: what a GEMM reads, laid out once at load for the ISA then in force."""

from __future__ import annotations

import math
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray


class Panels(NamedTuple):
    """A weight (N, K) cut into panels of NR output columns.

    ``words`` (ceil(N / NR), rows, NR) uint32, zero beyond N. In fp32 ``words[j // NR, k, j % NR]`` are the bits of
    ``weight[j, k]``; AMX has pieces of them as bf16 (narrow.h), Zen 4 columns divided by a power of two (pairs.h). In
    bf16 a word holds two neighbouring k and NR = 32; in int8 it holds four, and the last two rows are each column's
    scale and -128 times its sum. ``shape`` is the weight's own, (N, K) or (OC, KH, KW, C), where N = OC and
    K = KH·KW·C; ``isa`` the index of the micro-kernels, of an ISA and a precision, that read it.
    """

    words: NDArray[np.uint32]
    shape: tuple[int, ...]
    isa: int

    @property
    def n(self) -> int:
        return self.shape[0]

    @property
    def k(self) -> int:
        return math.prod(self.shape[1:])


Weight: TypeAlias = NDArray[np.float32] | Panels
