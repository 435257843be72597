"""Pytest parameters for the precisions that this host supports under the current ISA."""

import pytest

from mobilesam import kernels

HERE = kernels.isa.precisions()


def here(*precisions: str) -> list[object]:
    """A parameter for each precision. Precisions that this CPU does not support are skipped with a reason."""
    reason = f"this CPU has only {', '.join(HERE)} under {kernels.isa.current()}"
    return [
        pytest.param(name, marks=() if name in HERE else pytest.mark.skip(reason=f"{reason}, not {name}"))
        for name in precisions
    ]


narrow = pytest.mark.parametrize("precision", here("bf16", "int8"))
