"""The limit on runs for outlines, and the hook that ends an export."""

import numpy as np
import pytest

from mobilesam.masks import draw, export, rle
from mobilesam.masks.objects import SegmentedObject

BOARD = np.add.outer(np.arange(7), np.arange(7)) % 2 == 1  # 24 runs of one pixel
FORMATS = [export.coco, export.geojson, export.svg, draw.label_map]


@pytest.mark.parametrize("form", ["mask", "list", "string"])
def test_the_limit_counts_the_runs_of_all_objects(form):
    mask = {"mask": BOARD, "list": rle.encode(BOARD), "string": rle.compress(rle.encode(BOARD))}[form]
    objects = [SegmentedObject(mask)] * 3
    export.check_outlines(objects, 72)
    export.check_outlines(objects)
    with pytest.raises(export.TooManyRuns, match="the objects have 72 runs of pixels; outlines are made of at most 71"):
        export.check_outlines(objects, 71)


def test_an_object_with_a_usual_outline_is_accepted():
    y, x = np.mgrid[:4000, :4000]
    disk = SegmentedObject((x - 2000) ** 2 + (y - 2000) ** 2 < 1900**2)
    export.check_outlines([disk] * 50)


@pytest.mark.parametrize("write", FORMATS)
def test_before_each_is_called_before_each_object(write):
    objects = [SegmentedObject(BOARD)] * 3
    calls: list[int] = []
    np.testing.assert_equal(write(objects, before_each=lambda: calls.append(1)), write(objects))
    assert len(calls) == 3

    class Cancelled(Exception):
        pass

    def cancel() -> None:
        calls.append(1)
        if len(calls) == 5:
            raise Cancelled

    with pytest.raises(Cancelled):
        write(objects, before_each=cancel)
    assert len(calls) == 5
