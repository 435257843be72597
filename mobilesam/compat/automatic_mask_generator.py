"""The reference's SamAutomaticMaskGenerator, and TinySAM's SamHierarchicalMaskGenerator.

Source: the reference's automatic_mask_generator.py; TinySAM's hierarchical_mask_generator.py.
"""

from ..api.everything import HierarchicalMaskGenerator, MaskGenerator
from ..util.deferred import lazy
from .predictor import SamPredictor


class SamAutomaticMaskGenerator(MaskGenerator):
    """Generates all masks of an image. Parameters, records and their order are the reference's."""

    @lazy
    def predictor(self) -> SamPredictor:
        """A `SamPredictor` of the model. The generator does not use it, so it has no image."""
        return SamPredictor(self.model)


class SamHierarchicalMaskGenerator(HierarchicalMaskGenerator):
    """Generates masks at a coarse grid, then at the points that it leaves open. The parameters are TinySAM's."""
