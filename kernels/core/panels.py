"""Packed weights: weights copied at load into the order in which one ISA's GEMM reads them."""

from __future__ import annotations

import math
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray


class Panels(NamedTuple):
    """A weight (N, K), packed as panels of NR output columns.

    Attributes:
        words: (ceil(N / NR), rows, NR) uint32. Columns beyond N are zero. In fp32, ``words[j // NR, k, j % NR]`` holds
            the bits of ``weight[j, k]``, with two exceptions: AMX splits each number into bf16 numbers (narrow.h), and
            Zen 4 divides each column by a power of two (pairs.h). In bf16, a word holds the weights of two
            neighbouring k. In int8, a word holds the weights of four neighbouring k, and the last two rows hold each
            column's scale and -128 times the column's sum. In bf16 and int8, NR = 32.
        shape: The weight's original shape, (N, K) or (OC, KH, KW, C). N = OC and K = KH·KW·C.
        isa: The number of the table of micro-kernels that ``words`` are packed for. There is a table for each ISA and
            precision.
    """

    words: NDArray[np.uint32]
    shape: tuple[int, ...]
    isa: int

    @property
    def n(self) -> int:
        """The number of output channels, N."""
        return self.shape[0]

    @property
    def k(self) -> int:
        """The number of inputs of an output channel, K. K = KH·KW·C for a convolution."""
        return math.prod(self.shape[1:])


Weight: TypeAlias = NDArray[np.float32] | Panels
