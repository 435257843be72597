"""COCO's run-length encoding of masks: the public names of `mobilesam.masks.rle`."""

from .masks.rle import *  # noqa: F403
from .masks.rle import __all__ as __all__
