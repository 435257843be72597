"""What all kernels share: the ISA in force, threads, memory, checks of arguments; GEMM, convolutions, rows.

Imports nothing of the other folders; C from `micro/`.
"""
