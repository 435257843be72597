"""COCO's run-length encoding (RLE): a mask as the lengths of its runs of equal pixels, column by column.

An RLE is a dict with keys `size` and `counts`. `size` is [h, w]. `counts` are the run lengths in column-major order.
Runs outside and inside the mask alternate. The first run is outside, and its length is 0 if the first pixel is inside.

`counts` may also be a string that encodes the same numbers. COCO's tools call this form a compressed RLE. All functions
here accept both forms, and only `decode` allocates an array of the mask's size. The results equal those of pycocotools,
which is not required.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, TypedDict

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "RLE",
    "CompressedRLE",
    "Counts",
    "Runs",
    "UncompressedRLE",
    "area",
    "bbox",
    "checked",
    "compress",
    "decode",
    "decompress",
    "encode",
    "from_runs",
    "in_form",
    "iou",
    "spans",
    "to_runs",
]

Counts: TypeAlias = NDArray[np.int64]
Runs: TypeAlias = NDArray[np.int64]  # (R, 3): column, first row, end row (exclusive)
RLE: TypeAlias = Mapping[str, Any]

BLOCK = 64  # columns of a mask that are transposed at once: one cache line per row of the mask
FIRST_CHARACTER = ord("0")
LONGEST = 12  # most characters per number; a longer number would not fit into 64 bits
MOST_PIXELS = 2**59 - 1  # most pixels of a mask, so that any difference of two counts takes at most LONGEST characters
# A number from −2^(5k − 1) to 2^(5k − 1) − 1 takes k characters of 5 bits.
LIMITS = np.left_shift(1, 5 * np.arange(1, LONGEST) - 1, dtype=np.int64)


class UncompressedRLE(TypedDict):
    """An RLE whose `counts` is a list of run lengths."""

    size: list[int]
    counts: list[int]


class CompressedRLE(TypedDict):
    """An RLE whose `counts` is COCO's string."""

    size: list[int]
    counts: str


def encode(mask: NDArray[np.bool_]) -> UncompressedRLE:
    """Encode a mask (H, W) bool.

    Raises:
        TypeError: `mask` is not a bool array.
        ValueError: `mask` is not two-dimensional, or has no pixels.
    """
    if not isinstance(mask, np.ndarray) or mask.dtype != np.bool_:
        kind = f"dtype {mask.dtype}" if isinstance(mask, np.ndarray) else type(mask).__name__
        raise TypeError(f"a mask must be a bool array (H, W), got {kind}")
    if mask.ndim != 2 or mask.size == 0:
        raise ValueError(f"a mask must be a bool array (H, W) of at least one pixel, got shape {mask.shape}")
    height, width = mask.shape
    starts, before = [], False
    for left in range(0, width, BLOCK):
        pixels = mask[:, left : left + BLOCK].T.ravel()
        changed = np.flatnonzero(pixels[1:] != pixels[:-1]) + (1 + left * height)
        starts += [changed] if pixels[0] == before else [[left * height], changed]
        before = pixels[-1]
    counts = np.diff(np.concatenate([[0], *starts, [mask.size]]))
    return {"size": [height, width], "counts": counts.tolist()}


def decode(rle: RLE) -> NDArray[np.bool_]:
    """Decode an RLE to a mask (H, W) bool. See `decompress` for the errors.

    Raises:
        MemoryError: There is no memory for a mask of this size.
    """
    (height, width), counts = checked(rle)
    try:
        pixels = np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(width, height)
        mask = np.empty((height, width), np.bool_)
    except MemoryError:
        raise MemoryError(f"an RLE of size [{height}, {width}]: no memory for the mask") from None
    for left in range(0, width, BLOCK):
        mask[:, left : left + BLOCK] = pixels[left : left + BLOCK].T
    return mask


def compress(rle: RLE) -> CompressedRLE:
    """Convert `counts` to COCO's string. See `decompress` for the errors."""
    (height, width), counts = checked(rle)
    return {"size": [height, width], "counts": _to_string(counts)}


def decompress(rle: RLE) -> UncompressedRLE:
    """Convert `counts` to a list of run lengths.

    Raises:
        TypeError: `rle` is not a mapping, or its counts are not whole numbers.
        ValueError: `rle` has no size or no counts, the counts do not add up to the size, or a string is invalid.
    """
    (height, width), counts = checked(rle)
    return {"size": [height, width], "counts": counts.tolist()}


def in_form(rle: UncompressedRLE, output_mode: str) -> NDArray[np.bool_] | UncompressedRLE | CompressedRLE:
    """The mask in the form "binary_mask" (bool (H, W)), "uncompressed_rle" or "coco_rle"."""
    forms: dict[str, Callable[[UncompressedRLE], Any]] = {"binary_mask": decode, "coco_rle": compress}
    return forms[output_mode](rle) if output_mode in forms else rle


def area(rle: RLE) -> int:
    """Number of pixels inside the mask. See `decompress` for the errors."""
    return int(checked(rle)[1][1::2].sum())


def bbox(rle: RLE) -> list[int]:
    """The bounding box [x, y, width, height] in pixels, as in COCO. All zeros for an empty mask.

    In records of everything-mode, `bbox` follows SAM, whose width and height are one less. See `decompress` for the
    errors.
    """
    (height, _), counts = checked(rle)
    first, end = _inside(counts)
    if not len(first):
        return [0, 0, 0, 0]
    (left, top), (right, bottom) = np.divmod(first, height), np.divmod(end - 1, height)
    x0, x1 = int(left[0]), int(right[-1])
    y0, y1 = (0, height - 1) if (left < right).any() else (int(top.min()), int(bottom.max()))
    return [x0, y0, x1 - x0 + 1, y1 - y0 + 1]


def iou(a: RLE | Sequence[RLE], b: RLE | Sequence[RLE]) -> NDArray[np.float64]:
    """Intersection over union of each mask in `a` with each mask in `b`. The IoU of two empty masks is 0.

    Args:
        a: An RLE, or a sequence of RLEs.
        b: An RLE, or a sequence of RLEs.

    Returns:
        (len(a), len(b)) float64. A single RLE counts as a sequence of length 1.

    Raises:
        TypeError: See `decompress`.
        ValueError: The masks have different sizes, or an RLE is invalid (see `decompress`).
    """
    rows, columns = ([checked(rle) for rle in ([some] if isinstance(some, Mapping) else some)] for some in (a, b))
    sizes = {size for size, _ in rows + columns}
    if len(sizes) > 1:
        raise ValueError(f"the masks must have one size (h, w), got {' and '.join(map(str, sorted(sizes)))}")
    result = np.zeros((len(rows), len(columns)))
    if not result.size:
        return result
    runs = [_inside(counts) for _, counts in columns]
    first, end = (np.concatenate(ends) for ends in zip(*runs))
    owner = np.repeat(np.arange(len(columns)), [len(starts) for starts, _ in runs])
    areas = np.bincount(owner, end - first, len(columns))
    for row, (_, counts) in zip(result, rows):
        inside = _pixels_before(counts, end) - _pixels_before(counts, first)
        both = np.bincount(owner, inside, len(columns))
        either = areas + counts[1::2].sum() - both
        np.divide(both, either, out=row, where=both > 0)
    return result


def spans(rle: RLE) -> Counts:
    """Start and end (exclusive) of each run inside the mask, (R, 2), as pixel indices in column-major order.

    A run may extend over several columns. See `decompress` for the errors.
    """
    return np.stack(_inside(checked(rle)[1]), axis=1)


def to_runs(rle: RLE) -> Runs:
    """The mask's runs, split at column borders, as (R, 3) int64: column, first row, end row (exclusive).

    See `decompress` for the errors.

    Raises:
        MemoryError: There is no memory for the runs.
    """
    (height, width), counts = checked(rle)
    first, end = _inside(counts)
    left, right = first // height, (end - 1) // height
    columns = right - left + 1
    last = np.cumsum(columns) - 1
    try:
        runs = np.empty((columns.sum(), 3), np.int64)
    except (MemoryError, ValueError):  # ValueError: the number of bytes exceeds 64 bits
        message = f"an RLE of size [{height}, {width}]: no memory for {columns.sum()} runs"
        raise MemoryError(message) from None
    runs[:, 0] = np.arange(len(runs)) + np.repeat(left - (last + 1 - columns), columns)
    runs[:, 1], runs[:, 2] = 0, height
    runs[last + 1 - columns, 1] = first - left * height
    runs[last, 2] = end - right * height
    return runs


def from_runs(runs: NDArray[np.integer], size: tuple[int, int]) -> NDArray[np.uint32] | Counts:
    """Convert runs within columns to `counts`, the inverse of `to_runs`.

    Args:
        runs: (R, 3), in column-major order and without overlap. Adjacent runs are merged, also across columns.
        size: (h, w) of the mask.

    Returns:
        The run lengths `counts`, uint32, or int64 if a run is longer than 2³² − 1.

    Raises:
        ValueError: The size is invalid.
    """
    height, width = _checked_size(size)
    changes = (runs[:, :1].astype(np.int64) * height + runs[:, 1:]).ravel()
    kept = np.ones(len(changes), np.bool_)
    kept[1:-1:2] = kept[2::2] = changes[1:-1:2] != changes[2::2]
    counts = np.diff(changes[kept], prepend=0, append=height * width)
    return (counts if counts[-1] else counts[:-1]).astype(np.uint32 if counts.max() < 2**32 else np.int64)


def checked(rle: RLE) -> tuple[tuple[int, int], Counts]:
    """Check an RLE. Returns its size (h, w) and its run lengths. See `decompress` for the errors."""
    if not isinstance(rle, Mapping):
        raise TypeError(f"an RLE must be a dict of size and counts, got {type(rle).__name__}")
    missing = [key for key in ("size", "counts") if key not in rle]
    if missing:
        raise ValueError(f"an RLE must be a dict of size and counts, got a dict without {' and '.join(missing)}")
    height, width = _checked_size(rle["size"])
    counts = _checked_counts(rle["counts"])
    pixels, sums = height * width, np.cumsum(counts)
    # Sums of 64 bits wrap around. Before a sum of valid counts can wrap, an earlier sum exceeds the number of pixels.
    valid = len(counts) and counts.min() >= 0 and counts.max() <= pixels and sums.max() <= pixels and sums[-1] == pixels
    if not valid:
        total = sum(counts.tolist())
        raise ValueError(f"an RLE's counts must be at least 0 and add up to {height}·{width}, got a sum of {total}")
    return (height, width), counts


def _checked_size(size: object) -> tuple[int, int]:
    try:
        height, width = size  # type: ignore[misc]
        height, width = height.__index__(), width.__index__()  # type: ignore[has-type]
        if height < 1 or width < 1:
            raise ValueError
    except (AttributeError, TypeError, ValueError):
        raise ValueError(f"an RLE's size must be [h, w], two whole numbers of at least 1, got {size!r:.100}") from None
    if height * width > MOST_PIXELS:
        raise ValueError(f"an RLE's size must be [h, w] of at most {MOST_PIXELS} pixels, got more")
    return height, width


def _checked_counts(counts: object) -> Counts:
    if isinstance(counts, str):
        try:
            return _from_string(counts.encode("ascii"))
        except UnicodeEncodeError:
            raise ValueError(f"an RLE's string has characters from '0' to 'o', got {counts[:20]!r}") from None
    if isinstance(counts, bytes):
        return _from_string(counts)
    try:
        array = np.asarray(counts)
    except (ValueError, OverflowError):
        raise TypeError("an RLE's counts must be whole numbers or COCO's string, got nested lists") from None
    if array.size == 0:
        return np.empty(0, np.int64)
    if array.dtype.kind not in "iu" or array.ndim != 1:
        kind = f"dtype {array.dtype} of shape {array.shape}"
        raise TypeError(f"an RLE's counts must be whole numbers or COCO's string, got {kind}")
    if array.dtype.kind == "u" and array.max() > MOST_PIXELS:  # a larger number may not fit into int64
        raise ValueError(f"an RLE's counts must be at least 0 and at most {MOST_PIXELS}, got {array.max()}")
    return array.astype(np.int64)


def _inside(counts: Counts) -> tuple[Counts, Counts]:
    """Starts and ends (exclusive) of the runs inside the mask, without runs of length 0."""
    ends = np.cumsum(counts)[1::2]
    lengths = counts[1::2]
    return (ends - lengths)[lengths > 0], ends[lengths > 0]


def _pixels_before(counts: Counts, position: Counts) -> Counts:
    """Number of mask pixels before each position, in column-major order."""
    ends = np.cumsum(counts)
    inside = np.cumsum(counts * (np.arange(len(counts)) % 2))
    run = np.minimum(np.searchsorted(ends, position, side="left"), len(counts) - 1)
    return np.asarray(inside[run] - (ends[run] - position) * (run % 2), np.int64)


def _to_string(counts: Counts) -> str:
    """Encode counts as COCO's string.

    From the fourth number on, the difference to the number two places before is encoded. A character holds five bits of
    a number, lowest bits first. A sixth bit is set in all characters but the number's last.
    """
    numbers = counts.copy()
    numbers[3:] -= counts[1:-2]
    lengths = 1 + np.searchsorted(LIMITS, numbers ^ (numbers >> 63), side="right")
    ends = np.cumsum(lengths)
    place = np.arange(ends[-1]) - np.repeat(ends - lengths, lengths)
    groups = np.repeat(numbers, lengths) >> (5 * place) & 31 | 32
    groups[ends - 1] &= 31
    return (groups + FIRST_CHARACTER).astype(np.uint8).tobytes().decode("ascii")


def _from_string(string: bytes) -> Counts:
    groups = np.frombuffer(string, np.uint8).astype(np.int64) - FIRST_CHARACTER
    if ((groups < 0) | (groups > 63)).any():
        raise ValueError(f"an RLE's string has characters from '0' to 'o', got {string[:20]!r}")
    if not len(groups):
        return groups
    ends = np.flatnonzero(groups < 32) + 1
    lengths = np.diff(ends, prepend=0)
    if not len(ends) or ends[-1] != len(groups) or lengths.max() > LONGEST:
        raise ValueError(f"an RLE's string ends within a number, or has a number of over {LONGEST} characters")
    starts = ends - lengths
    place = np.arange(len(groups)) - np.repeat(starts, lengths)
    numbers = np.add.reduceat((groups & 31) << (5 * place), starts)
    numbers -= np.where(groups[ends - 1] & 16, np.left_shift(1, 5 * lengths, dtype=np.int64), 0)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers
