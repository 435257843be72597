"""Photos as the encoder's input, masks as pictures and on photos, whole files or none.

Normalising and padding follow MobileSAM's `modeling/sam.py` (Sam.preprocess) bit for bit; the way back is
`kernels.resize_logits`.
"""

import io
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from . import kernels
from .config import IMG_SIZE, PIXEL_MEAN, PIXEL_STD
from .files import check_folder, whole_file
from .photo import Photo, Size, open_rgb
from .pixels import ImageLike

FILL_COLOUR = (0, 150, 255)
FILL_ALPHA = 0.4
INNER_LINE_COLOUR = (0, 90, 255)
OUTER_LINE_COLOUR = (255, 255, 255)
POSITIVE_COLOUR = (20, 160, 70)
NEGATIVE_COLOUR = (215, 40, 50)


def read_image(image: ImageLike, image_format: str = "RGB") -> NDArray[np.uint8]:
    """The image as a uint8 (H, W, 3) RGB array; accepts and raises what `open_rgb` does."""
    return np.asarray(open_rgb(image, image_format))


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


def mask_image(mask: NDArray[np.bool_]) -> Image.Image:
    """A bool (H, W) mask as an 8-bit gray image of 0 and 255."""
    return Image.fromarray(mask.view(np.uint8) * np.uint8(255))


def draw_overlay(image: ImageLike, mask: NDArray[np.bool_]) -> Image.Image:
    """The image in its own size, the mask (H, W) bool on it as a translucent colour with a two-tone outline.

    Raises ValueError where the sizes differ.
    """
    photo = open_rgb(image)
    height, width = mask.shape
    if photo.size != (width, height):
        raise ValueError(f"the mask is {width}x{height} but the image is {photo.width}x{photo.height} pixels")
    inside = mask_image(mask)
    # A box blur costs the same at any radius; it is strictly between 0 and 255 near the contour only.
    blurred = np.asarray(inside.filter(ImageFilter.BoxBlur(max(1, round(max(photo.size) / 800)))))
    contour = (blurred > 0) & (blurred < 255)
    drawn = photo.copy()
    drawn.paste(FILL_COLOUR, mask=inside.point([0] * 255 + [round(255 * FILL_ALPHA)]))
    drawn.paste(INNER_LINE_COLOUR, mask=mask_image(contour & mask))
    drawn.paste(OUTER_LINE_COLOUR, mask=mask_image(contour & ~mask))
    return drawn


def draw_prompt(
    picture: Image.Image, points: NDArray[np.number], labels: NDArray[np.integer], box: NDArray[np.number] | None
) -> Image.Image:
    """The RGB picture with a prompt drawn in: a plus on points (P, 2) of label 1, a minus on others, the box (4,)."""
    from PIL import ImageDraw  # which loads fonts

    drawn = picture.copy()
    line = max(2, round(max(picture.size) / 600))
    if box is not None:
        x0, y0, x1, y1 = (round(float(edge)) for edge in box)
        for colour, grown in ((OUTER_LINE_COLOUR, line), (POSITIVE_COLOUR, 0)):
            corners = x0 - grown, y0 - grown, x1 + grown, y1 + grown
            ImageDraw.Draw(drawn).rectangle(corners, outline=colour, width=line + 2 * grown)
    radius = max(5, round(max(picture.size) / 90))
    for (x, y), label in zip(points.tolist(), labels.tolist()):
        marker = _marker(radius, positive=label == 1)
        drawn.paste(marker, (round(x) - radius, round(y) - radius), marker)
    return drawn


def _marker(radius: int, *, positive: bool) -> Image.Image:
    """A disc with a plus or a minus, RGBA, 2·radius + 1 pixels a side; drawn larger and shrunk for smooth edges."""
    from PIL import ImageDraw

    side, zoom = 2 * radius + 1, 8
    marker = Image.new("RGBA", (side * zoom, side * zoom), (*OUTER_LINE_COLOUR, 0))
    draw = ImageDraw.Draw(marker)
    end, rim, bar = side * zoom - 1, round(side * zoom * 0.1), round(side * zoom * 0.07)
    draw.ellipse((0, 0, end, end), OUTER_LINE_COLOUR)
    draw.ellipse((rim, rim, end - rim, end - rim), POSITIVE_COLOUR if positive else NEGATIVE_COLOUR)
    near, far, middle = round(end * 0.28), round(end * 0.72), end / 2
    draw.rectangle((near, middle - bar, far, middle + bar), OUTER_LINE_COLOUR)
    if positive:
        draw.rectangle((middle - bar, near, middle + bar, far), OUTER_LINE_COLOUR)
    return marker.resize((side, side), Image.Resampling.BOX)


def check_output(path: str | os.PathLike[str], mode: str = "L") -> Path:
    """The path, where an image of this PIL mode can be written; nothing is created.

    Raises ValueError for an extension that Pillow cannot write in that mode, OSError as `files.check_folder`.
    """
    path = Path(path)
    trial = io.BytesIO()
    trial.name = path.name  # whose extension says the format
    try:
        Image.new(mode, (1, 1)).save(trial)
    except (KeyError, OSError, ValueError):
        raise ValueError(f"cannot write an image as {path.suffix.lower()!r}, use .png: {path}") from None
    check_folder(path)
    return path


def save_image(image: Image.Image, path: str | os.PathLike[str]) -> None:
    """Write the image, in the format of the path's extension, beside the path and then over it in one step.

    Raises what `check_output` raises, before anything is written; a failure leaves no file behind.
    """
    path = check_output(path, image.mode)
    with whole_file(path) as partial:
        image.save(partial)
