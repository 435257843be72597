"""The store of features: memory up to a limit, and files beyond."""

from pathlib import Path

import numpy as np
import pytest

from mobilesam.tiles.features import FeatureStore

SIZE = 4000  # bytes of an array


def arrays(number: int, count: int = 1) -> tuple[np.ndarray, ...]:
    made = tuple(np.random.default_rng((number, i)).random(SIZE // 4, np.float32) for i in range(count))
    for array in made:
        array.flags.writeable = False
    return made


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which temporary folders are created."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def in_memory(store: FeatureStore) -> int:
    return sum(array.nbytes for features in store._in_memory.values() for array in features)


def same(got: tuple[np.ndarray, ...] | None, expected: tuple[np.ndarray, ...]) -> bool:
    return got is not None and len(got) == len(expected) and all(map(np.array_equal, got, expected))


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("room", [1, 3, 6])
def test_features_come_back_and_memory_stays_below_the_limit(folder: Path, count: int, room: int) -> None:
    limit = room * count * SIZE
    store = FeatureStore(limit)
    for number in range(6):
        store.put(number, arrays(number, count))
        assert in_memory(store) <= limit
    assert len(list(folder.rglob("*.npy"))) == (6 - room) * count
    for number in np.random.default_rng(0).integers(0, 6, 40).tolist():
        got = store.get(number)
        assert same(got, arrays(number, count))
        assert not any(array.flags.writeable for array in got)
        assert in_memory(store) <= limit
    assert all(number in store for number in range(6))


def test_features_within_the_limit_need_no_file(folder: Path) -> None:
    store = FeatureStore(2 * SIZE)
    store.put(0, arrays(0))
    store.put(1, arrays(1))
    assert list(folder.iterdir()) == []


def test_a_tile_larger_than_the_limit_is_kept_alone(folder: Path) -> None:
    store = FeatureStore(0)
    for number in (0, 1):
        store.put(number, arrays(number))
        assert in_memory(store) == SIZE
    assert same(store.get(0), arrays(0))


def test_the_tile_that_was_used_least_recently_goes_to_a_file(folder: Path) -> None:
    store = FeatureStore(2 * SIZE)
    store.put(0, arrays(0))
    store.put(1, arrays(1))
    store.get(0)
    store.put(2, arrays(2))
    assert [path.name for path in folder.rglob("*.npy")] == ["1-0.npy"]


def test_features_are_stored_once(folder: Path) -> None:
    store = FeatureStore(SIZE)
    store.put(0, arrays(0))
    store.put(1, arrays(1))
    store.put(0, arrays(5))
    assert same(store.get(0), arrays(0))
    written = {path: path.stat().st_mtime_ns for path in folder.rglob("*.npy")}
    store.get(1), store.get(0)
    assert {path: path.stat().st_mtime_ns for path in written} == written  # a file is written once


def test_an_unknown_tile_has_no_features() -> None:
    store = FeatureStore(SIZE)
    assert store.get(3) is None
    assert 3 not in store


def test_the_folder_goes_with_the_store(folder: Path) -> None:
    store = FeatureStore(SIZE)
    for number in range(3):
        store.put(number, arrays(number))
    assert len(list(folder.iterdir())) == 1
    del store
    assert list(folder.iterdir()) == []
