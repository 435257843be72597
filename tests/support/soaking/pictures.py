"""Photos of mixed sizes, made from a seed."""

import io
from random import Random

import numpy as np
from PIL import Image, ImageDraw

EXTREMES = ((1, 1), (1, 3000), (3000, 1), (7, 2000), (2000, 7), (1023, 1025), (3000, 2000), (1024, 1024))


def size_of(number: int) -> tuple[int, int]:
    """Width and height of a photo: every fourth is an extreme, the others have sides of 1 to 3000."""
    rng = Random(f"size {number}")
    if number % 4 == 0:
        return EXTREMES[number // 4 % len(EXTREMES)]
    return int(3000 ** rng.random()), int(2000 ** rng.random())


def picture(number: int) -> Image.Image:
    """Noise with ellipses and rectangles, or noise alone."""
    (width, height), rng = size_of(number), Random(f"shapes {number}")
    noise = np.random.default_rng(number).integers(0, 64, (height, width, 3), np.uint8)
    photo = Image.fromarray(noise)
    draw = ImageDraw.Draw(photo)
    for _ in range(rng.randrange(6)):
        xs, ys = (sorted(rng.randrange(side) for _ in range(2)) for side in (width, height))
        shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle
        shape((xs[0], ys[0], xs[1], ys[1]), fill=tuple(rng.randrange(256) for _ in range(3)))
    return photo


def point(number: int) -> tuple[float, float]:
    """A point (x, y) inside a photo."""
    rng, (width, height) = Random(f"point {number}"), size_of(number)
    return rng.random() * width, rng.random() * height


def file(number: int) -> bytes:
    """The photo as a PNG or JPEG file."""
    written = io.BytesIO()
    picture(number).save(written, ("PNG", "JPEG")[number % 2])
    return written.getvalue()
