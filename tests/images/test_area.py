"""Resizing by areas against OpenCV's INTER_AREA, and against sums over whole pixels."""

import numpy as np
import pytest

from mobilesam.images.area import resize_area

SIZES = [  # (h, w) of the image and of the result
    ((300, 451), (170, 256)), ((512, 512), (256, 256)), ((512, 300), (256, 150)), ((257, 100), (256, 100)),
    ((300, 1), (256, 1)), ((300, 2), (256, 2)), ((256, 256), (256, 256)), ((64, 64), (256, 256)),
    ((96, 128), (192, 256)), ((128, 128), (256, 256)), ((100, 37), (256, 95)), ((3, 5), (154, 256)),
    ((1, 1), (256, 256)), ((255, 255), (256, 256)), ((1000, 777), (256, 199)), ((600, 706), (218, 256)),
    ((768, 512), (256, 171)), ((384, 1024), (96, 256)), ((17, 400), (11, 256)), ((85, 85), (256, 256)),
    ((1024, 768), (256, 192)), ((250, 100), (256, 102)),
]  # fmt: skip


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, shape, np.uint8)


@pytest.mark.extras
@pytest.mark.parametrize("channels", [(), (3,)], ids=["gray", "rgb"])
@pytest.mark.parametrize(("before", "after"), SIZES, ids=str)
def test_within_one_grey_level_of_opencv(
    before: tuple[int, int], after: tuple[int, int], channels: tuple[int, ...]
) -> None:
    cv2 = pytest.importorskip("cv2")
    image = noise(*before, *channels)
    expected = cv2.resize(image, after[::-1], interpolation=cv2.INTER_AREA).reshape(*after, *channels)
    assert np.abs(resize_area(image, after).astype(int) - expected).max() <= 1


def test_whole_areas_are_averaged() -> None:
    image = noise(12, 15, 3)
    expected = np.rint(image.reshape(4, 3, 5, 3, 3).mean(axis=(1, 3)))
    np.testing.assert_array_equal(resize_area(image, (4, 5)), expected)


def test_halves_round_up_when_an_image_is_halved() -> None:
    assert resize_area(np.array([[0, 1], [0, 1]], np.uint8), (1, 1)) == [[1]]


def test_parts_of_pixels_count_by_their_area() -> None:
    assert resize_area(np.array([[30, 60, 90]], np.uint8), (1, 2)).tolist() == [[40, 80]]


def test_a_constant_image_stays_constant() -> None:
    for size in ((7, 9), (40, 51), (256, 256)):
        assert (resize_area(np.full((20, 33), 201, np.uint8), size) == 201).all()


def test_enlarging_by_a_whole_factor_repeats_pixels() -> None:
    image = noise(3, 4)
    np.testing.assert_array_equal(resize_area(image, (9, 12)), image.repeat(3, 0).repeat(3, 1))
