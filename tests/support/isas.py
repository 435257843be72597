"""Fixtures that run tests under every ISA, or every narrow precision (bf16, int8), of the host.

A module imports `every_isa` and applies it to all its tests with `pytest.mark.usefixtures`. A test that needs the
name of the narrow precision takes `every_narrow` or `every_bf16` as an argument.
"""

from collections.abc import Iterator

import numpy as np
import pytest

from mobilesam.kernels import isa

# (ISA, precision) -> the CPU instructions that this ISA needs for products in this precision
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
    """Return a pytest parameter (ISA, precision) for each entry of NARROW in the given precisions.

    If the host does not support an entry, its parameter is marked as skipped.
    """
    return [
        pytest.param(
            pair,
            id="-".join(pair),
            marks=() if has(*pair) else pytest.mark.skip(reason=f"this CPU, or its OS, lacks {instructions}"),
        )
        for pair, instructions in NARROW.items()
        if pair[1] in precisions
    ]


PAIRED_DEPTH = 32  # smallest inner dimension of a product for which zen4 uses pairs of terms (pairs.h)


def as_products_give(y: np.ndarray, depth: int) -> np.ndarray:
    """Replace special values in the exact result y of a float32 product by those that the current ISA returns.

    AMX splits float32 numbers into bf16 parts (narrow.h): infinities become NaN, subnormal numbers become 0.
    zen4 multiplies pairs of terms (pairs.h): infinities become NaN.

    Args:
        y: The exact result.
        depth: Inner dimension of the product.
    """
    name = isa.current()
    if name == "amx" or (name == "zen4" and depth >= PAIRED_DEPTH):
        y = np.where(np.isinf(y), np.nan, y)
    return np.where(abs(y) < np.finfo(np.float32).tiny, 0, y) if name == "amx" else y


@pytest.fixture(scope="module", params=isa.available())
def every_isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Run the tests of a module once with each ISA of this CPU. Yields the name of the ISA."""
    with isa.use(request.param):
        yield request.param


@pytest.fixture(scope="module", params=narrow_parameters("bf16", "int8"))
def every_narrow(request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of a narrow precision that the current ISA supports."""
    name, precision = request.param
    with isa.use(name):
        yield precision


@pytest.fixture(scope="module", params=narrow_parameters("bf16"))
def every_bf16(request: pytest.FixtureRequest) -> Iterator[str]:
    """Like `every_narrow`, but for bf16 only."""
    name, precision = request.param
    with isa.use(name):
        yield precision
