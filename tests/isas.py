"""Runs a module's tests under every ISA of the host: `from isas import every_isa` and mark them with it."""

from collections.abc import Iterator

import pytest

from mobilesam.kernels import isa


@pytest.fixture(scope="module", params=isa.available())
def every_isa(request: pytest.FixtureRequest) -> Iterator[str]:
    with isa.use(request.param):
        yield request.param
