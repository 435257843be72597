"""The precision of products with weights: fp32, bf16 or int8.

Everything else (LayerNorm, softmax, GELU, depthwise convolutions, sums) is float32 in every precision.
`kernels.reference` defines the rounding. `scripts/measure_loss.py` measures how much bf16 and int8 change the masks.
"""

from __future__ import annotations

import os
import time
from functools import cache

import numpy as np
from numpy.typing import NDArray

from .. import kernels

VARIABLE = "MOBILESAM_PRECISION"
PRECISIONS = ("fp32", "bf16", "int8")
AUTO = "auto"


def resolve(precision: str | None) -> str:
    """Return the precision to use, one of PRECISIONS.

    Args:
        precision: one of PRECISIONS, or "auto" for the choice of `fastest`. If None, the environment
            variable MOBILESAM_PRECISION is read. If the variable is not set either, the precision is "fp32".

    Raises:
        ValueError: the precision is unknown, or the CPU does not support the precision with the ISA in force.
    """
    name, wanted = "precision", precision
    if wanted is None:
        name, wanted = VARIABLE, os.environ.get(VARIABLE) or "fp32"
    here = kernels.isa.precisions()
    if wanted == AUTO:
        return fastest()
    if wanted not in here:
        lacks = f"this CPU lacks it (ISA {kernels.isa.current()})" if wanted in PRECISIONS else "not a precision"
        raise ValueError(f"{name}: {wanted!r}: {lacks}; available here: {', '.join((*here, AUTO))}")
    return wanted


def decoder_precision(precision: str) -> str:
    """Return the mask decoder's precision in a model of this precision. bf16, or else fp32, replaces int8."""
    return "bf16" if precision == "int8" and "bf16" in kernels.isa.precisions() else precision.replace("int8", "fp32")


def fastest() -> str:
    """Return the precision for "auto" on this CPU: bf16 if bf16 products are faster than fp32 products, else fp32.

    A trial of a millisecond decides, because bf16 is not always faster. On Intel CPUs without AMX, bf16 products take
    twice the time of fp32 products. int8 is never chosen, because it changes the masks too much.
    """
    return _faster(kernels.isa.current()) if "bf16" in kernels.isa.precisions() else "fp32"


@cache
def _faster(isa: str) -> str:
    """Return which of "fp32" and "bf16" is faster in a small product on one thread."""
    x = np.ones((64, 320), np.float32)
    seconds = {}
    for precision in ("fp32", "bf16"):
        weight = kernels.pack(x, precision=precision, isa=isa, threads=1)
        seconds[precision] = min(_seconds(x, weight) for _ in range(10))
    return min(seconds, key=seconds.__getitem__)


def _seconds(x: NDArray[np.float32], weight: kernels.Panels) -> float:
    start = time.perf_counter()
    kernels.linear(x, weight, threads=1)
    return time.perf_counter() - start
