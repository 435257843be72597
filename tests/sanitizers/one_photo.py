"""Encodes one photo, prompts it in every form and runs everything-mode with a few points, for a build with sanitizers.

A sanitizer reports invalid memory accesses and undefined behaviour. The results are compared with the PyTorch
reference's, so that a wrong result fails too. Usage: one_photo.py
"""

import sys
from pathlib import Path
from time import perf_counter

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from golden import PHOTOS, PROMPTS, Golden, iou

import mobilesam
from mobilesam.kernels import isa

PHOTO = "rocket"


def click_in_every_form(embedding: mobilesam.Embedding) -> None:
    """Check points, labels, boxes, three masks and a single mask, each also with a mask as input."""
    for prompt in PROMPTS:
        Golden(PHOTO).check_prompt(embedding, prompt)


def click_many(embedding: mobilesam.Embedding) -> None:
    """Check that a batch of prompts gives the bits of single prompts."""
    points = [(320, 213), (60, 60), (500, 400)]
    for point, result in zip(points, embedding.segment_many(points=[[point] for point in points]), strict=True):
        np.testing.assert_array_equal(result.low_res, embedding.segment([point]).low_res)


def find_everything(embedding: mobilesam.Embedding) -> None:
    """Check that each mask of everything-mode is a mask of the point that it comes from."""
    records = mobilesam.everything(
        PHOTOS[PHOTO], model=embedding.model, points_per_side=3, pred_iou_thresh=0.5, stability_score_thresh=0.6
    )
    assert len(records) >= 2, len(records)
    for record in records:
        masks = embedding.segment(record["point_coords"]).masks
        same = np.broadcast_to(record["segmentation"], masks.shape)
        assert iou(masks, same).max() >= 0.999


def encode(precision: str) -> mobilesam.Embedding:
    """Encode the photo. The golden outputs are those of float32."""
    embedding = mobilesam.load(precision=precision).encode(PHOTOS[PHOTO])
    if precision == "fp32":
        Golden(PHOTO).check_embedding(embedding.features)
    return embedding


def click_once(embedding: mobilesam.Embedding, expected: mobilesam.Embedding) -> None:
    """Check the click's best mask against the mask of another precision."""
    ours, theirs = (each.segment([(320, 213)], multimask=False).masks for each in (embedding, expected))
    assert iou(ours, theirs).min() >= 0.9


def main() -> None:
    start = perf_counter()

    def done(what: str) -> None:
        print(f"{what}, after {perf_counter() - start:.0f} s", flush=True)

    embedding = encode("fp32")
    done(f"encoded on {isa.current()}")
    for step in (click_in_every_form, click_many, find_everything):
        step(embedding)
        done(step.__name__)
    for precision in isa.precisions()[1:]:
        click_once(encode(precision), embedding)
        done(f"encoded and clicked in {precision}")


if __name__ == "__main__":
    main()
