"""Conversion of photos to the encoder's input.

Source: MobileSAM's modeling/sam.py (`Sam.preprocess`). Normalisation and padding are bit-identical to this
reference. For LiteMedSAM: CVPR24_LiteMedSAM_infer.py of the MedSAM repository. The inverse, from mask logits to
masks of the photo's size, is `kernels.resize_logits`.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .. import kernels
from ..architecture import MOBILE_SAM, PIXEL_MEAN, PIXEL_STD, Architecture
from .area import resize_area
from .geometry import Size, resized_size
from .rgb_photo import Photo


def to_encoder_input(
    image: Photo | Image.Image | NDArray[np.uint8],
    architecture: Architecture = MOBILE_SAM,
    *,
    threads: int | None = None,
) -> tuple[NDArray[np.float32], Size]:
    """Resize in uint8, normalise and zero-pad an image for the encoder, as the architecture's `preprocessing` says.

    The padding is on the right and at the bottom.

    Args:
        image: An RGB image: a Photo, a PIL image or a uint8 (H, W, 3) array. With preprocessing "min_max" also a gray
            uint8 (H, W) array.
        architecture: The architecture of the encoder.
        threads: Number of threads. None for the default.

    Returns:
        The encoder's input (S, S, 3) float32, and the size (h, w) of the part that the image fills. S is the
        architecture's `img_size`.
    """
    side = architecture.img_size
    if architecture.preprocessing == "min_max":
        return _scaled_by_extremes(np.asarray(image.rgb if isinstance(image, Photo) else image), side, threads)
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    resized = (image if isinstance(image, Photo) else Photo(image)).resized
    mean, std = np.array(PIXEL_MEAN, np.float32), np.array(PIXEL_STD, np.float32)
    x = kernels.normalize(np.asarray(resized), mean, std, size=(side, side), threads=threads)
    return x, (resized.height, resized.width)


def _scaled_by_extremes(pixels: NDArray[np.uint8], side: int, threads: int | None) -> tuple[NDArray[np.float32], Size]:
    height, width = resized_size(pixels.shape[0], pixels.shape[1], side)
    resized = resize_area(pixels, (height, width))
    low, high = int(resized.min()), int(resized.max())
    rgb = np.broadcast_to(resized[..., None], (height, width, 3)) if resized.ndim == 2 else resized
    shift, scale = np.full(3, low, np.float32), np.full(3, max(high - low, 1e-8), np.float32)
    return kernels.normalize(rgb, shift, scale, size=(side, side), threads=threads), (height, width)
