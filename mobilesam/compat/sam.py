"""The reference's model object: a `MobileSAM` with the methods of a PyTorch module that scripts call.

Source: the reference's modeling/sam.py.
"""

from __future__ import annotations

from typing import Any, NoReturn

from ..api.crop_search import MASK_THRESHOLD
from ..api.model import MobileSAM


class Sam(MobileSAM):
    """A `MobileSAM` with the attributes of the reference's `Sam`. The CPU and float32 are the only device and dtype.

    Attributes:
        mask_threshold: Logit above which a pixel belongs to a mask.
        image_format: Channel order of images.
    """

    mask_threshold = MASK_THRESHOLD
    image_format = "RGB"

    def __reduce__(self) -> tuple[Any, ...]:
        return _as_sam, (MobileSAM(self.network),)

    @property
    def device(self) -> str:
        """Always "cpu"."""
        return "cpu"

    def to(self, device: object = "cpu") -> Sam:
        """Return the model itself. Raises ValueError for a device other than "cpu"."""
        if str(device) != "cpu":
            raise ValueError(f"device must be 'cpu', the only device that this package supports, got {str(device)!r}")
        return self

    def cpu(self) -> Sam:
        """Return the model itself."""
        return self

    def float(self) -> Sam:
        """Return the model itself, because it is in float32."""
        return self

    def eval(self) -> Sam:
        """Return the model itself, because it has no training mode."""
        return self

    def half(self) -> NoReturn:
        """Raises ValueError, because the kernels have no float16."""
        raise ValueError("half() is not supported: float16 is no dtype of this package; load(precision='bf16') is")

    def cuda(self, device: object = None) -> NoReturn:
        """Raises ValueError, because the CPU is the only device."""
        raise ValueError("cuda() is not supported: 'cpu' is the only device that this package supports")


def _as_sam(model: MobileSAM) -> Sam:
    return Sam(model.network)
