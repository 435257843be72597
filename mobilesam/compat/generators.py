"""The reference's SamAutomaticMaskGenerator.

Source: the reference's automatic_mask_generator.py.
"""

from ..api.everything import MaskGenerator


class SamAutomaticMaskGenerator(MaskGenerator):
    """Generates all masks of an image. Parameters, records and their order are the reference's."""
