"""The classes for batches of images, without a cluster."""

import json
import pickle

import numpy as np
import pytest
from golden import PHOTOS

import mobilesam
from mobilesam import rle
from mobilesam.batch import Everything, Segment

QUICK = {"points_per_side": 3, "pred_iou_thresh": 0.7, "stability_score_thresh": 0.8}


def column(*values: object) -> np.ndarray:
    result = np.empty(len(values), object)
    result[:] = values
    return result


@pytest.fixture(scope="module")
def everything() -> Everything:
    return Everything(threads=2, **QUICK)


def test_annotations_are_the_records(everything: Everything, tmp_path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"\xff\xd8nothing")
    paths = column(str(PHOTOS["chelsea"]), str(broken), str(tmp_path / "missing.png"))
    result = everything({"path": paths, "number": np.arange(3)})
    assert set(result) == {"path", "number", "image_id", "file_name", "width", "height", "annotations", "error"}
    assert result["number"].tolist() == [0, 1, 2]
    assert result["file_name"].tolist() == ["chelsea.png", "broken.jpg", "missing.png"]
    assert result["width"].tolist() == [451, 0, 0]
    assert result["height"].tolist() == [300, 0, 0]
    assert result["error"][0] is None
    assert "broken.jpg" in result["error"][1]
    assert "No such file" in result["error"][2]
    assert len(set(result["image_id"].tolist())) == 3
    records = mobilesam.everything(PHOTOS["chelsea"], **QUICK, output_mode="coco_rle")
    annotations = result["annotations"][0]
    assert [each["id"] for each in annotations] == list(range(1, len(records) + 1))
    assert records
    for annotation, record in zip(annotations, records, strict=True):
        assert annotation["segmentation"] == record["segmentation"]
        assert {key: annotation[key] for key in record if key != "segmentation"} == {
            key: value for key, value in record.items() if key != "segmentation"
        }
        json.dumps(annotation)
    assert result["annotations"][1] == result["annotations"][2] == []


def test_bytes_are_as_the_file(everything: Everything) -> None:
    path = PHOTOS["chelsea"]
    of_path = everything({"path": column(str(path))})
    of_bytes = everything({"bytes": column(path.read_bytes(), b"no image"), "path": column(str(path), "b.png")})
    assert "bytes" not in of_bytes
    assert of_bytes["annotations"][0] == of_path["annotations"][0]
    assert of_bytes["image_id"][0] == of_path["image_id"][0]
    assert of_bytes["error"][1]
    alone = everything({"bytes": column(path.read_bytes())})
    assert alone["file_name"].tolist() == [""]
    assert alone["annotations"][0] == of_path["annotations"][0]


def test_an_object_is_picklable_and_the_model_is_loaded_once(everything: Everything) -> None:
    copied = pickle.loads(pickle.dumps(everything))
    assert copied.model is everything.model
    assert len(pickle.dumps(everything)) < 1000
    path = column(str(PHOTOS["chelsea"]))
    assert copied({"path": path})["annotations"][0] == everything({"path": path})["annotations"][0]


def test_prompts_of_rows() -> None:
    """Rows with the same image share an embedding. A wrong prompt is the error of its row alone."""
    path, other = str(PHOTOS["chelsea"]), str(PHOTOS["rocket"])
    batch = {
        "path": column(path, path, path, other),
        "points": column([[200, 100]], None, [[9000, 1]], np.array([[300.0, 200.0]])),
        "labels": column(None, None, None, [1]),
        "box": column(None, [100, 50, 300, 250], None, None),
    }
    result = Segment(threads=2)(batch)
    assert [error is None for error in result["error"]] == [True, True, False, True]
    assert "point (9000, 1) lies outside" in result["error"][2]
    embedding = mobilesam.load(threads=2).encode(path)
    for i, prompt in enumerate([{"points": [(200, 100)]}, {"box": (100, 50, 300, 250)}]):
        (best,) = embedding.segment_rle(**prompt, only_best=True)
        (annotation,) = result["annotations"][i]
        assert annotation["segmentation"] == rle.compress(best.rle)
        assert annotation["predicted_iou"] == best.score
        assert annotation["stability_score"] is None
        assert annotation["area"] == rle.area(best.rle) > 0
    assert result["annotations"][3][0]["point_coords"] == [[300.0, 200.0]]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Everything(threads=2)({"image": column("a.png")}), "a column 'path' or 'bytes', got image"),
        (lambda: Everything(threads=2, points_per_side=0), "points_per_side must be"),
        (lambda: Everything("missing.pt"), "missing.pt"),
        (lambda: Segment(threads=2, hq_token_only=True), "hq_token_only"),
    ],
)
def test_errors_that_concern_all_images_are_raised(make, message: str) -> None:
    with pytest.raises((ValueError, OSError), match=message):
        make()


def test_an_empty_batch(everything: Everything) -> None:
    result = everything({"path": column()})
    assert all(len(values) == 0 for values in result.values())
