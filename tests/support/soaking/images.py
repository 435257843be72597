"""Many images in one process: encode, click, refine, and everything with four points."""

import gc
import time

import mobilesam

from .memory import describe, growth, resident
from .pictures import picture, point, size_of

EVERY = 50  # images between two lines of the log


def soak_images(images: int, limit: float) -> bool:
    """Work on images one after the other, and log the resident memory.

    Args:
        images: Number of images, at least 4.
        limit: Growth in MB that is accepted. See `memory.growth`.

    Returns:
        Whether the memory grew by at most `limit`.
    """
    model = mobilesam.load()
    generator = mobilesam.SamAutomaticMaskGenerator(model, points_per_side=2, output_mode="coco_rle")
    begun, samples = time.monotonic(), list[float]()
    for number in range(images):
        work(model, generator, number)
        gc.collect()
        samples.append(resident())
        if (number + 1) % EVERY == 0 or number + 1 == images:
            size = "{}x{}".format(*size_of(number))
            print(
                f"{number + 1:6} images {time.monotonic() - begun:8.1f} s {samples[-1]:8.1f} MB (last {size})",
                flush=True,
            )
    grown = growth(samples)
    print(f"resident memory by quarter of the run, mean in MB: {describe(samples)}")
    print(f"growth from the second quarter to the last: {grown:+.1f} MB, limit {limit:g} MB")
    return grown <= limit


def work(model: mobilesam.MobileSAM, generator: mobilesam.SamAutomaticMaskGenerator, number: int) -> None:
    photo, place = picture(number), point(number)
    embedding = model.encode(photo)
    first = embedding.segment([place])
    refined = embedding.segment([place], mask_input=first.low_res[first.best])
    assert refined.mask.shape == (photo.height, photo.width)
    for record in generator.generate_iter(photo, embedding=embedding):
        assert record["segmentation"]["size"] == [photo.height, photo.width]
