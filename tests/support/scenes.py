"""Random inputs of the decoder's image updates, and their expected results in float64.

An image update is the attention from image tokens to prompt tokens, with the LayerNorm after it.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from plans import ImageMaps, Recording, project_image

from mobilesam.kernels import Array, Maps, UpdatedImage, reference
from mobilesam.network.low_rank import Affine, LowRank, low_rank
from mobilesam.network.parameters import F32

CHANNELS, INNER, LAST = 96, 32, 64
SCALE = np.float32((INNER // reference.HEADS) ** -0.5)


class Updated(NamedTuple):
    """The outputs of two `Plan.update_image` steps for one prompt."""

    scale: F32  # (N,), 1/σ of the second update's LayerNorm for each image token
    basis: F32  # (rank, N), each image token's coefficients in the low-rank change
    last: F32  # (LAST, rank); last @ basis: the part of the image updates in the last layer, unscaled
    attended: tuple[F32, F32]  # the results of the attention to the image after the first and the second update


@dataclass(frozen=True)
class Scene:
    """Random inputs of two image updates for one prompt, and the expected results in float64."""

    n: int
    x: F32
    pe: F32
    constants: LowRank
    outs: tuple[Affine, Affine]  # output projections of the attentions in both image updates
    queries: tuple[Affine, Affine]  # query projections of the attentions in both image updates
    norms: tuple[Affine, Affine]  # LayerNorms at the end of both image updates
    # The three attentions to the image take place before the updates, between them, and after them.
    keys: tuple[Affine, Affine, Affine]  # key projections of the three attentions to the image
    values: tuple[Affine, Affine, Affine]  # value projections of the three attentions to the image
    tokens: tuple[tuple[F32, F32, F32], ...]  # keys and values of each update, and queries of the attention after it
    attended_before: np.ndarray  # the result of the attention to the image before the updates
    attended: tuple[np.ndarray, ...]  # the results of the attentions to the image after each of the two updates
    updated: tuple[np.ndarray, ...]  # the image tokens after each of the two updates
    last: np.ndarray  # the first transposed convolution of the updated image, (N, LAST)
    condition: float  # factor by which cancellation in the variances of both LayerNorms amplifies rounding errors

    def maps(self, **options) -> tuple[ImageMaps, ImageMaps]:
        """Return channel-major projections (maps) of the image and of its positional encoding."""
        c = self.constants
        pe = project_image(self.pe, None, None, c.pe_rows, **options)
        pe.data[:, : len(c.pe_bias)] += c.pe_bias[:, None]
        return project_image(self.x, c.shift, c.scale, c.rows, (pe, 2 * INNER), **options), pe

    def update(self, maps: tuple[ImageMaps, ImageMaps], **options) -> Updated:
        """Run both image updates with the scene's tokens."""
        (updated,) = updates(self.constants, maps, [self.tokens], **options)
        return updated


def record_updates(
    made: Recording, constants: LowRank, image: Maps, pe: Maps, prompts
) -> tuple[UpdatedImage, list[Array]]:
    """Record two image updates. Each prompt is a pair of (keys, values, queries), one triple for each update."""
    updated, attended = None, []
    for i, update in enumerate((constants.first, constants.second)):
        keys, values, queries = (np.stack(part) for part in zip(*(prompt[i] for prompt in prompts)))
        tokens = made.give(keys * SCALE, values, queries * SCALE)
        updated, answers = made.plan.update_image(image, pe, update, *tokens, updated, channels=CHANNELS)
        attended.append(answers)
    return updated, attended


def updates(constants: LowRank, maps: tuple[ImageMaps, ImageMaps], prompts, **options) -> list[Updated]:
    """Run a plan with two image updates for several prompts. Returns one Updated for each prompt."""
    made, n = Recording(**options), maps[0].n
    updated, attended = record_updates(made, constants, *map(made.give_maps, maps), prompts)
    data, last, *answers = made.run(updated.data, updated.last[0], *attended)
    images = data[..., :256].transpose(0, 2, 1, 3).reshape(len(data), data.shape[2], -1)[..., :n]
    scales, bases = np.ascontiguousarray(images[:, 0]), np.ascontiguousarray(images[:, 1 : updated.rank + 1])
    return [Updated(*one, answered) for *one, answered in zip(scales, bases, last, zip(*answers), strict=True)]


def scene(n: int, tokens: int, query_count: int, sharper: float = 1) -> Scene:
    """Return a random scene.

    Args:
        n: Number of image tokens.
        tokens: Number of prompt tokens, which is also the number of queries after the first update.
        query_count: Number of queries of the attention to the image after the second update.
        sharper: Factor that multiplies the queries, and thereby the attention scores.
    """
    rng = np.random.default_rng((n, tokens, query_count))

    def random(*shape: int) -> F32:
        return rng.standard_normal(shape, np.float32)

    def affine(weight: F32, bias: F32) -> Affine:
        return Affine(np.asarray(weight, np.float64), np.asarray(bias, np.float64))

    def linear(rows: int, columns: int) -> Affine:
        return affine(random(rows, columns) / np.float32(columns**0.5), random(rows) * np.float32(0.3))

    x, pe, e, c = random(n, CHANNELS), random(n, CHANNELS), INNER, CHANNELS
    outs, queries = ([linear(*shape), linear(*shape)] for shape in ((c, e), (e, c)))
    keys, values = ([linear(e, c) for _ in range(3)] for _ in range(2))
    norms = [affine(1 + random(c) / 4, random(c) / 4) for _ in range(2)]
    last = linear(LAST, c)
    prompt = tuple(
        (random(tokens, e), random(tokens, e), random(count, e) * np.float32(sharper))
        for count in (tokens, query_count)
    )
    attention = [((k.weight, k.bias), (v.weight, v.bias)) for k, v in zip(keys, values, strict=True)]
    y, condition = np.asarray(x, np.float64), 1.0
    attended_before, attended, updated = reference.attend_image(prompt[0][2], y, pe, *attention[0]), [], []
    for i, (k, v, q) in enumerate(prompt):
        weights = [(part.weight, part.bias) for part in (queries[i], outs[i], norms[i])]
        change = reference.linear(
            reference.cross_attention(reference.linear(y + pe, *weights[0]), k, v, heads=reference.HEADS), *weights[1]
        )
        own, added, both = (np.linalg.norm(z - z.mean(axis=1, keepdims=True), axis=1) for z in (y, change, y + change))
        condition *= np.max((own + added) / both) ** 2
        y = reference.update_image(y, pe, k, v, *weights)
        updated.append(y)
        attended.append(reference.attend_image(q, y, pe, *attention[i + 1]))
    constants = low_rank(outs, norms, queries, keys, values, last)
    return Scene(
        n,
        x,
        pe,
        constants,
        *map(tuple, (outs, queries, norms, keys, values)),
        prompt,
        attended_before,
        tuple(attended),
        tuple(updated),
        reference.linear(y, last.weight, last.bias),
        condition,
    )
