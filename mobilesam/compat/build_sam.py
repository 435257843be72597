"""The reference's `sam_model_registry`, of which this package has "vit_t", MobileSAM itself.

Source: the reference's build_sam.py.
"""

import os
from collections.abc import Callable

from .. import kernels
from ..api.model import MobileSAM
from ..checkpoints.fused import open_checkpoint
from ..checkpoints.reader import open_source
from ..network.loading import Network
from ..network.precision import resolve


def build_sam_vit_t(checkpoint: str | os.PathLike[str] | None = None) -> MobileSAM:
    """The model.

    checkpoint: `mobile_sam.pt` as it is published, a file that `mobilesam convert` wrote, or another that it reads;
    None for the packaged one, where the reference has random weights. A `.pt` is converted in memory at each start;
    `mobilesam convert` does it once.
    Raises FileNotFoundError, or CheckpointError (a ValueError) for a file that is no such checkpoint.
    """
    opened = open_checkpoint() if checkpoint is None else open_source(checkpoint)
    return MobileSAM(Network(opened, kernels.threads.default_threads(), resolve(None)).loaded())


class _Registry(dict[str, Callable[..., MobileSAM]]):
    def __missing__(self, name: str) -> Callable[..., MobileSAM]:
        raise KeyError(f"{name}: this package has {' and '.join(self)} only")


sam_model_registry = _Registry(vit_t=build_sam_vit_t)
