"""One model and one encoded photo for every test that needs no other."""

import pytest
from golden import PHOTOS

import mobilesam


@pytest.fixture(scope="session")
def model() -> mobilesam.MobileSAM:
    return mobilesam.load()


@pytest.fixture(scope="session")
def embedding(model: mobilesam.MobileSAM) -> mobilesam.Embedding:
    """The photo chelsea, 451x300."""
    return model.encode(PHOTOS["chelsea"])
