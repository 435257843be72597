"""Fixtures that most tests share, and the selection of tests."""

import os
from pathlib import Path

# Makes the kernels detect writes past a buffer's end. They read the variable when they are loaded.
os.environ.setdefault("MOBILESAM_GUARDS", "1")

import grids
import pytest
from golden import PHOTOS

import mobilesam

KERNELS = Path(__file__).parent / "kernels"


def pytest_configure(config: pytest.Config) -> None:
    grids.configure(config)


@pytest.hookimpl(tryfirst=True)  # runs before pytest applies -m
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With the full grid, mark every kernel test as exhaustive, so that `-m exhaustive` selects it."""
    if grids.exhaustive():
        for item in items:
            if item.path.is_relative_to(KERNELS):
                item.add_marker("exhaustive")


@pytest.fixture(scope="session")
def model() -> mobilesam.MobileSAM:
    return mobilesam.load()


@pytest.fixture(scope="session")
def embedding(model: mobilesam.MobileSAM) -> mobilesam.Embedding:
    """The embedding of the photo chelsea, 451x300 pixels."""
    return model.encode(PHOTOS["chelsea"])
