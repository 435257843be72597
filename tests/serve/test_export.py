"""Exports over HTTP: the library's files, limits, and exports whose client leaves."""

import io
import json
import zipfile

import numpy as np
import pytest
from golden import PHOTOS
from PIL import Image
from serving import CHELSEA, said

from mobilesam import results
from mobilesam.masks import rle
from mobilesam.masks.export import check_outlines
from mobilesam.masks.objects import SegmentedObject

pytest.importorskip("fastapi", reason="the extra serve is not installed")

from mobilesam.masks.polygons import outlines
from mobilesam.serve.export import export
from mobilesam.serve.lanes import Stopped, Task
from mobilesam.serve.schema import ExportRequest
from mobilesam.serve.store import StoredPhoto

OBJECTS = [
    {"name": "the cat", "colour": "#ff8000", "prompt": {"points": [[220, 140]]}},
    {"name": "a/b:c", "prompt": {"box": [60, 20, 200, 190]}, "choice": 0},
]


@pytest.fixture(scope="module")
def objects(embedding):
    """SegmentedObjects for the prompts in OBJECTS, and for a stripe whose mask the client sends as run lengths."""
    cat, box = embedding.segment([(220, 140)]), embedding.segment(box=(60, 20, 200, 190))
    stripe = np.zeros((300, 451), np.bool_)
    stripe[40:50] = True
    return [
        SegmentedObject(cat.mask, "the cat", float(cat.scores[cat.best]), (255, 128, 0)),
        SegmentedObject(box.masks[0], "a/b:c", float(box.scores[0])),
        SegmentedObject(rle.encode(stripe), "stripe"),
    ]


@pytest.fixture
def chelsea_photo(embedding):
    return StoredPhoto(CHELSEA, embedding)


@pytest.fixture(scope="module")
def exported(client, chelsea, objects):
    """A function that requests the export of OBJECTS and the stripe in a given format and returns the response."""
    stripe = {"name": "stripe", "rle": rle.compress(objects[2].mask)}

    def ask(form: str, count: int = 3, **more):
        request = {"format": form, "objects": [*OBJECTS, stripe][:count], **more}
        answer = client.post(f"{chelsea}/export", json=request)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-disposition"].startswith("attachment; filename=")
        return answer

    return ask


def test_export_label_map(exported, objects):
    answer = exported("labels")
    assert answer.headers["content-type"] == "image/png"
    with Image.open(io.BytesIO(answer.content)) as labels:
        np.testing.assert_array_equal(np.asarray(labels), results.label_map(objects))


def test_export_coco(exported, objects):
    assert exported("coco", file_name="chelsea.png").json() == results.coco(objects, file_name="chelsea.png")


def test_export_outlines(exported, objects):
    assert exported("svg").text == results.svg(objects)
    assert exported("geojson").json() == json.loads(json.dumps(results.geojson(objects)))


@pytest.mark.parametrize("crop", [False, True])
def test_export_cut_outs(exported, objects, crop):
    expected = [results.cutout(PHOTOS["chelsea"], [item], crop=crop) for item in objects]
    one = exported("cutout", count=1, crop=crop)
    assert one.headers["content-type"] == "image/png"
    many = exported("cutout", crop=crop)
    assert many.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(many.content)) as archive:
        assert archive.namelist() == ["001 the cat.png", "002 a_b_c.png", "003 stripe.png"]
        files = [archive.read(name) for name in archive.namelist()]
    for file, picture_ in zip([one.content, *files], [expected[0], *expected]):
        with Image.open(io.BytesIO(file)) as cut:
            assert cut.mode == "RGBA"
            np.testing.assert_array_equal(np.asarray(cut), np.asarray(picture_))


def test_masks_as_polygons(client, chelsea, embedding):
    answer = client.post(f"{chelsea}/masks", json={"points": [[220, 140]], "format": "polygons"}).json()
    expected = [[ring.tolist() for ring in polygon] for polygon in outlines(embedding.segment([(220, 140)]).mask)]
    assert answer["masks"][0]["polygons"] == expected


@pytest.mark.parametrize("form", ["svg", "geojson"])
def test_outlines_that_are_too_long_are_refused(client, chelsea, form):
    checkers = rle.compress(rle.encode(np.indices((300, 451)).sum(axis=0) % 2 == 1))
    request = {"format": form, "objects": [{"name": f"object {i}", "rle": checkers} for i in range(5)]}
    answer = client.post(f"{chelsea}/export", json=request)
    assert answer.status_code == 413
    assert "runs of pixels; outlines are made of at most 300000 runs" in said(answer)
    assert client.post(f"{chelsea}/export", json={**request, "format": "coco"}).status_code == 200


def test_cut_outs_of_too_many_pixels_are_refused(client, chelsea, monkeypatch):
    monkeypatch.setattr("mobilesam.serve.export.MOST_CUTOUT_PIXELS", 2 * 451 * 300)
    request = {"format": "cutout", "objects": [OBJECTS[0]] * 3}
    answer = client.post(f"{chelsea}/export", json=request)
    assert answer.status_code == 413
    assert "the cut-outs have 0 megapixels; at most 0.2706 megapixels" in said(answer)
    for less in ({**request, "objects": [OBJECTS[0]] * 2}, {**request, "objects": [OBJECTS[1]] * 3, "crop": True}):
        assert client.post(f"{chelsea}/export", json=less).status_code == 200


def test_polygons_that_are_too_long_are_refused(client, chelsea, monkeypatch):
    monkeypatch.setattr(check_outlines, "__defaults__", (100,))
    answer = client.post(f"{chelsea}/masks", json={"points": [[220, 140]], "format": "polygons"})
    assert answer.status_code == 413
    assert "outlines are made of at most 100 runs" in said(answer)


@pytest.mark.parametrize("form", ["cutout", "labels", "coco", "geojson", "svg"])
def test_an_export_ends_when_its_client_leaves(chelsea_photo, form):
    task, steps = Task(), []
    task.check = lambda: steps.append(1) or (len(steps) > 4 and task.stop()) or Task.check(task)
    objects = [{"name": str(i), "prompt": {"box": [60, 20, 430, 290]}} for i in range(3)]
    with pytest.raises(Stopped):
        export(chelsea_photo, ExportRequest(format=form, objects=objects), lambda: Image.new("RGB", (451, 300)), task)
    assert len(steps) == 5  # three while the objects are made, two while they are written


WRONG_OBJECTS = {
    "objects: List should have at least 1 item": [],
    "objects.1: expected a prompt or an rle": [OBJECTS[0], {"name": "nothing"}],
    "objects.0: no prompt": [{"prompt": {}}],
    "objects.0: point (452, 1) lies outside": [{"prompt": {"points": [[452, 1]]}}],
    "objects.0: choice: the prompt has 1 candidate masks": [
        {"prompt": {"points": [[1, 1]], "multimask": False}, "choice": 1}
    ],
    "objects.0: rle: expected the image's size (300, 451), got (9, 9)": [{"rle": {"size": [9, 9], "counts": "Q2"}}],
    "objects.0: an RLE's counts must": [{"rle": {"size": [300, 451], "counts": "Q2"}}],
    "objects.0: an RLE's string": [{"rle": {"size": [300, 451], "counts": "é"}}],
    "objects.0.colour: ": [{**OBJECTS[0], "colour": "red"}],
}


@pytest.mark.parametrize("message", WRONG_OBJECTS)
def test_wrong_objects_are_refused_in_words(client, chelsea, message):
    answer = client.post(f"{chelsea}/export", json={"format": "coco", "objects": WRONG_OBJECTS[message]})
    assert answer.status_code == 422
    assert message in said(answer)
