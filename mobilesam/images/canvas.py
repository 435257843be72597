"""Photos as the encoder's input.

Normalising and padding follow MobileSAM's `modeling/sam.py` (Sam.preprocess) bit for bit; the way back is
`kernels.resize_logits`.
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
    """What the encoder reads: resized (Pillow's BILINEAR, in uint8), normalised, zero-padded right and below.

    image: RGB, a Photo, a PIL image or a uint8 (H, W, 3) array. Returns x (1024, 1024, 3) float32 and the size
    (new_h, new_w) of the part that the image fills.
    """
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    resized = (image if isinstance(image, Photo) else Photo(image)).resized
    mean, std = np.array(PIXEL_MEAN, np.float32), np.array(PIXEL_STD, np.float32)
    x = kernels.normalize(np.asarray(resized), mean, std, size=(IMG_SIZE, IMG_SIZE), threads=threads)
    return x, (resized.height, resized.width)
