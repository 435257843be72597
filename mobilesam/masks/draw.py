"""Drawing of masks: overlays, prompts, cut-outs and label maps."""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from ..images.arrays import ImageLike
from ..images.geometry import Size
from ..images.photo import open_rgb
from ..images.pictures import mask_image
from ..images.value_range import Bands, ValueRange
from . import rle
from .objects import Colour, SegmentedObject, common_size

FILL_COLOUR = (0, 150, 255)
FILL_ALPHA = 0.4
INNER_LINE_COLOUR = (0, 90, 255)
OUTER_LINE_COLOUR = (255, 255, 255)
POSITIVE_COLOUR = (20, 160, 70)
NEGATIVE_COLOUR = (215, 40, 50)


def draw_overlay(
    image: ImageLike, mask: NDArray[np.bool_], *, value_range: ValueRange = "dtype", bands: Bands | None = None
) -> Image.Image:
    """Draw a mask (H, W) bool on the image, as a translucent colour with a two-tone outline.

    `image`, `value_range` and `bands` are those of `mobilesam.images.photo.open_rgb`.

    Raises:
        OSError, TypeError, ValueError: The image cannot be opened. See `mobilesam.images.photo.open_rgb`.
        ValueError: The sizes of the image and the mask differ.
    """
    photo = open_rgb(image, value_range=value_range, bands=bands)
    height, width = mask.shape
    if photo.size != (width, height):
        raise ValueError(f"the mask is {width}x{height} but the image is {photo.width}x{photo.height} pixels")
    inside = mask_image(mask)
    # The blurred mask lies strictly between 0 and 255 only near the contour. A box blur is fast at any radius.
    blurred = np.asarray(inside.filter(ImageFilter.BoxBlur(max(1, round(max(photo.size) / 800)))))
    contour = (blurred > 0) & (blurred < 255)
    result = photo.copy()
    result.paste(FILL_COLOUR, mask=inside.point([0] * 255 + [round(255 * FILL_ALPHA)]))
    result.paste(INNER_LINE_COLOUR, mask=mask_image(contour & mask))
    result.paste(OUTER_LINE_COLOUR, mask=mask_image(contour & ~mask))
    return result


def draw_prompt(
    picture: Image.Image, points: NDArray[np.number], labels: NDArray[np.integer], box: NDArray[np.number] | None
) -> Image.Image:
    """Draw a prompt on an RGB picture: a plus at each point of label 1, a minus at all other points, and the box.

    Args:
        picture: The RGB picture. It is not changed.
        points: (P, 2), one (x, y) per row.
        labels: (P,).
        box: (x0, y0, x1, y1), or None.
    """
    from PIL import ImageDraw  # imported here, because it loads fonts

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
    """A disc with a plus or a minus, as an RGBA image of 2·radius + 1 pixels per side.

    The disc is drawn larger and then shrunk, for smooth edges.
    """
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


FILL_OPACITY = 0.5
LINE_COLOUR = (255, 255, 255)
BAND = 512  # rows that `overlay` draws at a time
GOLDEN_RATIO = (5**0.5 - 1) / 2  # its multiples modulo 1 are far apart, so consecutive hues differ clearly


def overlay(
    image: ImageLike,
    objects: Sequence[SegmentedObject],
    *,
    smallest_on_top: bool = False,
    value_range: ValueRange = "dtype",
    bands: Bands | None = None,
) -> Image.Image:
    """Draw all objects on the image, each in its own translucent colour, with a white line around its visible part.

    If several objects cover a pixel, the pixel shows the object that `label_map` gives it.

    Args:
        image: Any image that `mobilesam.images.photo.open_rgb` accepts.
        objects: The objects.
        smallest_on_top: See `label_map`.
        value_range: See `mobilesam.images.photo.open_rgb`.
        bands: See `mobilesam.images.photo.open_rgb`.

    Raises:
        OSError, TypeError, ValueError: The image cannot be opened. See `mobilesam.images.photo.open_rgb`.
        ValueError: The sizes of the image and the masks differ.
    """
    photo = _photo(image, objects, value_range, bands)
    labels = label_map(objects, size=(photo.height, photo.width), smallest_on_top=smallest_on_top)
    palette = np.array([(0, 0, 0), *own_colours(objects)], np.uint8)
    radius = round(max(photo.size) / 1600)  # blur radius of the line; 0 on small photos, for a line one pixel wide
    result = photo.copy()
    for top in range(0, photo.height, BAND):  # bands keep the temporary arrays small
        end = min(top + BAND, photo.height)
        # The band is drawn with a margin, because lines outside the band reach into it.
        first, last = max(0, top - radius - 1), min(end + radius + 1, photo.height)
        band = _draw_labels(photo.crop((0, first, photo.width, last)), labels[first:last], palette, radius)
        result.paste(band.crop((0, top - first, photo.width, end - first)), (0, top))
    return result


def _draw_labels(
    photo: Image.Image, labels: NDArray[np.uint16], palette: NDArray[np.uint8], radius: int
) -> Image.Image:
    line = np.zeros(labels.shape, np.bool_)
    line[1:] |= labels[1:] != labels[:-1]
    line[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    if radius:
        line = np.asarray(mask_image(line).filter(ImageFilter.BoxBlur(radius))) > 0
    fill = mask_image(labels > 0).point([0] * 255 + [round(255 * FILL_OPACITY)])
    photo.paste(Image.fromarray(palette[labels]), mask=fill)
    photo.paste(LINE_COLOUR, mask=mask_image(line))
    return photo


def cutout(
    image: ImageLike,
    objects: Sequence[SegmentedObject],
    *,
    crop: bool = False,
    value_range: ValueRange = "dtype",
    bands: Bands | None = None,
) -> Image.Image:
    """Cut the objects out of the image. The result is RGBA, transparent and black outside the objects.

    Args:
        image: Any image that `mobilesam.images.photo.open_rgb` accepts.
        objects: The objects.
        crop: Crop the result to the smallest box around the objects.
        value_range: See `mobilesam.images.photo.open_rgb`.
        bands: See `mobilesam.images.photo.open_rgb`.

    Raises:
        OSError, TypeError, ValueError: The image cannot be opened. See `mobilesam.images.photo.open_rgb`.
        ValueError: The sizes of the image and the masks differ, or all masks are empty and `crop` is true.
    """
    photo = _photo(image, objects, value_range, bands)
    width, height = photo.size
    inside = np.zeros((height, width), np.bool_)
    for item in objects:
        inside |= item.pixels()
    alpha = mask_image(inside)
    box = alpha.getbbox() if crop else (0, 0, width, height)
    if box is None:
        raise ValueError("there is nothing to crop to: the masks are empty")
    cut = Image.new("RGBA", (box[2] - box[0], box[3] - box[1]))
    cut.paste(photo.crop(box), mask=alpha.crop(box))
    return cut


def label_map(
    objects: Sequence[SegmentedObject],
    *,
    size: Size | None = None,
    smallest_on_top: bool = False,
    before_each: Callable[[], None] | None = None,
) -> NDArray[np.uint16]:
    """The number of the object at each pixel, from 1 in the order of `objects`, and 0 for no object.

    `PIL.Image.fromarray` converts the label map to a 16-bit image. RLE masks are not decoded.

    Args:
        objects: The objects, at most 65535.
        size: (h, w) of the image. Required only if there are no objects.
        smallest_on_top: If several objects cover a pixel, the pixel shows the object with the smallest area. By default
            it shows the last of these objects.
        before_each: Called before each object. An error that it raises ends the export.

    Returns:
        (H, W) uint16.

    Raises:
        ValueError: There are neither objects nor a `size`, the masks' sizes differ from each other or from `size`, or
            there are more than 65535 objects.
    """
    height, width = common_size(objects, size)
    if len(objects) > np.iinfo(np.uint16).max:
        raise ValueError(f"a label map holds at most 65535 objects, got {len(objects)}")
    order = range(len(objects))
    columns = np.zeros(height * width, np.uint16)
    for i in sorted(order, key=lambda i: -objects[i].area) if smallest_on_top else order:
        if before_each is not None:
            before_each()
        for first, end in rle.spans(objects[i].run_lengths()).tolist():
            columns[first:end] = i + 1
    return np.ascontiguousarray(columns.reshape(width, height).T)


def colours(count: int) -> list[Colour]:
    """A list of `count` colours (r, g, b). Neighbours in the list differ clearly. The first is FILL_COLOUR."""
    hue, saturation, value = colorsys.rgb_to_hsv(*(level / 255 for level in FILL_COLOUR))
    hues = ((hue + i * GOLDEN_RATIO) % 1 for i in range(count))
    shades = (colorsys.hsv_to_rgb(hue, saturation, value) for hue in hues)
    return [(round(255 * red), round(255 * green), round(255 * blue)) for red, green, blue in shades]


def own_colours(objects: Sequence[SegmentedObject]) -> list[Colour]:
    """The colour of each object. An object without a colour gets the colour at its index in `colours`."""
    return [item.colour or colour for item, colour in zip(objects, colours(len(objects)))]


def _photo(
    image: ImageLike, objects: Sequence[SegmentedObject], value_range: ValueRange, bands: Bands | None
) -> Image.Image:
    """Open the image. Raises ValueError if its size is not the masks' size."""
    photo = open_rgb(image, value_range=value_range, bands=bands)
    height, width = common_size(objects) if objects else (photo.height, photo.width)
    if photo.size != (width, height):
        raise ValueError(f"the masks are {width}x{height} but the image is {photo.width}x{photo.height} pixels")
    return photo
