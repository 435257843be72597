"""COCO run lengths: a mask as the lengths of its runs of equal pixels, column by column.

An RLE is a dict. `size` is [h, w]. `counts` are the run lengths, of pixels outside the mask first (0 where the first
pixel is inside), then inside, and so on, over the columns from left to right, each from the top; or a string that
packs the same numbers, which COCO's tools call a compressed RLE. Every function here takes both forms and never
unpacks a mask to answer about it, except `decode`. Results are pycocotools' own; it is not needed.
"""

from collections.abc import Mapping, Sequence
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
    "iou",
    "spans",
    "to_runs",
]

Counts: TypeAlias = NDArray[np.int64]
Runs: TypeAlias = NDArray[np.int64]  # (R, 3): column, first row, row behind the last
RLE: TypeAlias = Mapping[str, Any]

BLOCK = 64  # columns transposed at once: a cache line of each row
FIRST_CHARACTER = ord("0")
LONGEST = 12  # characters of a number, beyond which it would not fit 64 bits
# Numbers from −2^(5k − 1) to 2^(5k − 1) − 1 take k characters of 5 bits.
LIMITS = np.left_shift(1, 5 * np.arange(1, LONGEST) - 1, dtype=np.int64)


class UncompressedRLE(TypedDict):
    """size [h, w] and the run lengths."""

    size: list[int]
    counts: list[int]


class CompressedRLE(TypedDict):
    """size [h, w] and the run lengths as COCO's string."""

    size: list[int]
    counts: str


def encode(mask: NDArray[np.bool_]) -> UncompressedRLE:
    """The run lengths of a bool mask (H, W).

    Raises TypeError where it is no bool array, ValueError where it is not two-dimensional or has no pixel.
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
    """The mask (H, W) bool. Raises as `decompress`."""
    (height, width), counts = checked(rle)
    pixels = np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(width, height)
    mask = np.empty((height, width), np.bool_)
    for left in range(0, width, BLOCK):
        mask[:, left : left + BLOCK] = pixels[left : left + BLOCK].T
    return mask


def compress(rle: RLE) -> CompressedRLE:
    """The same mask with COCO's string for `counts`. Raises as `decompress`."""
    (height, width), counts = checked(rle)
    return {"size": [height, width], "counts": _to_string(counts)}


def decompress(rle: RLE) -> UncompressedRLE:
    """The same mask with a list of run lengths for `counts`.

    Raises TypeError where `rle` is no mapping or its counts are no whole numbers, ValueError where it has no size or
    counts, they do not fill the size, or a string is not COCO's.
    """
    (height, width), counts = checked(rle)
    return {"size": [height, width], "counts": counts.tolist()}


def area(rle: RLE) -> int:
    """The number of pixels inside the mask. Raises as `decompress`."""
    return int(checked(rle)[1][1::2].sum())


def bbox(rle: RLE) -> list[int]:
    """[x, y, width, height] in pixels of the smallest box around the mask, as COCO has it; zeros for an empty mask.

    The `bbox` of everything-mode's records follows SAM instead, whose width and height are one less. Raises as
    `decompress`.
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
    """Intersection over union of each mask of a with each of b, (len(a), len(b)); a single RLE counts as one mask.

    0 where both masks are empty. Raises ValueError where the masks are not all of one size, and as `decompress`.
    """
    rows, columns = ([checked(rle) for rle in ([some] if isinstance(some, Mapping) else some)] for some in (a, b))
    sizes = {size for size, _ in rows + columns}
    if len(sizes) > 1:
        raise ValueError(f"the masks must be of one size (h, w), got {' and '.join(map(str, sorted(sizes)))}")
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
    """Where each run of the mask begins and ends (exclusive), (R, 2), in pixels, column by column.

    Raises as `decompress`.
    """
    return np.stack(_inside(checked(rle)[1]), axis=1)


def to_runs(rle: RLE) -> Runs:
    """The mask's runs within columns, (R, 3) int64: column, first row, row behind the last. Raises as `decompress`."""
    (height, _), counts = checked(rle)
    first, end = _inside(counts)
    left, right = first // height, (end - 1) // height
    columns = right - left + 1
    last = np.cumsum(columns) - 1
    runs = np.empty((columns.sum(), 3), np.int64)
    runs[:, 0] = np.arange(len(runs)) + np.repeat(left - (last + 1 - columns), columns)
    runs[:, 1], runs[:, 2] = 0, height
    runs[last + 1 - columns, 1] = first - left * height
    runs[last, 2] = end - right * height
    return runs


def from_runs(runs: NDArray[np.integer], size: tuple[int, int]) -> NDArray[np.uint32]:
    """The `counts` of a mask of `size` (h, w) with these runs within columns, (R, 3) as `to_runs` has them.

    They are in order and do not overlap; one may begin where another ends, also at the next column's top.
    """
    height, width = size
    changes = (runs[:, :1].astype(np.int64) * height + runs[:, 1:]).ravel()
    kept = np.ones(len(changes), np.bool_)
    kept[1:-1:2] = kept[2::2] = changes[1:-1:2] != changes[2::2]
    counts = np.diff(changes[kept], prepend=0, append=height * width)
    return (counts if counts[-1] else counts[:-1]).astype(np.uint32)


def checked(rle: RLE) -> tuple[tuple[int, int], Counts]:
    """The size (h, w) and the run lengths. Raises as `decompress`."""
    if not isinstance(rle, Mapping):
        raise TypeError(f"an RLE must be a dict of size and counts, got {type(rle).__name__}")
    missing = [key for key in ("size", "counts") if key not in rle]
    if missing:
        raise ValueError(f"an RLE must be a dict of size and counts, got one without {' and '.join(missing)}")
    height, width = _checked_size(rle["size"])
    counts = _checked_counts(rle["counts"])
    total = int(counts.sum())
    if (counts < 0).any() or (counts > height * width).any() or total != height * width:
        raise ValueError(f"an RLE's counts must be at least 0 and add up to {height}·{width}, got a sum of {total}")
    return (height, width), counts


def _checked_size(size: object) -> tuple[int, int]:
    try:
        height, width = size  # type: ignore[misc]
        height, width = height.__index__(), width.__index__()  # type: ignore[has-type]
        if height < 1 or width < 1:
            raise ValueError
    except (AttributeError, TypeError, ValueError):
        raise ValueError(f"an RLE's size must be [h, w], whole numbers from 1, got {size!r}") from None
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
    return array.astype(np.int64)


def _inside(counts: Counts) -> tuple[Counts, Counts]:
    """Where the mask's runs begin and end (exclusive), those of no pixel left out."""
    ends = np.cumsum(counts)[1::2]
    lengths = counts[1::2]
    return (ends - lengths)[lengths > 0], ends[lengths > 0]


def _pixels_before(counts: Counts, position: Counts) -> Counts:
    """How many pixels of the mask come before each position."""
    ends = np.cumsum(counts)
    inside = np.cumsum(counts * (np.arange(len(counts)) % 2))
    run = np.minimum(np.searchsorted(ends, position, side="left"), len(counts) - 1)
    return np.asarray(inside[run] - (ends[run] - position) * (run % 2), np.int64)


def _to_string(counts: Counts) -> str:
    """Five bits a character, the lowest first, the sixth bit set where more follow; from the fourth number on, the
    difference to the last but one."""
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
        raise ValueError(f"an RLE's string ends within a number or has one of over {LONGEST} characters")
    starts = ends - lengths
    place = np.arange(len(groups)) - np.repeat(starts, lengths)
    numbers = np.add.reduceat((groups & 31) << (5 * place), starts)
    numbers -= np.where(groups[ends - 1] & 16, np.left_shift(1, 5 * lengths, dtype=np.int64), 0)
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers
