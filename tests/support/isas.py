"""Runs a module's tests under every ISA, or every narrow precision, of the host.

`from isas import every_isa` and mark the module with it; tests take `every_narrow` or `every_bf16` for what it is.
"""

from collections.abc import Iterator

import numpy as np
import pytest

from mobilesam.kernels import isa

# the products in a narrow precision, by ISA, and the instructions each wants
NARROW = {
    ("amx", "bf16"): "AMX's bf16 tiles",
    ("amx", "int8"): "AMX's int8 tiles",
    ("zen4", "bf16"): "AVX-512 BF16 on Zen 4",
    ("zen4", "int8"): "AVX-512 VNNI on Zen 4",
    ("avx512", "bf16"): "AVX-512 BF16",
    ("avx512", "int8"): "AVX-512 VNNI",
    ("avx2", "int8"): "AVX-VNNI",
}


def has(name: str, precision: str) -> bool:
    return name in isa.available() and precision in isa.precisions(name)


def narrow_parameters(*precisions: str) -> list[object]:
    """A parameter (ISA, precision) for each of NARROW in these, skipped in words where the host lacks it."""
    return [
        pytest.param(
            pair,
            id="-".join(pair),
            marks=() if has(*pair) else pytest.mark.skip(reason=f"this CPU, or its OS, lacks {instructions}"),
        )
        for pair, instructions in NARROW.items()
        if pair[1] in precisions
    ]


PAIRED_DEPTH = 32  # of a product that zen4 takes by pairs of terms (pairs.h); AMX cuts all of them


def as_products_give(y: np.ndarray, depth: int) -> np.ndarray:
    """y, the exact result of products of that depth with packed weights, as the ISA in force gives special values.

    AMX's pieces of float32 turn infinities into NaN and what is below the normal numbers into 0 (narrow.h); pairs of
    terms turn infinities into NaN.
    """
    name = isa.current()
    if name == "amx" or (name == "zen4" and depth >= PAIRED_DEPTH):
        y = np.where(np.isinf(y), np.nan, y)
    return np.where(abs(y) < np.finfo(np.float32).tiny, 0, y) if name == "amx" else y


@pytest.fixture(scope="module", params=isa.available())
def every_isa(request: pytest.FixtureRequest) -> Iterator[str]:
    with isa.use(request.param):
        yield request.param


@pytest.fixture(scope="module", params=narrow_parameters("bf16", "int8"))
def every_narrow(request: pytest.FixtureRequest) -> Iterator[str]:
    """The precision; its ISA is in force."""
    name, precision = request.param
    with isa.use(name):
        yield precision


@pytest.fixture(scope="module", params=narrow_parameters("bf16"))
def every_bf16(request: pytest.FixtureRequest) -> Iterator[str]:
    """Of `every_narrow` those in bf16."""
    name, precision = request.param
    with isa.use(name):
        yield precision
