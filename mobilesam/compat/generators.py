"""The reference's SamAutomaticMaskGenerator.

Source: the reference's automatic_mask_generator.py.
"""

from ..api.everything import MaskGenerator


class SamAutomaticMaskGenerator(MaskGenerator):
    """All masks of an image, under the reference's parameters."""
