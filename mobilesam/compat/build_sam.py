"""The reference's `sam_model_registry`: "vit_t", and "vit_tiny" as in the package segment-anything-hq.

Source: the reference's build_sam.py.
"""

import os
from collections.abc import Callable

from .. import kernels
from ..checkpoints.reader import open_source
from ..network.loading import Network
from ..network.precision import resolve
from .sam import Sam


def build_sam_vit_t(checkpoint: str | os.PathLike[str] | None = None) -> Sam:
    """Load the model.

    Args:
        checkpoint: The published `mobile_sam.pt`, or any file that `mobilesam convert` reads or writes. A `.pt` file is
            converted in memory at each call. To convert it only once, use `mobilesam convert`. None for the packaged
            checkpoint (the reference uses random weights instead).

    Raises:
        FileNotFoundError: There is no such file.
        CheckpointError: The file is not a MobileSAM checkpoint. CheckpointError is a ValueError.
    """
    return Sam(Network(open_source(checkpoint), kernels.threads.default_threads(), resolve(None)).loaded())


build_sam = build_sam_vit_t


class _Registry(dict[str, Callable[..., Sam]]):
    def __missing__(self, name: str) -> Callable[..., Sam]:
        raise KeyError(f"{name}: this package has only {' and '.join(self)}")


sam_model_registry = _Registry(vit_t=build_sam_vit_t, vit_tiny=build_sam_vit_t)
