"""Parquet files of batches."""

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("pyarrow")

from mobilesam.batch import read
from mobilesam.batch.table import schema, write


def row(path: str, count: int = 1, error: str | None = None) -> dict[str, Any]:
    annotation = {
        "id": 1, "segmentation": {"size": [2, 3], "counts": "06"}, "bbox": [0.0, 0.0, 2.0, 1.0], "area": 6,
        "predicted_iou": 0.9, "stability_score": None, "point_coords": [[1.0, 0.5]], "crop_box": [0.0, 0.0, 3.0, 2.0],
    }  # fmt: skip
    return {
        "image_id": len(path), "file_name": Path(path).name, "path": path, "width": 3, "height": 2,
        "annotations": [annotation] * count, "error": error,
    }  # fmt: skip


def columns(*rows: dict[str, Any]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in schema().names}


def test_rows_come_back(tmp_path: Path) -> None:
    rows = [row("/a.png", 2), row("/b.png", 0, "broken"), row("/ü\n.png")]
    write(tmp_path, columns(*rows[:2]))
    write(tmp_path, columns(rows[2]))
    photos = read(tmp_path)
    assert len(photos) == 3
    assert sorted(photos, key=lambda photo: photo["path"]) == sorted(rows, key=lambda photo: photo["path"])
    assert sorted(photos.paths) == ["/a.png", "/b.png", "/ü\n.png"]
    assert [photos[i] for i in range(3)] == list(photos) == photos[:]
    assert photos[-1] == list(photos)[-1]
    with pytest.raises(IndexError):
        photos[3]


def test_a_repeated_batch_replaces_its_file_and_a_path_is_there_once(tmp_path: Path) -> None:
    write(tmp_path, columns(row("/a.png"), row("/b.png")))
    write(tmp_path, columns(row("/a.png"), row("/b.png")))
    assert len(list(tmp_path.iterdir())) == 1
    write(tmp_path, columns(row("/b.png"), row("/c.png")))
    assert len(list(tmp_path.iterdir())) == 2
    assert sorted(photo["path"] for photo in read(tmp_path)) == ["/a.png", "/b.png", "/c.png"]


def test_errors_of_reading(tmp_path: Path) -> None:
    assert list(read(tmp_path)) == []
    with pytest.raises(FileNotFoundError, match="missing"):
        read(tmp_path / "missing")
    (tmp_path / "part-0.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(ValueError, match=r"part-0.parquet: not a file of mobilesam batch"):
        read(tmp_path)


def test_a_failure_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises((TypeError, ValueError)):
        write(tmp_path, columns(row("/a.png") | {"width": "wide"}))
    assert list(tmp_path.iterdir()) == []


def test_without_pyarrow(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'mobilesam\[ray\]'"):
        read(tmp_path)
