"""Outlines of masks: filling the outlines gives the mask, and each hole belongs to the polygon around the hole."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from rings import RING, within

from mobilesam.masks.polygons import outlines

SHAPES = st.tuples(st.integers(1, 12), st.integers(1, 12))


def signed_area(ring: np.ndarray) -> float:
    """The area of a closed polygon (N, 2), negative for holes."""
    (x0, y0), (x1, y1) = ring.T, np.roll(ring, -1, axis=0).T
    return float((x0 * y1 - x1 * y0).sum() / 2)


@given(arrays(bool, SHAPES))
def test_polygons_drawn_again_are_the_mask(mask):
    drawn = np.zeros(mask.shape, int)
    for outer, *holes in outlines(mask):
        inside = within(outer, mask.shape)
        for hole in holes:
            in_hole = within(hole, mask.shape)
            assert in_hole.any() and not (in_hole & ~inside).any()  # the hole is inside the polygon that it belongs to
            inside &= ~in_hole
        assert inside.any()
        drawn += inside
    np.testing.assert_array_equal(drawn, mask)  # `drawn` counts polygons per pixel; a count of 2 would be an overlap


@given(arrays(bool, SHAPES))
def test_rings_are_simple(mask):
    for polygon in outlines(mask):
        assert [np.sign(signed_area(ring)) for ring in polygon] == [1] + [-1] * (len(polygon) - 1)
        for ring in polygon:
            assert ring.dtype == np.float64
            assert (ring * 2 == np.rint(ring * 2)).all()
            assert (ring >= 0).all() and (ring <= mask.shape[::-1]).all()
            assert len(np.unique(ring, axis=0)) == len(ring)  # no point of the outline occurs twice
            ahead, behind = np.roll(ring, -1, axis=0) - ring, ring - np.roll(ring, 1, axis=0)
            assert (behind[:, 0] * ahead[:, 1] != behind[:, 1] * ahead[:, 0]).all()  # every point is a corner


def test_a_pixel():
    [[ring]] = outlines(np.array([[False, False], [False, True]]))
    assert {tuple(point) for point in ring.tolist()} == {(1, 1.5), (1.5, 1), (2, 1.5), (1.5, 2)}


def test_a_hole_and_the_island_in_it():
    polygons = outlines(RING)
    assert sorted(len(polygon) for polygon in polygons) == [1, 2]
    outer, hole = max(polygons, key=len)
    assert len(outer) == 8  # an octagon: a rectangle whose corners are cut off
    assert signed_area(outer) == 7 * 8 - 4 * 0.125
    assert signed_area(hole) == -(3 * 3 - 4 * 0.125)


def test_pixels_that_touch_at_a_corner_are_apart():
    assert len(outlines(np.eye(3, dtype=bool))) == 3
    assert len(outlines(~np.eye(3, dtype=bool))) == 2


def test_the_edge_of_the_image_is_followed():
    [[ring]] = outlines(np.ones((30, 20), bool))
    assert signed_area(ring) == 30 * 20 - 4 * 0.125
    assert (ring.min(axis=0).tolist(), ring.max(axis=0).tolist()) == ([0, 0], [20, 30])


@pytest.mark.parametrize("shape", [(1, 1), (3, 5)])
def test_an_empty_mask_has_none(shape):
    assert outlines(np.zeros(shape, bool)) == []


def test_a_missing_contourpy_is_named():
    program = "import sys; sys.modules['contourpy'] = None; import mobilesam.masks.polygons"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    last = run.stderr.splitlines()[-1]
    assert last == "ModuleNotFoundError: polygons need contourpy: pip install 'mobilesam[polygons]'"
