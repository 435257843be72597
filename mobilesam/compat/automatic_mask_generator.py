"""The reference's SamAutomaticMaskGenerator.

Source: the reference's automatic_mask_generator.py.
"""

from ..api.everything import MaskGenerator
from ..util.deferred import lazy
from .predictor import SamPredictor


class SamAutomaticMaskGenerator(MaskGenerator):
    """Generates all masks of an image. Parameters, records and their order are the reference's."""

    @lazy
    def predictor(self) -> SamPredictor:
        """A `SamPredictor` of the model. The generator does not use it, so it has no image."""
        return SamPredictor(self.model)
