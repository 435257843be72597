"""A mask with a hole and an island in the hole, and a point-in-polygon test."""

import numpy as np

RING = np.zeros((9, 11), bool)
RING[1:8, 1:9] = True
RING[3:6, 3:6] = False
RING[4, 4] = True


def within(ring: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Whether each pixel's centre is inside a closed polygon.

    A centre is inside if an odd number of edges of the polygon crosses the pixel's row to the left of the centre.

    Args:
        ring: (N, 2), x and y of the polygon's corners. The last corner is connected to the first.
        shape: Height and width of the image.

    Returns:
        Bool array (H, W).
    """
    (x0, y0), (x1, y1) = ring.T, np.roll(ring, -1, axis=0).T
    inside = np.zeros(shape, bool)
    centres = np.arange(shape[1]) + 0.5
    for row in range(shape[0]):
        y = row + 0.5
        crossed = (y0 <= y) != (y1 <= y)
        at = x0[crossed] + (y - y0[crossed]) * (x1 - x0)[crossed] / (y1 - y0)[crossed]
        inside[row] = (at[:, None] < centres).sum(axis=0) % 2
    return inside
