"""Classes that segment a batch of images. An object of them is picklable, and loads its model once in each process."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..api.embedding import Embedding
from ..api.everything import MaskGenerator
from ..api.loading import load
from ..api.model import MobileSAM
from ..images.photo import open_rgb
from ..images.value_range import Bands, ValueRange
from ..masks import rle as mask_forms
from ..masks.objects import Record
from ..util.console import describe

Columns = dict[str, NDArray[Any]]
Row = dict[str, Any]


@lru_cache(maxsize=2)
def _model(weights: str | None, precision: str | None, threads: int | None) -> MobileSAM:
    """Load a model, once for all objects of a process with the same arguments."""
    return load(weights, precision=precision, threads=threads, images=1)


class _Worker:
    """The common part of `Everything` and `Segment`: batches, files and errors."""

    def __init__(
        self,
        weights: str | os.PathLike[str] | None,
        precision: str | None,
        threads: int | None,
        value_range: ValueRange | None,
        bands: Bands | None,
        parameters: Mapping[str, Any],
    ) -> None:
        self._arguments = (weights, precision, threads), {"value_range": value_range, "bands": bands, **parameters}
        self.model: MobileSAM = _model(None if weights is None else os.fspath(weights), precision, threads)
        self._value_range = self.model.kind.value_range if value_range is None else value_range
        self._bands = bands

    def __reduce__(self) -> tuple[Any, ...]:
        return _made, (type(self), *self._arguments)

    def __call__(self, batch: Mapping[str, NDArray[Any]]) -> Columns:
        """Segment a batch of images.

        Args:
            batch: Columns of equal length: "path", the images' paths, or "bytes", the contents of the files, beside
                which "path" is only a name. Columns of other names are passed through.

        Returns:
            All columns of `batch` except "bytes", and these:

            - "image_id": int64, computed from the path, or from the bytes if there is no path.
            - "file_name": the file name, without folders.
            - "width", "height": int64, in pixels. 0 after an error.
            - "annotations": for each image a list of mappings, as in SA-1B's files.
            - "error": None, or why the image could not be segmented.

        Raises:
            ValueError: The batch has neither a column "path" nor "bytes".
        """
        names = [name for name in ("path", "bytes") if name in batch]
        if not names:
            raise ValueError(f"a batch must have a column 'path' or 'bytes', got {', '.join(batch) or 'no column'}")
        count = len(batch[names[0]])
        rows = [{name: batch[name][i] for name in batch} for i in range(count)]
        answers = [answer for _, same in groupby(rows, key=_source) for answer in self._answers(list(same))]
        result = {name: column for name, column in batch.items() if name != "bytes"}
        for name in ("image_id", "width", "height"):
            result[name] = np.array([answer[name] for answer in answers], np.int64)
        for name in ("file_name", "annotations", "error"):
            result[name] = np.empty(count, object)
            result[name][:] = [answer[name] for answer in answers]
        return result

    def _answers(self, rows: Sequence[Row]) -> Iterator[Row]:
        """The answers for consecutive rows with the same image, which is opened once."""
        path = str(rows[0].get("path", ""))
        content = rows[0].get("bytes")
        key = path.encode(errors="surrogatepass") if path else bytes(content or b"")
        number = int.from_bytes(hashlib.sha256(key).digest()[:8], "little") >> 1  # a non-negative int64
        empty: Row = {
            "image_id": number, "file_name": os.path.basename(path), "width": 0, "height": 0,  # noqa: PTH119 (any text)
            "annotations": [], "error": None,
        }  # fmt: skip
        try:
            photo = open_rgb(
                path if content is None else bytes(content), value_range=self._value_range, bands=self._bands
            )
            segment = self._opened(photo)
        except (MemoryError, OSError, TypeError, ValueError) as error:
            yield from ({**empty, "error": describe(error)} for _ in rows)
            return
        size = {"width": photo.width, "height": photo.height}
        for row in rows:
            try:
                yield {**empty, **size, "annotations": segment(row)}
            except (MemoryError, OSError, TypeError, ValueError) as error:
                yield {**empty, "error": describe(error)}

    def _opened(self, photo: Image.Image) -> Callable[[Row], list[Row]]:
        """Prepare the photo. Returns a function that gives the annotations of a row."""
        raise NotImplementedError


class Everything(_Worker):
    """Finds all masks of each image, like `mobilesam.everything`."""

    def __init__(
        self,
        weights: str | os.PathLike[str] | None = None,
        precision: str | None = None,
        threads: int | None = None,
        *,
        value_range: ValueRange | None = None,
        bands: Bands | None = None,
        **parameters: Any,
    ) -> None:
        """Load the model and check the parameters.

        Args:
            weights: See `mobilesam.load`.
            precision: See `mobilesam.load`.
            threads: Number of threads of this object. See `mobilesam.load`.
            value_range: See `MobileSAM.encode`.
            bands: See `MobileSAM.encode`.
            **parameters: Parameters of `SamAutomaticMaskGenerator`, without the model and `output_mode`.

        Raises:
            OSError, TypeError, ValueError: See `mobilesam.load` and `SamAutomaticMaskGenerator`.
        """
        super().__init__(weights, precision, threads, value_range, bands, parameters)
        self._generator = MaskGenerator(self.model, **parameters, output_mode="coco_rle")

    def _opened(self, photo: Image.Image) -> Callable[[Row], list[Row]]:
        annotations = [_annotation(i, each) for i, each in enumerate(self._generate(photo), 1)]
        return lambda row: annotations

    def _generate(self, photo: Image.Image) -> list[Record]:
        return self._generator.generate(photo, value_range="dtype")


class Segment(_Worker):
    """Segments one prompt for each row, like `mobilesam.segment`.

    A batch has columns for the prompts too: "points", (P, 2) numbers in pixels of the image; "labels", (P,) of 1 and 0;
    and "box", (x0, y0, x1, y1). A missing column, or None in a row, means that the prompt does not have it. Consecutive
    rows with the same path are encoded once. A row's annotations are its best mask.
    """

    def __init__(
        self,
        weights: str | os.PathLike[str] | None = None,
        precision: str | None = None,
        threads: int | None = None,
        *,
        value_range: ValueRange | None = None,
        bands: Bands | None = None,
        multimask: bool | None = None,
        hq_token_only: bool = False,
    ) -> None:
        """Load the model.

        Args:
            weights: See `mobilesam.load`.
            precision: See `mobilesam.load`.
            threads: Number of threads of this object. See `mobilesam.load`.
            value_range: See `MobileSAM.encode`.
            bands: See `MobileSAM.encode`.
            multimask: See `Embedding.segment`.
            hq_token_only: See `Embedding.segment`.

        Raises:
            OSError, TypeError, ValueError: See `mobilesam.load` and `Embedding.segment`.
        """
        mode: dict[str, Any] = {"multimask": multimask, "hq_token_only": hq_token_only}
        super().__init__(weights, precision, threads, value_range, bands, mode)
        self.model.kind.multimask(multimask)
        self.model.kind.check_hq(hq_token_only)
        self._mode = mode

    def _opened(self, photo: Image.Image) -> Callable[[Row], list[Row]]:
        embedding = self.model.encode(photo, value_range="dtype")
        return lambda row: [self._annotation(embedding, row)]

    def _annotation(self, embedding: Embedding, row: Row) -> Row:
        prompt = {name: _nested(row.get(name)) for name in ("points", "labels", "box")}
        (best,) = embedding.segment_rle(**prompt, **self._mode, only_best=True)
        height, width = embedding.original_size
        points = [] if prompt["points"] is None else np.asarray(prompt["points"], np.float64).reshape(-1, 2).tolist()
        return _annotation(
            1,
            {
                "segmentation": mask_forms.compress(best.rle),
                "area": mask_forms.area(best.rle),
                "bbox": mask_forms.bbox(best.rle),
                "predicted_iou": best.score,
                "point_coords": points,
                "stability_score": float("nan"),
                "crop_box": [0, 0, width, height],
            },
        )


def _made(kind: type[_Worker], arguments: tuple[Any, ...], options: Mapping[str, Any]) -> _Worker:
    return kind(*arguments, **options)


def _source(row: Row) -> Any:
    content = row.get("bytes")
    return str(row.get("path", "")), None if content is None else bytes(content)


def _nested(value: Any) -> Any:
    """A prompt as lists. Arrow gives nested lists as arrays of objects."""
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return None
    return [_nested(each) for each in value] if isinstance(value, (np.ndarray, list, tuple)) else value


def _annotation(number: int, record: Record) -> Row:
    """A record as an annotation of SA-1B: the same values, with a number, and boxes as float."""
    stability = record["stability_score"]
    return {
        "id": number,
        "segmentation": record["segmentation"],
        "bbox": [float(side) for side in record["bbox"]],
        "area": record["area"],
        "predicted_iou": record["predicted_iou"],
        "stability_score": None if np.isnan(stability) else stability,
        "point_coords": record["point_coords"],
        "crop_box": [float(side) for side in record["crop_box"]],
    }
