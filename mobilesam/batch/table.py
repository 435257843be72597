"""Parquet files with the record structure of SA-1B. Requires pyarrow: extra [ray]."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from ..util.files import whole_file
from ..util.messages import one_line

if TYPE_CHECKING:
    import pyarrow as pa

PATTERN = "part-*.parquet"


def schema() -> pa.Schema:
    """The columns of a file. `annotations` has the structure of SA-1B's annotations."""
    arrow = _arrow()
    floats, whole = arrow.list_(arrow.float64()), arrow.int64()
    segmentation = arrow.struct([("size", arrow.list_(whole)), ("counts", arrow.string())])
    annotation = arrow.struct(
        [
            ("id", whole),
            ("segmentation", segmentation),
            ("bbox", floats),
            ("area", whole),
            ("predicted_iou", arrow.float64()),
            ("stability_score", arrow.float64()),
            ("point_coords", arrow.list_(floats)),
            ("crop_box", floats),
        ]
    )
    text = arrow.string()
    return arrow.schema(
        [
            ("image_id", whole),
            ("file_name", text),
            ("path", text),
            ("width", whole),
            ("height", whole),
            ("annotations", arrow.list_(annotation)),
            ("error", text),
        ]
    )


def write(folder: Path, columns: Mapping[str, Sequence[Any]]) -> Path:
    """Write the results of a batch as a file, whose name depends on the paths alone.

    A repeated batch replaces its own file. A failure leaves no partial file.
    """
    from pyarrow import parquet

    names = hashlib.sha256("\0".join(map(str, columns["path"])).encode(errors="surrogatepass")).hexdigest()[:20]
    path, shape = folder / f"part-{names}.parquet", schema()
    table = _arrow().table({name: list(columns[name]) for name in shape.names}, schema=shape)
    with whole_file(path) as partial:
        parquet.write_table(table, partial, compression="zstd")
    return path


class Photos(Sequence[dict[str, Any]]):
    """The photos in a folder that `mobilesam batch` wrote: each path once. A photo is read when it is asked for.

    A photo is a mapping: "image_id", "file_name", "path", "width", "height", "annotations" and "error".
    """

    def __init__(self, folder: Path) -> None:
        from pyarrow import parquet

        if not folder.is_dir():
            raise FileNotFoundError(2, "No such folder", str(folder))
        self._places: dict[str, tuple[Path, int]] = {}  # a repeated batch may have written a path twice
        for file in sorted(folder.glob(PATTERN)):
            try:
                paths = parquet.read_table(file, columns=["path"]).column(0).to_pylist()
            except (OSError, ValueError, KeyError) as error:
                raise ValueError(f"{file}: not a file of mobilesam batch: {one_line(error)}") from None
            for row, path in enumerate(paths):
                self._places.setdefault(path, (file, row))
        self._order = list(self._places)

    @property
    def paths(self) -> list[str]:
        """The path of each photo."""
        return list(self._order)

    def __len__(self) -> int:
        return len(self._order)

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        file, row = self._places[self._order[index]]
        return _rows(file)[row]

    def __iter__(self) -> Iterator[dict[str, Any]]:
        last, rows = None, list[dict[str, Any]]()
        for path in self._order:
            file, row = self._places[path]
            if file != last:
                last, rows = file, _rows(file)
            yield rows[row]


def read(folder: str | Path) -> Photos:
    """Read what `mobilesam batch` wrote into a folder.

    Returns:
        A sequence with a mapping for each photo, each photo once. See `Photos`.

    Raises:
        FileNotFoundError: There is no such folder.
        ModuleNotFoundError: pyarrow is not installed.
        ValueError: A file in the folder is damaged.
    """
    _arrow()
    return Photos(Path(folder))


def _rows(file: Path) -> list[dict[str, Any]]:
    from pyarrow import parquet

    try:
        rows: list[dict[str, Any]] = parquet.read_table(file, schema=schema()).to_pylist()
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{file}: a damaged file of mobilesam batch: {one_line(error)}") from None
    return rows


def _arrow() -> Any:
    try:
        import pyarrow
    except ModuleNotFoundError:
        message = "Parquet files need pyarrow: pip install 'mobilesam[ray]'"
        raise ModuleNotFoundError(message, name="pyarrow") from None
    return pyarrow
