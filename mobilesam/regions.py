"""Removal of small mask regions and of duplicate boxes: the public names of `mobilesam.masks.regions`."""

from .masks.regions import *  # noqa: F403
from .masks.regions import __all__ as __all__
