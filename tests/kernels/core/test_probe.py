"""`fma_peak` returns a positive speed on every ISA. The speed itself depends on the machine and is not checked."""

import math

import pytest
from isas import every_isa  # noqa: F401

from mobilesam import kernels

pytestmark = pytest.mark.usefixtures("every_isa")


@pytest.mark.parametrize("threads", [1, 3])
def test_peak_is_a_speed(threads):
    peak = kernels.fma_peak(repeats=2, threads=threads)
    assert 0 < peak < math.inf


@pytest.mark.parametrize(("argument", "value"), [("repeats", 0), ("repeats", 1.5), ("threads", 0)])
def test_impossible_counts_are_refused(argument, value):
    with pytest.raises(ValueError, match=f"{argument}: expected a whole number from 1"):
        kernels.fma_peak(**{argument: value})
