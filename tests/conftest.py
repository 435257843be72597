"""Fixtures that most tests share, and the selection of tests."""

import os
from pathlib import Path

# With MOBILESAM_GUARDS, kernels detect writes past a buffer's end. The variable is read when kernels are loaded.
os.environ.setdefault("MOBILESAM_GUARDS", "1")

import grids
import pytest
from golden import PHOTOS

import mobilesam

KERNELS = Path(__file__).parent / "kernels"


def pytest_configure(config: pytest.Config) -> None:
    grids.configure(config)


@pytest.hookimpl(tryfirst=True)  # runs before pytest applies the option -m
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark every kernel test as exhaustive if `-m exhaustive` was given, so that the option selects the test."""
    if grids.exhaustive():
        for item in items:
            if item.path.is_relative_to(KERNELS):
                item.add_marker("exhaustive")


@pytest.fixture(scope="session")
def model() -> mobilesam.MobileSAM:
    return mobilesam.load()


@pytest.fixture(scope="session")
def embedding(model: mobilesam.MobileSAM) -> mobilesam.Embedding:
    """The embedding of the photo chelsea, which has 451x300 pixels."""
    return model.encode(PHOTOS["chelsea"])
