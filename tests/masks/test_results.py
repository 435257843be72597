"""Files and images of segmented objects, checked with other programs' readers where possible."""

import dataclasses
import json
import re
import sys
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from golden import PHOTOS
from PIL import Image
from pycocotools.coco import COCO
from rings import RING, within

import mobilesam
from mobilesam import results
from mobilesam.masks import draw, rle
from mobilesam.masks.objects import SegmentedObject

CHELSEA = PHOTOS["chelsea"]
DISC = np.hypot(*np.mgrid[-20:40, -30:60]) < 15  # the mask of a disc, 60 rows and 90 columns
BAND = np.zeros((60, 90), bool)
BAND[15:25] = True
OBJECTS = [
    SegmentedObject(DISC, "disc", 0.5),
    SegmentedObject(rle.encode(BAND), "<band>"),
    SegmentedObject(BAND, "disc"),
]


def in_polygons(polygons: list, shape: tuple[int, int]) -> np.ndarray:
    """The mask of polygons from a JSON file, filled by the even-odd rule."""
    inside = np.zeros(shape, bool)
    for polygon in polygons:
        for ring in polygon:
            inside ^= within(np.array(ring), shape)
    return inside


# COCO


def test_coco_is_what_pycocotools_reads(tmp_path):
    results.save(OBJECTS, tmp_path / "objects.json", file_name="photo.jpg")
    read = COCO(tmp_path / "objects.json")
    assert read.loadImgs(1) == [{"id": 1, "file_name": "photo.jpg", "width": 90, "height": 60}]
    annotations = read.loadAnns(read.getAnnIds(imgIds=1))
    assert [read.cats[item["category_id"]]["name"] for item in annotations] == ["disc", "<band>", "disc"]
    assert len(read.cats) == 2
    assert [item.get("score") for item in annotations] == [0.5, None, None]
    for item, mask in zip(annotations, (DISC, BAND, BAND), strict=True):
        np.testing.assert_array_equal(read.annToMask(item), mask)
        rows, columns = np.nonzero(mask)
        x, y = columns.min(), rows.min()
        assert item["bbox"] == [x, y, columns.max() - x + 1, rows.max() - y + 1]
        assert (item["area"], item["iscrowd"]) == (mask.sum(), 0)


def test_the_file_name_is_the_photos_own(tmp_path):
    named = [dataclasses.replace(item, file_name="photo.jpg") for item in OBJECTS]
    assert results.coco(named)["images"][0]["file_name"] == "photo.jpg"
    assert results.coco([OBJECTS[0], named[1]])["images"][0]["file_name"] == "photo.jpg"
    assert results.coco(named, file_name=Path("other.png"))["images"][0]["file_name"] == "other.png"
    assert results.coco(OBJECTS)["images"][0]["file_name"] == "image"  # readers refuse an empty name
    other = dataclasses.replace(OBJECTS[0], file_name="other.png")
    with pytest.raises(ValueError, match=r"several images, 'other\.png' and 'photo\.jpg': give file_name"):
        results.coco([*named, other])


@pytest.mark.extras
def test_supervision_reads_the_json(tmp_path):
    supervision = pytest.importorskip("supervision")
    Image.new("RGB", (90, 60)).save(tmp_path / "photo.jpg")
    results.save([dataclasses.replace(item, file_name="photo.jpg") for item in OBJECTS], tmp_path / "objects.json")
    read = supervision.DetectionDataset.from_coco(str(tmp_path), str(tmp_path / "objects.json"), force_masks=True)
    ((path, _, detections),) = list(read)
    assert Path(path) == tmp_path / "photo.jpg"
    assert len(detections) == len(OBJECTS)


def test_numpy_numbers_and_paths_are_json_and_nan_is_an_error(tmp_path):
    path = tmp_path / "objects.json"
    attributes = {"a": np.longdouble(1.5), "b": np.int64(2), "c": np.array([1, 2]), "d": np.bool_(True), "e": Path("f")}
    results.save([SegmentedObject(DISC, score=np.float32(0.5), attributes=attributes)], path)
    (annotation,) = json.loads(path.read_text())["annotations"]
    assert annotation.items() >= {"score": 0.5, "a": 1.5, "b": 2, "c": [1, 2], "d": True, "e": "f"}.items()
    for value in (np.nan, float("inf"), np.float32(np.nan), np.array([1, -np.inf])):
        for name in ("bad.json", "bad.geojson"):
            with pytest.raises(ValueError, match="JSON, which has no NaN, infinity or cycles"):
                results.save([SegmentedObject(DISC, attributes={"a": value})], tmp_path / name)
    with pytest.raises(TypeError, match="cannot write a object as JSON"):
        results.save([SegmentedObject(DISC, attributes={"a": object()})], tmp_path / "bad.json")
    assert [file.name for file in tmp_path.iterdir()] == ["objects.json"]


@pytest.mark.parametrize("character", ["\0", "\x0b", "\ufffe", "\uffff", "\ud800", "\x1f"])
def test_a_name_with_a_character_that_xml_lacks(tmp_path, character):
    path = tmp_path / "objects.svg"
    results.save([SegmentedObject(DISC, f"a{character}b\U0001f600<")], path)
    titles = [element.text for element in ElementTree.parse(path).iter() if element.tag.endswith("title")]
    assert titles == ["a\ufffdb\U0001f600<"]


RECORD = {
    "segmentation": rle.compress(rle.encode(DISC)),
    "area": int(DISC.sum()),
    "bbox": [16, 6, 28, 28],
    "predicted_iou": 0.9,
    "point_coords": [[1.5, 2.5]],
    "stability_score": 0.97,
    "crop_box": [0, 0, 90, 60],
}


def test_coco_of_records(tmp_path):
    """The width of a COCO box is a number of pixels. The width of a record's box is smaller by 1."""
    empty = RECORD | {"segmentation": np.zeros((60, 90), bool), "area": 0, "stability_score": float("nan")}
    objects = [SegmentedObject.from_record(record) for record in (RECORD, empty)]
    results.save(objects, tmp_path / "records.json", size=(60, 90), info={"parameters": {"points_per_side": 8}})
    read = COCO(tmp_path / "records.json")
    assert read.dataset["info"] == {"parameters": {"points_per_side": 8}}
    annotation, of_empty = read.loadAnns(read.getAnnIds(imgIds=1))
    np.testing.assert_array_equal(read.annToMask(annotation), DISC)
    assert {key: annotation[key] for key in RECORD} == RECORD | {"bbox": [16, 6, 29, 29]}
    assert annotation["score"] == RECORD["predicted_iou"]
    assert not read.annToMask(of_empty).any()
    assert (of_empty["area"], of_empty["bbox"], of_empty["stability_score"]) == (0, [0, 0, 0, 0], None)


def test_coco_of_an_image_without_objects():
    assert results.coco([], file_name="photo.jpg", size=(60, 90)) == {
        "images": [{"id": 1, "file_name": "photo.jpg", "width": 90, "height": 60}],
        "annotations": [],
        "categories": [],
    }


def test_polygons_in_coco():
    [plain] = results.coco([SegmentedObject(RING)])["annotations"]
    [item] = json.loads(json.dumps(results.coco([SegmentedObject(RING)], polygons=True)))["annotations"]
    assert item.keys() - plain.keys() == {"polygons"}
    assert sorted(len(polygon) for polygon in item["polygons"]) == [1, 2]
    np.testing.assert_array_equal(in_polygons(item["polygons"], RING.shape), RING)


# GeoJSON


def test_geojson(tmp_path):
    results.save(
        [SegmentedObject(RING, "ring", 0.75), SegmentedObject(~RING, attributes={"more": 1})],
        tmp_path / "objects.geojson",
    )
    collection = json.loads((tmp_path / "objects.geojson").read_text())
    assert collection["type"] == "FeatureCollection"
    assert [feature["properties"] for feature in collection["features"]] == [
        {"name": "ring", "area": int(RING.sum()), "score": 0.75},
        {"name": "object", "area": int((~RING).sum()), "more": 1},
    ]
    for feature, mask in zip(collection["features"], (RING, ~RING), strict=True):
        assert (feature["type"], feature["geometry"]["type"]) == ("Feature", "MultiPolygon")
        polygons = feature["geometry"]["coordinates"]
        assert all(ring[0] == ring[-1] for polygon in polygons for ring in polygon)
        np.testing.assert_array_equal(in_polygons([[ring[:-1] for ring in p] for p in polygons], mask.shape), mask)


# SVG


def test_svg(tmp_path):
    objects = [SegmentedObject(RING, "a ring & <more>", colour=(255, 0, 128)), SegmentedObject(~RING)]
    results.save(objects, tmp_path / "objects.svg")
    root = ElementTree.parse(tmp_path / "objects.svg").getroot()
    assert {key: root.get(key) for key in ("width", "height", "viewBox")} == {
        "width": "11",
        "height": "9",
        "viewBox": "0 0 11 9",
    }
    paths = root.findall("{http://www.w3.org/2000/svg}path")
    assert [path[0].text for path in paths] == ["a ring & <more>", "object"]
    assert paths[0].get("fill") == "#ff0080"
    assert re.fullmatch("#[0-9a-f]{6}", paths[1].get("fill"))
    for path, mask in zip(paths, (RING, ~RING), strict=True):
        assert path.get("fill-rule") == "evenodd"
        rings = path.get("d").removeprefix("M").removesuffix("Z").split("ZM")
        points = [[[float(v) for v in point.split(",")] for point in ring.split("L")] for ring in rings]
        np.testing.assert_array_equal(in_polygons([points], mask.shape), mask)


def test_coordinates_of_large_images_are_exact():
    mask = np.zeros((1, 70_001), bool)
    mask[0, 70_000] = True
    assert "M70000,0.5L70000.5,0" in results.svg([SegmentedObject(mask)])


# Images


STACK = [np.zeros((40, 60), bool) for _ in range(4)]
for mask, (x0, y0, x1, y1) in zip(STACK, [(10, 5, 20, 15), (0, 0, 60, 30), (12, 7, 14, 9), (15, 10, 45, 35)]):
    mask[y0:y1, x0:x1] = True
BY_FALLING_AREA = (2, 4, 1, 3)


def painted(order: tuple[int, ...]) -> np.ndarray:
    labels = np.zeros((40, 60), int)
    for number in order:
        labels[STACK[number - 1]] = number
    return labels


@pytest.mark.parametrize("form", [lambda mask: mask, rle.encode, lambda mask: rle.compress(rle.encode(mask))])
@pytest.mark.parametrize(("smallest_on_top", "order"), [(False, (1, 2, 3, 4)), (True, BY_FALLING_AREA)])
def test_label_map_of_overlapping_objects(form, smallest_on_top, order):
    objects = [SegmentedObject(form(mask)) for mask in STACK]
    labels = results.label_map(objects, smallest_on_top=smallest_on_top)
    assert labels.dtype == np.uint16
    np.testing.assert_array_equal(labels, painted(order))


def test_label_map_of_no_objects_and_of_too_many():
    labels = results.label_map([], size=(40, 60))
    assert labels.shape == (40, 60) and not labels.any()
    with pytest.raises(ValueError, match="holds at most 65535 objects, got 65536"):
        results.label_map([SegmentedObject(STACK[0])] * 65536)


def test_the_overlay_is_the_photo_tinted_inside_and_lined_at_the_ends():
    photo = Image.new("RGB", (60, 40), (100, 100, 100))
    objects = [SegmentedObject(mask) for mask in STACK[:3]] + [SegmentedObject(STACK[3], colour=(0, 0, 0))]
    drawn = np.asarray(results.overlay(photo, objects, smallest_on_top=True)).astype(int)
    labels = painted(BY_FALLING_AREA)
    expected = np.full((40, 60, 3), 100)
    for number, colour in enumerate([*results.colours(3), (0, 0, 0)], 1):
        tint = 100 + draw.FILL_OPACITY * (np.array(colour) - 100)
        expected[labels == number] = np.rint(tint)
    line = np.zeros((40, 60), bool)
    line[1:] |= labels[1:] != labels[:-1]
    line[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    expected[line] = draw.LINE_COLOUR
    np.testing.assert_allclose(drawn, expected, rtol=0, atol=1)  # Pillow computes blending in integers
    assert (np.asarray(photo) == 100).all()
    np.testing.assert_array_equal(np.asarray(results.overlay(photo, [])), np.asarray(photo))


@pytest.mark.parametrize("side", [100, 3000])
def test_the_overlays_bands_leave_no_seam(side, monkeypatch):
    """Overlays are computed in bands of rows. The bands' boundaries must not be visible.

    Lines are thicker in large images, like the image of 3000 pixels.
    """
    rng = np.random.default_rng(0)
    labels = np.kron(rng.integers(0, 9, (20, 10)), np.ones((4, side // 10), int))
    photo = Image.fromarray(rng.integers(0, 256, (*labels.shape, 3), np.uint8))
    objects = [SegmentedObject(labels == number) for number in range(1, 9)]
    whole = np.asarray(results.overlay(photo, objects))
    monkeypatch.setattr(draw, "BAND", 7)
    np.testing.assert_array_equal(np.asarray(results.overlay(photo, objects)), whole)


def test_cutout():
    photo = np.random.default_rng(0).integers(1, 256, (60, 90, 3), np.uint8)
    cut = results.cutout(photo, OBJECTS)
    assert cut.mode == "RGBA"
    inside = DISC | BAND
    np.testing.assert_array_equal(np.asarray(cut)[..., 3], np.where(inside, 255, 0))
    np.testing.assert_array_equal(np.asarray(cut)[..., :3], np.where(inside[..., None], photo, 0))
    cropped = results.cutout(photo, OBJECTS[:1], crop=True)
    rows, columns = np.nonzero(DISC)
    box = slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)
    expected = np.dstack([np.where(DISC[..., None], photo, 0), np.where(DISC, 255, 0)])[box]
    np.testing.assert_array_equal(np.asarray(cropped), expected)


def test_label_map(tmp_path):
    labels = results.label_map(OBJECTS[:2])
    assert labels.dtype == np.uint16
    np.testing.assert_array_equal(labels, np.where(BAND, 2, np.where(DISC, 1, 0)))
    Image.fromarray(labels).save(tmp_path / "labels.png")
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "labels.png")), labels)


def test_colours_differ():
    colours = results.colours(20)
    assert colours[0] == draw.FILL_COLOUR
    assert len(set(colours)) == 20
    assert all(abs(np.subtract(one, other)).max() > 60 for one, other in pairwise(colours))


# Methods of Segmentation


@pytest.fixture(scope="module")
def segmentation(embedding):
    return embedding.segment([(220, 140), (420, 40)], [1, 0], box=(60, 20, 430, 290))


def test_a_segmentation_saves_what_the_extension_says(segmentation, tmp_path):
    for name in ("object.json", "object.geojson", "object.svg", "object.SVG", "object.png"):
        segmentation.save(tmp_path / name, name="cat")
    item = segmentation.as_object("cat")
    assert json.loads((tmp_path / "object.json").read_text()) == results.coco([item])
    assert json.loads((tmp_path / "object.geojson").read_text()) == results.geojson([item])
    assert (tmp_path / "object.svg").read_text() == (tmp_path / "object.SVG").read_text() == results.svg([item])
    assert item.score == segmentation.scores.max()
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "object.png")), np.where(segmentation.mask, 255, 0))
    assert len(list(tmp_path.iterdir())) == 5


def test_a_segmentation_is_cut_out(segmentation):
    cut = segmentation.cutout(CHELSEA)
    assert (cut.mode, cut.size) == ("RGBA", (451, 300))
    rows, columns = np.nonzero(segmentation.mask)
    size = (columns.max() - columns.min() + 1, rows.max() - rows.min() + 1)
    assert segmentation.cutout(CHELSEA, crop=True).size == size


def test_the_overlay_shows_the_prompt(segmentation):
    plain = np.asarray(segmentation.overlay(CHELSEA, prompt=False)).astype(int)
    drawn = np.asarray(segmentation.overlay(CHELSEA)).astype(int)
    changed = (drawn != plain).any(axis=2)
    red, green, _ = drawn[135:146, 215:226].reshape(-1, 3).mean(axis=0)
    assert green > red  # the foreground point is drawn in green
    red, green, _ = drawn[35:46, 415:426].reshape(-1, 3).mean(axis=0)
    assert red > green  # the background point is drawn in red
    assert changed[20, 60:430].all() and changed[20:290, 60].all()  # two sides of the box
    changed[130:151, 210:231] = changed[30:51, 410:431] = False
    changed[15:26] = changed[285:296] = changed[:, 55:66] = changed[:, 425:436] = False
    assert not changed.any()


# Errors


@pytest.mark.parametrize("make", [results.coco, results.geojson, results.svg, results.label_map])
def test_sizes_must_agree(make):
    with pytest.raises(ValueError, match="no objects: at least one object is needed"):
        make([])
    with pytest.raises(ValueError, match=re.escape("one size (h, w), got (9, 11) and (60, 90)")):
        make([SegmentedObject(DISC), SegmentedObject(RING)])


@pytest.mark.parametrize("draw", [results.cutout, results.overlay])
def test_an_image_of_another_size(draw):
    with pytest.raises(ValueError, match="the masks are 90x60 but the image is 451x300 pixels"):
        draw(CHELSEA, OBJECTS)


def test_cropping_to_an_empty_mask_is_refused():
    with pytest.raises(ValueError, match="there is nothing to crop to: the masks are empty"):
        results.cutout(np.zeros((9, 11, 3), np.uint8), [SegmentedObject(RING & False)], crop=True)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("objects.png", ValueError, "objects can be written as .json, .geojson, .svg, got"),
        ("nowhere/objects.json", FileNotFoundError, "no such folder to write into"),
        ("folder.svg", IsADirectoryError, "over a folder"),
    ],
)
def test_an_impossible_file_is_refused(tmp_path, name, error, message):
    (tmp_path / "folder.svg").mkdir()
    for write in (results.check_output, lambda path: results.save(OBJECTS, path)):
        with pytest.raises(error, match=message):
            write(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == ["folder.svg"]


def test_a_missing_contourpy_is_said_before_work_starts(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "mobilesam.masks.polygons")
    monkeypatch.delattr(mobilesam.masks, "polygons")
    monkeypatch.setitem(sys.modules, "contourpy", None)
    for name in ("objects.svg", "objects.geojson"):
        with pytest.raises(ModuleNotFoundError, match=re.escape("pip install 'mobilesam[polygons]'")):
            results.check_output(tmp_path / name)
    results.save(OBJECTS, tmp_path / "objects.json")
    assert [path.name for path in tmp_path.iterdir()] == ["objects.json"]
