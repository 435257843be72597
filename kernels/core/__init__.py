"""The code that all kernels share: ISA selection, threads, memory, argument checks, GEMM, convolutions and LayerNorm.

This package uses the C code in `micro/` and imports no other folder of the kernels.
"""
