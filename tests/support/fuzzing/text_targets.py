"""Targets that read run lengths, and files of prompts and boxes."""

from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from mobilesam.cli.written_prompt import coordinates, read_prompts
from mobilesam.masks import rle
from mobilesam.masks.regions import remove_small_regions
from mobilesam.volumes.boxes import parse_box, read_boxes

from .checkpoint_targets import replaced
from .mutation import INTEGERS, mutate
from .target import Case, Maker, Target, from_files

MASK = np.zeros((9, 7), np.bool_)
MASK[2:6, 1:5] = MASK[7, 6] = True
RLES: tuple[Any, ...] = (rle.encode(MASK), rle.compress(rle.encode(MASK)), {"size": [2, 3], "counts": [6]})
MOST_PIXELS = 1 << 20  # an RLE of a few bytes may describe a mask of any size, whose array a caller asks for


def start_rle(_: Path) -> Maker:
    def make(rng: Random) -> Case:
        damaged = _damaged(rng)
        name = rng.choice(("area", "bbox", "compress", "decode", "decompress", "iou", "spans", "to_runs", "regions"))

        def run() -> None:
            (height, width), counts = rle.checked(damaged)
            assert counts.sum() == height * width and (counts >= 0).all()
            if name in ("decode", "to_runs", "regions") and height * width > MOST_PIXELS:
                return
            if name == "iou":
                assert rle.iou(damaged, [damaged]) == (rle.area(damaged) > 0)
            elif name == "regions":
                remove_small_regions(damaged, 5, "holes")
            elif name == "compress":
                again = rle.decompress(rle.compress(damaged))
                assert again == {"size": [height, width], "counts": counts.tolist()}
            elif name == "decode":
                assert rle.decode(damaged).sum() == rle.area(damaged)
            else:
                getattr(rle, name)(damaged)

        return Case(run, repr((name, damaged)).encode())

    return make


def _damaged(rng: Random) -> Any:
    given = rng.choice(RLES)
    match rng.randrange(4):
        case 0:
            return replaced(given, rng)
        case 1 if isinstance(given["counts"], str):
            counts = mutate(given["counts"].encode(), [], rng)
            return {**given, "counts": counts if rng.random() < 0.5 else counts.decode("latin-1")}
        case 2:  # counts that fit a large size, or wrap around 64 bits
            height, width = rng.choice(INTEGERS), rng.choice(INTEGERS)
            total = height * width
            first = rng.choice((0, 1, total, rng.choice(INTEGERS)))
            return {"size": [height, width], "counts": [first, total - first]}
        case _:
            dtype = rng.choice((np.uint64, np.int64, np.uint32, np.uint8, np.float64, object))
            counts = rle.decompress(RLES[0])["counts"]
            return {"size": np.array([9, 7]), "counts": np.array(counts).astype(dtype)}


PROMPTS = (
    (".csv", "image,points,labels,box,output\ncat.jpg,220 140 50% 40,1 0,,a.png\ndog.jpg,,,10 20 30 40,\n"),
    (".csv", "image;points;box\ncat.jpg;220 140;1.5 2 3 4\n"),
    (".csv", 'image,points\n"a ""b"".jpg","1,2"\n'),
    (".jsonl", '{"image": "cat.jpg", "points": [[220, 140], ["50%", 40]], "labels": [1, 0]}\n{"image": "a"}\n'),
    (".jsonl", '{"image": "cat.jpg", "box": [1, 2, 3.5, "4%"], "output": "x.png"}\n'),
)
BOXES = (
    (".csv", "case,x0,y0,z0,x1,y1,z1\nCT_001,10,20,5,60,80,9\n"),
    (".csv", "x0;y0;x1;y1\n1.5;2;3;4\n"),
    (".jsonl", '{"case": "CT_001", "box": [10, 20, 5, 60, 80, 9]}\n{"case": "b", "box": [1, 2, 3, 4]}\n'),
)


def encoded(files: tuple[tuple[str, str], ...]) -> list[tuple[str, bytes]]:
    return [(suffix, text.encode(encoding)) for suffix, text in files for encoding in ("utf-8", "utf-16")]


def start_numbers(_: Path) -> Maker:
    """The prompts and boxes of the command line."""

    def make(rng: Random) -> Case:
        data = mutate(rng.choice((b"10,50%", b"1 2 3 4", b"10,20,5,60,80,9", b"0.5;1e3")), [], rng)
        text = data.decode("utf-8", "surrogateescape")
        count = rng.choice((None, 2, 4))
        return Case(lambda: parse_box(text) if count == 2 else coordinates(text, count, "x y"), data)

    return make


TARGETS = (
    Target("rle", 8000, start_rle, (TypeError, ValueError)),
    Target("prompts", 3000, from_files(lambda _: encoded(PROMPTS), [read_prompts]), (OSError, ValueError)),
    Target("boxes", 1500, from_files(lambda _: encoded(BOXES), [read_boxes]), (OSError, ValueError)),
    Target("numbers", 3000, start_numbers, (ValueError,)),
)
