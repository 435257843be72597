"""In what arithmetic the products with weights are computed, and what each costs in accuracy.

Everything else (LayerNorm, softmax, GELU, depthwise convolutions, sums) is float32 in every precision.
`kernels.reference` defines the roundings; `scripts/measure_loss.py` measures what they do to masks.
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
    """One of PRECISIONS: what is asked for, or MOBILESAM_PRECISION, or "fp32"; "auto" is what `fastest` says.

    Raises ValueError for one that does not exist, or that the CPU lacks under the ISA in force.
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
    """What the mask decoder computes in: a few tokens against an image's are no place for int8."""
    return "bf16" if precision == "int8" and "bf16" in kernels.isa.precisions() else precision.replace("int8", "fp32")


def fastest() -> str:
    """What "auto" is here, the fastest that changes little.

    That is bf16 where its products are faster than float32's, as a trial of a millisecond shows. Not all
    are: without AMX, Intel's take twice the time of float32's. int8 is never chosen, for what it does to masks.
    """
    return _faster(kernels.isa.current()) if "bf16" in kernels.isa.precisions() else "fp32"


@cache
def _faster(isa: str) -> str:
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
