"""Random updates of an image by prompts: what the decoder's plans are given, and their answers in float64."""

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
    """What two updates have made of an image for one prompt."""

    scale: F32  # (N,)
    basis: F32  # (rank, N)
    last: F32  # (LAST, rank), of the products with the basis at the end
    attended: tuple[F32, F32]  # what the queries of each update are answered


@dataclass(frozen=True)
class Scene:
    """Random updates of an image: what the kernels take, and in float64 what they answer."""

    n: int
    x: F32
    pe: F32
    constants: LowRank
    outs: tuple[Affine, Affine]  # of the updates, each its output projection, its queries and the norm behind
    queries: tuple[Affine, Affine]
    norms: tuple[Affine, Affine]
    keys: tuple[Affine, Affine, Affine]  # of the attention before the updates and after each
    values: tuple[Affine, Affine, Affine]
    tokens: tuple[tuple[F32, F32, F32], ...]  # keys, values and queries of each update
    looked: np.ndarray  # what the first update's queries are answered before it
    attended: tuple[np.ndarray, ...]
    updated: tuple[np.ndarray, ...]  # the image's tokens after each update
    last: np.ndarray
    condition: float  # how much larger the terms of a squared deviation are than their sum

    def maps(self, **options) -> tuple[ImageMaps, ImageMaps]:
        c = self.constants
        pe = project_image(self.pe, None, None, c.pe_rows, **options)
        pe.data[:, : len(c.pe_bias)] += c.pe_bias[:, None]
        return project_image(self.x, c.shift, c.scale, c.rows, (pe, 2 * INNER), **options), pe

    def update(self, maps: tuple[ImageMaps, ImageMaps], **options) -> Updated:
        """What the scene's own tokens make of the image."""
        (updated,) = updates(self.constants, maps, [self.tokens], **options)
        return updated


def record_updates(
    made: Recording, constants: LowRank, image: Maps, pe: Maps, prompts
) -> tuple[UpdatedImage, list[Array]]:
    """The steps of two updates by prompts' tokens, each ((keys, values, queries), the second's)."""
    updated, attended = None, []
    for i, update in enumerate((constants.first, constants.second)):
        keys, values, queries = (np.stack(part) for part in zip(*(prompt[i] for prompt in prompts)))
        tokens = made.give(keys * SCALE, values, queries * SCALE)
        updated, answers = made.plan.update_image(image, pe, update, *tokens, updated, channels=CHANNELS)
        attended.append(answers)
    return updated, attended


def updates(constants: LowRank, maps: tuple[ImageMaps, ImageMaps], prompts, **options) -> list[Updated]:
    """What each prompt's tokens make of an image and its positional encoding, in one plan."""
    made, n = Recording(**options), maps[0].n
    updated, attended = record_updates(made, constants, *map(made.give_maps, maps), prompts)
    data, last, *answers = made.run(updated.data, updated.last[0], *attended)
    images = data[..., :256].transpose(0, 2, 1, 3).reshape(len(data), data.shape[2], -1)[..., :n]
    scales, bases = np.ascontiguousarray(images[:, 0]), np.ascontiguousarray(images[:, 1 : updated.rank + 1])
    return [Updated(*one, answered) for *one, answered in zip(scales, bases, last, zip(*answers), strict=True)]


def scene(n: int, tokens: int, asking: int, sharper: float = 1) -> Scene:
    rng = np.random.default_rng((n, tokens, asking))

    def random(*shape: int) -> F32:
        return rng.standard_normal(shape, np.float32)

    def affine(weight: F32, bias: F32) -> Affine:
        return Affine(np.float64(weight), np.float64(bias))

    def linear(rows: int, columns: int) -> Affine:
        return affine(random(rows, columns) / np.float32(columns**0.5), random(rows) * np.float32(0.3))

    x, pe, e, c = random(n, CHANNELS), random(n, CHANNELS), INNER, CHANNELS
    outs, queries = ([linear(*shape), linear(*shape)] for shape in ((c, e), (e, c)))
    keys, values = ([linear(e, c) for _ in range(3)] for _ in range(2))
    norms = [affine(1 + random(c) / 4, random(c) / 4) for _ in range(2)]
    last = linear(LAST, c)
    prompt = tuple(
        (random(tokens, e), random(tokens, e), random(count, e) * np.float32(sharper)) for count in (tokens, asking)
    )
    attention = [((k.weight, k.bias), (v.weight, v.bias)) for k, v in zip(keys, values, strict=True)]
    y, condition = np.float64(x), 1.0
    looked, attended, updated = reference.attend_image(prompt[0][2], y, pe, *attention[0]), [], []
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
        looked,
        tuple(attended),
        tuple(updated),
        reference.linear(y, last.weight, last.bias),
        condition,
    )
