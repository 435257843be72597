"""Random updates of an image by prompts: arguments of the decoder's kernels, and their answers in float64."""

from dataclasses import dataclass

import numpy as np

from mobilesam import kernels
from mobilesam.kernels import reference
from mobilesam.network.low_rank import Affine, LowRank, low_rank
from mobilesam.network.mixed import Mixed, mixed
from mobilesam.network.parameters import F32

CHANNELS, INNER, LAST = 96, 32, 64
SCALE = np.float32((INNER // reference.HEADS) ** -0.5)


def update_one_mixed(maps, pe, update, keys, values, queries, before=None, **options):
    """update_image_mixed with the shapes of update_image, for one prompt."""
    (keys,), (values,), (queries,) = keys, values, queries
    image, attended = kernels.update_image_mixed(maps, pe, update, keys, values, queries, *(before or ()), **options)
    return [image], attended[None]


def rows_of(image, case: "Scene") -> kernels.MapRows:
    """What an updated image's basis goes through at the end."""
    if isinstance(image, kernels.MixedImage):
        return case.mixed.last_rows
    assert image.rows is not None
    return image.rows


def scale_of(image: kernels.UpdatedImage | kernels.MixedImage) -> F32:
    return image.data[:, 0, :256]


def basis_of(image: kernels.UpdatedImage | kernels.MixedImage) -> F32:
    return image.data[:, 1 : image.rank + 1, :256]


@dataclass(frozen=True)
class Scene:
    """Random updates of an image: what the kernels take, and in float64 what they answer."""

    n: int
    x: F32
    pe: F32
    constants: LowRank
    mixed: Mixed
    tokens: tuple[tuple[F32, F32, F32], ...]  # keys, values and queries of each update
    looked: np.ndarray  # what the first update's queries are answered before it
    attended: tuple[np.ndarray, ...]
    last: np.ndarray
    condition: float  # how much larger the terms of a squared deviation are than their sum

    def maps(self, **options) -> tuple[kernels.ImageMaps, kernels.ImageMaps]:
        c = self.constants
        pe = kernels.project_image(self.pe, None, None, c.pe_rows, **options)
        pe.data[:, : len(c.pe_bias)] += c.pe_bias[:, None]
        return kernels.project_image(self.x, c.shift, c.scale, c.rows, (pe, 2 * INNER), **options), pe

    def update(self, maps: tuple[kernels.ImageMaps, kernels.ImageMaps], update_image, **options):
        """The updated image and what attended to it, twice."""
        constants = self.mixed if update_image is update_one_mixed else self.constants
        ((image, attended),) = updates(constants, maps, [self.tokens], update_image, **options)
        return image, attended


def updates(
    constants: LowRank | Mixed, maps: tuple[kernels.ImageMaps, kernels.ImageMaps], prompts, update_image, **options
):
    """Each prompt's updated image and what attended to it, twice."""
    images, attended = None, []
    for i, update in enumerate((constants.first, constants.second)):
        keys, values, queries = (np.stack(part) for part in zip(*(prompt[i] for prompt in prompts)))
        images, answers = update_image(
            *maps, update, keys * SCALE, values, queries * SCALE, images, channels=CHANNELS, **options
        )
        attended.append(answers)
    return list(zip(images, zip(*attended), strict=True))


def scene(n: int, tokens: int, asking: int, sharper: float = 1) -> Scene:
    rng = np.random.default_rng((n, tokens, asking))

    def random(*shape: int) -> F32:
        return rng.standard_normal(shape, np.float32)

    def linear(rows: int, columns: int) -> Affine:
        return Affine.of(random(rows, columns) / np.float32(columns**0.5), random(rows) * np.float32(0.3))

    x, pe, e, c = random(n, CHANNELS), random(n, CHANNELS), INNER, CHANNELS
    outs, queries = ([linear(*shape), linear(*shape)] for shape in ((c, e), (e, c)))
    keys, values = ([linear(e, c) for _ in range(3)] for _ in range(2))
    norms = [Affine.of(1 + random(c) / 4, random(c) / 4) for _ in range(2)]
    last = linear(LAST, c)
    prompt = tuple(
        (random(tokens, e), random(tokens, e), random(count, e) * np.float32(sharper)) for count in (tokens, asking)
    )
    attention = [((k.weight, k.bias), (v.weight, v.bias)) for k, v in zip(keys, values, strict=True)]
    y, condition = np.float64(x), 1.0
    looked, attended = reference.attend_image(prompt[0][2], y, pe, *attention[0]), []
    for i, (k, v, q) in enumerate(prompt):
        weights = [(part.weight, part.bias) for part in (queries[i], outs[i], norms[i])]
        update = reference.linear(
            reference.cross_attention(reference.linear(y + pe, *weights[0]), k, v, heads=reference.HEADS), *weights[1]
        )
        own, added, both = (np.linalg.norm(z - z.mean(axis=1, keepdims=True), axis=1) for z in (y, update, y + update))
        condition *= np.max((own + added) / both) ** 2
        y = reference.update_image(y, pe, k, v, *weights)
        attended.append(reference.attend_image(q, y, pe, *attention[i + 1]))
    constants = low_rank(outs, norms, queries, keys, values, last)
    return Scene(
        n,
        x,
        pe,
        constants,
        mixed(constants),
        prompt,
        looked,
        tuple(attended),
        reference.linear(y, last.weight, last.bias),
        condition,
    )
