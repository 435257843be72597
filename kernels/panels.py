"""Packed weights: what a GEMM reads, laid out once at load for the ISA then in force."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Panels:
    """A weight (N, K) cut into panels of NR output columns, K rows deep: ``data[j // NR, k, j % NR] = weight[j, k]``.

    ``data`` (ceil(N / NR), K, NR) float32, zero beyond N; ``shape`` the weight's own, (N, K) or (OC, KH, KW, C), where
    N = OC and K = KH·KW·C; ``isa`` the index of the micro-kernels that read it.
    """

    data: NDArray[np.float32]
    shape: tuple[int, ...]
    isa: int

    @property
    def n(self) -> int:
        return self.shape[0]

    @property
    def k(self) -> int:
        return int(self.data.shape[1])
