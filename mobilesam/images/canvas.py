"""Conversion of photos to the encoder's input.

Source: MobileSAM's modeling/sam.py (`Sam.preprocess`). Normalisation and padding are bit-identical to this
reference. The inverse, from mask logits to masks of the photo's size, is `kernels.resize_logits`.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .. import kernels
from ..architecture import IMG_SIZE, PIXEL_MEAN, PIXEL_STD
from .geometry import Size
from .rgb_photo import Photo


def to_encoder_input(
    image: Photo | Image.Image | NDArray[np.uint8], *, threads: int | None = None
) -> tuple[NDArray[np.float32], Size]:
    """Resize (Pillow's BILINEAR in uint8), normalise and zero-pad an image for the encoder.

    The padding is on the right and at the bottom.

    Args:
        image: An RGB image: a Photo, a PIL image or a uint8 (H, W, 3) array.
        threads: Number of threads. None for the default.

    Returns:
        The encoder's input (1024, 1024, 3) float32, and the size (h, w) of the part that the image fills.
    """
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    resized = (image if isinstance(image, Photo) else Photo(image)).resized
    mean, std = np.array(PIXEL_MEAN, np.float32), np.array(PIXEL_STD, np.float32)
    x = kernels.normalize(np.asarray(resized), mean, std, size=(IMG_SIZE, IMG_SIZE), threads=threads)
    return x, (resized.height, resized.width)
