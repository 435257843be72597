"""The same classes in Dask and joblib, as docs/scale.md shows them."""

import numpy as np
import pytest
from golden import PHOTOS

from mobilesam.batch import Everything

pytestmark = pytest.mark.extras
PATHS = [str(PHOTOS[name]) for name in ("chelsea", "rocket", "coffee")]


@pytest.fixture(scope="module")
def expected() -> list[int]:
    result = Everything(threads=1, points_per_side=2)({"path": np.array(PATHS, object)})
    assert result["error"].tolist() == [None] * 3
    return [len(annotations) for annotations in result["annotations"]]


def test_dask(expected: list[int]) -> None:
    dask = pytest.importorskip("dask.dataframe")
    pandas = pytest.importorskip("pandas")
    work = Everything(threads=1, points_per_side=2)

    def segment(frame):
        return pandas.DataFrame(dict(work({"path": frame["path"].to_numpy(object)})))

    frames = dask.from_pandas(pandas.DataFrame({"path": PATHS}), npartitions=2)
    result = frames.map_partitions(segment, meta=segment(pandas.DataFrame({"path": []})))
    table = result.compute(scheduler="processes", num_workers=2)
    assert [len(annotations) for annotations in table["annotations"]] == expected


def test_joblib(expected: list[int]) -> None:
    joblib = pytest.importorskip("joblib")
    work = Everything(threads=1, points_per_side=2)
    batches = [{"path": np.array(PATHS[i : i + 1], object)} for i in range(3)]
    results = joblib.Parallel(n_jobs=2)(joblib.delayed(work)(batch) for batch in batches)
    assert [len(result["annotations"][0]) for result in results] == expected
