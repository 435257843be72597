"""One model and one encoded photo for every test that needs no other; which tests run."""

import os
from pathlib import Path

os.environ.setdefault("MOBILESAM_GUARDS", "1")  # before the kernels are loaded: they find writes past their buffers

import grids
import pytest
from golden import PHOTOS

import mobilesam

KERNELS = Path(__file__).parent / "kernels"


def pytest_configure(config: pytest.Config) -> None:
    grids.configure(config)


@pytest.hookimpl(tryfirst=True)  # before pytest selects by -m
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The kernels' tests run with the full grid too: they are then the grid."""
    if grids.exhaustive():
        for item in items:
            if item.path.is_relative_to(KERNELS):
                item.add_marker("exhaustive")


@pytest.fixture(scope="session")
def model() -> mobilesam.MobileSAM:
    return mobilesam.load()


@pytest.fixture(scope="session")
def embedding(model: mobilesam.MobileSAM) -> mobilesam.Embedding:
    """The photo chelsea, 451x300."""
    return model.encode(PHOTOS["chelsea"])
