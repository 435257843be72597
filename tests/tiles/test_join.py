"""Joining the masks of tiles, with masks that a perfect model would find."""

import numpy as np
import pytest

from mobilesam.masks import rle, runs
from mobilesam.tiles.grid import Grid
from mobilesam.tiles.join import TileMask, cut_sides, distinct, join

GRID = Grid((60, 90), (20, 30), (8, 12))


def disc(x: float, y: float, radius: float) -> np.ndarray:
    row, column = np.mgrid[:60, :90]
    return (column + 0.5 - x) ** 2 + (row + 0.5 - y) ** 2 < radius**2


def seen(objects: list[np.ndarray], grid: Grid = GRID) -> list[tuple[int, list[TileMask]]]:
    """The masks of each tile: the part of each object that lies in the tile's outer box."""
    tiles = []
    for tile in grid:
        masks = []
        for i, mask in enumerate(objects):
            part = runs.clipped(rle.to_runs(rle.encode(mask)), tile.outer)
            if len(part):
                cut = cut_sides(runs.box(part), tile.outer, grid)
                masks.append(TileMask(part, 0.9, 0.95, (i, i), tile.number, cut))
        tiles.append((tile.number, masks))
    return tiles


def pixels(mask: TileMask) -> np.ndarray:
    counts = rle.from_runs(mask.runs, (60, 90))
    return rle.decode({"size": [60, 90], "counts": counts.tolist()})


def check(objects: list[np.ndarray], grid: Grid = GRID) -> list[TileMask]:
    """The joined masks must be the objects, in any order."""
    joined = list(join(seen(objects, grid), grid))
    got = sorted(pixels(mask).tobytes() for mask in joined)
    assert got == sorted(mask.tobytes() for mask in objects)
    return joined


@pytest.mark.parametrize("x", [15, 29, 30, 31, 45, 60])
@pytest.mark.parametrize("y", [10, 19, 20, 21, 30, 40])
def test_an_object_at_a_seam_is_one_object(x: int, y: int) -> None:
    (mask,) = check([disc(x, y, 6)])
    x0, y0, x1, y1 = GRID[mask.tile].core
    assert x0 <= x <= x1 and y0 <= y <= y1


def test_objects_at_every_corner_and_seam() -> None:
    check([disc(x, y, 4) for x in range(5, 90, 10) for y in range(5, 60, 10)])


@pytest.mark.parametrize("turned", [False, True])
def test_an_object_larger_than_a_tile_is_the_union_of_its_parts(turned: bool) -> None:
    river = np.zeros((60, 90), bool)
    if turned:
        river[5:55, 40:46] = True
    else:
        river[27:33, 3:87] = True
    (mask,) = check([river])
    assert not mask.cut


def test_a_bend_over_many_tiles() -> None:
    bend = np.zeros((60, 90), bool)
    bend[8:12, 4:86] = bend[8:54, 82:86] = bend[50:54, 4:86] = True
    check([bend, disc(40, 30, 7)])


def test_a_remnant_is_dropped() -> None:
    """A mask that is cut off, and that no neighbour continues, is no object."""
    tiles = seen([disc(30, 20, 14)])
    only = [(number, masks if number == 0 else []) for number, masks in tiles]
    assert len(only[0][1]) == 1
    assert list(join(only, GRID)) == []


def test_a_union_that_lacks_a_part_is_dropped() -> None:
    """Three of four tiles find a large object at their common corner. The fourth tile does not."""
    grid = Grid((40, 60), (20, 30), (8, 12))
    field = np.zeros((60, 90), bool)
    field[4:36, 6:54] = True
    tiles = seen([field[:40, :60]], grid)
    assert len(list(join(tiles, grid))) == 1
    assert list(join(tiles[:3], grid)) == []


def test_a_remnant_beside_the_whole_object_does_not_change_it() -> None:
    """Tile 1 sees the whole object. The mask of tile 0 is a part with an error of some pixels."""
    whole = disc(34, 10, 8)
    tiles = dict(seen([whole]))
    assert tiles[0][0].cut and not tiles[1][0].cut
    tiles[0][0].runs[:, 2] += 1
    (mask,) = join(tiles.items(), GRID)
    assert np.array_equal(pixels(mask), whole)


def test_objects_inside_one_another_stay_apart() -> None:
    check([disc(30, 20, 9), disc(30, 20, 5), disc(30, 20, 2.5)])


def test_objects_that_differ_in_the_strip_are_not_joined() -> None:
    a, b = disc(24, 10, 5), disc(36, 10, 5)
    tiles = [(0, seen([a])[0][1]), (1, seen([b])[1][1])]
    assert [len(masks) for _, masks in tiles] == [1, 1]
    assert len(list(join(tiles, GRID))) == 2


def test_each_mask_has_at_most_one_partner_in_a_tile() -> None:
    """Two similar masks of one tile stay two objects."""
    a = disc(30, 10, 8)
    b = disc(30, 10, 7.2)
    assert (b.sum() / a.sum()) > 0.7
    check([a, b])


def test_objects_come_row_by_row_and_memory_is_freed() -> None:
    grid = Grid((60, 90), (20, 30), (4, 4))
    objects = [disc(15, y, 3) for y in (10, 30, 50)]
    tiles, finished = seen(objects, grid), []

    def watched():
        for number, masks in tiles:
            yield number, masks
            finished.append(len(out))

    out = []
    for mask in join(watched(), grid):
        out.append(mask)
    assert [mask.tile // 3 for mask in out] == [0, 1, 2]
    assert finished[-1] == 1  # the object of row 0 came while row 2 was read


def test_scores_of_a_union_are_those_of_the_largest_part() -> None:
    river = np.zeros((60, 90), bool)
    river[27:33, 3:87] = True
    tiles = seen([river])
    for number, masks in tiles:
        for mask in masks:
            mask.predicted_iou = 0.5 + number / 100
    (mask,) = join(tiles, GRID)
    assert mask.predicted_iou == 0.54  # the middle tile of the middle row


def test_the_ground_is_no_object() -> None:
    ground = ~(disc(30, 20, 9) | disc(70, 45, 6))
    joined = list(join(seen([ground, disc(30, 20, 9), disc(70, 45, 6)]), GRID))
    assert len(joined) == 2
    whole = Grid((60, 90), 90, 8)
    assert len(list(join(seen([ground], whole), whole))) == 1  # an image of one tile is searched like a photo


def test_of_masks_that_show_the_same_object_the_best_is_kept() -> None:
    a, nested = disc(30, 20, 9), disc(30, 20, 7)
    stray = a.copy()
    stray[40, 30] = True
    parts = [rle.to_runs(rle.encode(mask)) for mask in (stray, a, nested)]
    masks = [TileMask(part, score, 0.95, (0, 0), 0, frozenset()) for part, score in zip(parts, (0.95, 0.9, 0.8))]
    assert distinct(masks) == [masks[0], masks[2]]
    masks[1].predicted_iou = 1.0
    assert distinct(masks) == [masks[1], masks[2]]
    assert distinct([]) == []


def test_a_mask_that_ends_less_than_a_low_resolution_pixel_before_the_edge_is_cut_off() -> None:
    grid = Grid((4000, 4000), 1024, 256)
    outer = grid[5].outer
    assert outer == (768, 768, 2304, 2304)
    assert cut_sides((774, 768 + 5, 2304 - 6, 2304 - 5), outer, grid) == {1, 3}
    assert cut_sides((0, 0, 1276, 1280), grid[0].outer, grid) == {2, 3}
