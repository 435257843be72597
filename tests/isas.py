"""Runs a module's tests under every ISA, or every narrow precision, of the host.

`from isas import every_isa` (or `every_narrow`) and mark the module with it.
"""

from collections.abc import Iterator

import pytest

from mobilesam.kernels import isa

# AMX has no float32: its tables hold avx512's own micro-kernels, which need not be tested twice.
FLOAT32 = tuple(name for name in isa.available() if name != "amx")

# the products in a narrow precision, by ISA, and the instructions each wants
NARROW = {
    ("amx", "bf16"): "AMX's bf16 tiles",
    ("amx", "int8"): "AMX's int8 tiles",
    ("avx512", "bf16"): "AVX-512 BF16",
    ("avx512", "int8"): "AVX-512 VNNI",
    ("avx2", "int8"): "AVX-VNNI",
}


def has(name: str, precision: str) -> bool:
    return name in isa.available() and precision in isa.precisions(name)


def narrow_parameters() -> list[object]:
    """A parameter (ISA, precision) for each of NARROW, skipped in words where the host lacks it."""
    return [
        pytest.param(
            pair,
            id="-".join(pair),
            marks=() if has(*pair) else pytest.mark.skip(reason=f"this CPU, or its OS, lacks {instructions}"),
        )
        for pair, instructions in NARROW.items()
    ]


@pytest.fixture(scope="module", params=FLOAT32)
def every_isa(request: pytest.FixtureRequest) -> Iterator[str]:
    with isa.use(request.param):
        yield request.param


@pytest.fixture(scope="module", params=narrow_parameters())
def every_narrow(request: pytest.FixtureRequest) -> Iterator[str]:
    """The precision; its ISA is in force."""
    name, precision = request.param
    with isa.use(name):
        yield precision
