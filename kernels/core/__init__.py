"""The code that all kernels share: ISA selection, threads, memory, argument checks, GEMM, convolutions and LayerNorm.

This package uses the C code in `micro/` and imports no other folder of the kernels.
"""

from mobilesam.kernels.core.openmp import load_runtime

load_runtime()  # here, because every import of a compiled kernel first imports this package
