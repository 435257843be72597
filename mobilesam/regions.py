"""Small regions and duplicates: the public names of `mobilesam.masks.regions`."""

from .masks.regions import *  # noqa: F403
from .masks.regions import __all__ as __all__
