"""Parameters for the precisions of this host, under the ISA in force."""

import pytest

from mobilesam import kernels

HERE = kernels.isa.precisions()


def here(*precisions: str) -> list[object]:
    """Parameters, skipped in words where this CPU has no such precision."""
    reason = f"this CPU has only {', '.join(HERE)} under {kernels.isa.current()}"
    return [
        pytest.param(name, marks=() if name in HERE else pytest.mark.skip(reason=f"{reason}, not {name}"))
        for name in precisions
    ]


narrow = pytest.mark.parametrize("precision", here("bf16", "int8"))
