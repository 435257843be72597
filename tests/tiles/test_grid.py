"""The division of images into tiles."""

import numpy as np
import pytest
from grids import any_case
from hypothesis import given
from hypothesis import strategies as st

from mobilesam.tiles.grid import Grid, common_box

SIZES = st.tuples(st.integers(1, 70), st.integers(1, 70))


@any_case(50)
@given(SIZES, st.tuples(st.integers(9, 40), st.integers(9, 40)), st.integers(0, 20))
def test_cores_cover_the_image_once_and_halos_surround_them(
    size: tuple[int, int], tile: tuple[int, int], halo: int
) -> None:
    halo = min(halo, min(tile) // 2)
    grid = Grid(size, tile, halo)
    covered = np.zeros(size, int)
    for number, each in enumerate(grid):
        x0, y0, x1, y1 = each.core
        assert each.number == number
        covered[y0:y1, x0:x1] += 1
        assert each.outer == (max(x0 - halo, 0), max(y0 - halo, 0), min(x1 + halo, size[1]), min(y1 + halo, size[0]))
        for x, y in ((x0, y0), (x1 - 1, y1 - 0.5), (x1 - 0.5, y0)):
            assert grid.at(x, y).number == number
        before = [other.number for other in grid if other.number < number and common_box(other.outer, each.outer)]
        assert set(before) <= set(grid.neighbours_before(number))
    assert (covered == 1).all()
    assert grid.at(size[1], size[0]).number == len(grid) - 1


@any_case(50)
@given(SIZES, st.data())
def test_the_tile_around_a_box_contains_it_with_a_halo(size: tuple[int, int], data: st.DataObject) -> None:
    grid = Grid(size, 8, 3)
    height, width = size
    x0, x1 = sorted(data.draw(st.tuples(st.integers(0, width), st.integers(0, width))))
    y0, y1 = sorted(data.draw(st.tuples(st.integers(0, height), st.integers(0, height))))
    left, top, right, bottom = grid.around((x0, y0, x1, y1))
    assert 0 <= left <= max(x0 - 3, 0) and min(x1 + 3, width) <= right <= width
    assert 0 <= top <= max(y0 - 3, 0) and min(y1 + 3, height) <= bottom <= height
    assert right - left == min(width, max(8, x1 - x0) + 6)


@pytest.mark.parametrize(
    ("tile", "halo", "message"),
    [
        (0, 0, "tile must be at least 1, got 0"),
        (8.5, 0, "tile must be a whole number of pixels, or .h, w., got 8.5"),
        (True, 0, "tile must be a whole number"),
        ((8, 8, 8), 0, "tile must be a whole number"),
        (8, -1, "halo must be at least 0, got -1"),
        (8, 5, "halo must be at most half of tile"),
        ((8, 20), (2, 11), "halo must be at most half of tile"),
    ],
)
def test_a_wrong_tile_or_halo_is_refused(tile: object, halo: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Grid((100, 100), tile, halo)


def test_a_wrong_number_is_refused() -> None:
    with pytest.raises(IndexError, match="tile must be from 0 to 3, got 4"):
        Grid((16, 16), 8, 0)[4]
