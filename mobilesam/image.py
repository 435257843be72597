"""Pictures in and out: reading, the way to the encoder's input, overlays, whole files or none.

Resizing, normalising and padding follow MobileSAM's `utils/transforms.py` (ResizeLongestSide) and
`modeling/sam.py` (Sam.preprocess) bit for bit; the way back is `kernels.resize_logits`.
"""

import io
import os
import warnings
from pathlib import Path
from typing import IO, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter, ImageOps, UnidentifiedImageError

from . import kernels
from .config import IMG_SIZE, PIXEL_MEAN, PIXEL_STD
from .files import check_folder, whole_file

ImageLike: TypeAlias = (
    str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | Image.Image | NDArray[np.generic]
)
Size: TypeAlias = tuple[int, int]  # height, width

MAX_PIXELS_VARIABLE = "MOBILESAM_MAX_PIXELS"
MAX_PIXELS = 256_000_000  # of a photo on the command line; phones make 200 million
IMAGE_FORMATS = ("RGB", "BGR")
_WITHOUT_DIRECT_CONVERSION = {"La": "LA", "RGBa": "RGBA"}  # Pillow's premultiplied modes
FILL_COLOUR = (0, 150, 255)
FILL_ALPHA = 0.4
INNER_LINE_COLOUR = (0, 90, 255)
OUTER_LINE_COLOUR = (255, 255, 255)
POSITIVE_COLOUR = (20, 160, 70)
NEGATIVE_COLOUR = (215, 40, 50)


def open_rgb(image: ImageLike, image_format: str = "RGB") -> Image.Image:
    """The image as a PIL image of mode RGB.

    image: one of
    - a path, the bytes of a file or a binary file object, in any format that Pillow reads; EXIF orientation is
      honoured, an animation gives its first frame;
    - a PIL image of any mode, taken as it is, whatever its EXIF says;
    - an array (H, W), or (H, W, C) of 1 (gray), 2 (gray, alpha), 3 (RGB) or 4 (RGB, alpha) channels, uint8, uint16,
      bool or float in [0, 1].
    Every other colour space becomes RGB. Alpha is dropped, not composed: what it hides is seen. 16-bit values are
    scaled by their range, 65535 becomes 255; so are PIL's modes I (0 to 65535) and F ([0, 1]).
    image_format: "RGB", or "BGR" where an array's colours are in that order, as OpenCV's are.
    Raises OSError for a file that cannot be opened, ValueError for an image that is none, damaged, empty, not finite,
    out of range, or so large (over twice PIL.Image.MAX_IMAGE_PIXELS) that it may be a decompression bomb, before it
    is decoded; TypeError for anything else.
    """
    if image_format not in IMAGE_FORMATS:
        raise ValueError(f"image_format must be 'RGB' or 'BGR', got {image_format!r}")
    if isinstance(image, np.ndarray):
        return _from_array(image, image_format)
    if image_format != "RGB":
        raise ValueError("image_format='BGR' is for arrays: a file or a PIL image says itself what its colours are")
    if isinstance(image, Image.Image):
        return _to_rgb(image)
    if isinstance(image, (bytes, bytearray, memoryview)):
        return _decode(io.BytesIO(image), f"{len(image)} bytes")
    if isinstance(image, (str, os.PathLike)):
        path = Path(image)
        if path.is_file():
            return _decode(os.fspath(path), os.fspath(image))
        with path.open("rb") as file:  # a pipe, or what cannot be opened
            return _decode(file, os.fspath(image))
    if not hasattr(image, "read"):
        expected = "a path, bytes, a file object, a PIL image or a NumPy array"
        raise TypeError(f"image must be {expected}, got {type(image).__name__}")
    if isinstance(image, io.TextIOBase):
        raise TypeError("the image's file is open as text: open it with mode 'rb'")
    return _decode(image, str(getattr(image, "name", "a file object")))


def allow_large_photos() -> None:
    """Set Pillow's limit for this process to MOBILESAM_MAX_PIXELS, by default 256 million; its own is 179 million.

    For commands, to which the process belongs. Raises ValueError for a variable that is no number from 1.
    """
    given = os.environ.get(MAX_PIXELS_VARIABLE, "")
    if given and (not given.isascii() or not given.isdecimal() or int(given) < 1):
        raise ValueError(f"{MAX_PIXELS_VARIABLE} must be a number of pixels, got {given!r}")
    Image.MAX_IMAGE_PIXELS = -(-int(given or MAX_PIXELS) // 2)  # twice that is refused; from that on it warns
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)


def _decode(file: str | IO[bytes], name: str) -> Image.Image:
    try:
        with Image.open(file) as picture:  # a path's extension says which of Pillow's formats is loaded
            picture.filename = ""  # by which it would be mapped, and a process killed whose file is cut short meanwhile
            ImageOps.exif_transpose(picture, in_place=True)
            return _to_rgb(picture)
    except MemoryError:
        raise
    except UnidentifiedImageError:
        raise ValueError(f"not an image that Pillow can read: {name}") from None
    except Image.DecompressionBombError as error:
        limit = f"to allow it, raise PIL.Image.MAX_IMAGE_PIXELS, on the command line {MAX_PIXELS_VARIABLE}"
        raise ValueError(f"cannot decode image {name}: {str(error).rstrip('.')}; {limit}") from None
    except Exception as error:  # Pillow's decoders raise a dozen types on damaged data
        if isinstance(file, str) and isinstance(error, OSError) and error.filename is not None:
            raise  # the system's, which names the file
        raise ValueError(f"cannot decode image {name}: {error}") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if 0 in image.size:
        raise ValueError(f"the image is empty: {image.width}x{image.height} pixels")
    if image.mode == "RGB":
        image.load()
        return image
    if image.mode == "F" or image.mode.startswith("I"):
        levels = np.asarray(image)
        if image.mode == "I":
            if levels.min() < 0 or levels.max() > 65535:
                raise ValueError("an integer gray image must hold 16-bit values (0 to 65535)")
            levels = levels.astype(np.uint16)
        image = Image.fromarray(_to_uint8(levels))
    elif image.mode in _WITHOUT_DIRECT_CONVERSION:
        image = image.convert(_WITHOUT_DIRECT_CONVERSION[image.mode])
    elif image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")
    return image.convert("RGB")


def _from_array(array: NDArray[np.generic], image_format: str) -> Image.Image:
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.ndim not in (2, 3) or not 1 <= channels <= 4 or array.size == 0:
        expected = "(H, W), or (H, W, C) of 1 to 4 channels, and not empty"
        raise ValueError(f"an image array must be {expected}, got shape {array.shape}")
    levels = _to_uint8(array)
    if channels < 3:
        return Image.fromarray(levels.reshape(*levels.shape[:2], channels)[:, :, 0]).convert("RGB")
    rgb = levels[:, :, :3] if image_format == "RGB" else levels[:, :, 2::-1]
    return Image.fromarray(np.ascontiguousarray(rgb))


def _to_uint8(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    kind = values.dtype.kind
    if values.dtype == np.uint8:
        return values.astype(np.uint8, copy=False)
    if kind == "b":
        return values.astype(np.uint8) * np.uint8(255)
    if kind == "u" and values.dtype.itemsize == 2:
        return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if kind != "f":
        raise TypeError(f"an image array must be uint8, uint16, bool or float in [0, 1], got dtype {values.dtype}")
    if not np.isfinite(values).all():
        raise ValueError("a float image must lie in [0, 1], got NaN or infinity")
    levels = np.rint(values.astype(np.float32) * np.float32(255))
    if levels.min() < 0 or levels.max() > 255:
        span = f"{float(values.min()):g} to {float(values.max()):g}"
        raise ValueError(f"a float image must lie in [0, 1], got values from {span}; scale them, or convert to uint8")
    return levels.astype(np.uint8)


def read_image(image: ImageLike, image_format: str = "RGB") -> NDArray[np.uint8]:
    """The image as a uint8 (H, W, 3) RGB array; accepts and raises what `open_rgb` does."""
    return np.asarray(open_rgb(image, image_format))


def resized_size(height: int, width: int, longest: int = IMG_SIZE) -> Size:
    """The size (new_h, new_w) on the model's canvas: the longest side becomes 1024, halves round up.

    A side that would round to 0 (beyond 2048:1, where the reference fails) becomes 1.
    """
    scale = longest / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def to_encoder_input(
    image: Image.Image | NDArray[np.uint8], *, threads: int | None = None
) -> tuple[NDArray[np.float32], Size]:
    """What the encoder reads: resized (Pillow's BILINEAR, in uint8), normalised, zero-padded right and below.

    image: RGB, a PIL image or a uint8 (H, W, 3) array. Returns x (1024, 1024, 3) float32 and the size
    (new_h, new_w) of the part that the image fills.
    """
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    new_h, new_w = resized_size(image.height, image.width)
    if image.size != (new_w, new_h):
        image = image.resize((new_w, new_h), Image.Resampling.BILINEAR)
    mean, std = np.array(PIXEL_MEAN, np.float32), np.array(PIXEL_STD, np.float32)
    x = kernels.normalize(np.asarray(image), mean, std, size=(IMG_SIZE, IMG_SIZE), threads=threads)
    return x, (new_h, new_w)


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
