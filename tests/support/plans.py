"""Helpers that record and run plans of the decoder, and compute the steps on tokens in float64 for comparison."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mobilesam.kernels import Array, Maps, PackedRows, Plan, pack_rows, reference

CHUNK = 256  # number of image tokens in one chunk of channel-major projections (maps)


class ImageMaps(NamedTuple):
    """M channels of an image with n tokens, channel-major in chunks of 256 tokens: (⌈n / 256⌉, M, 256)."""

    data: np.ndarray
    n: int


class Recording:
    """A plan that is being recorded, and the input arrays for its run."""

    def __init__(self, **options: Any) -> None:
        self.plan, self.given = Plan(**options), dict[Array, np.ndarray]()

    def give(self, *values: np.ndarray) -> Any:
        """Make each value an input of the plan. Returns the Array of one value, or a list of the Arrays of several."""
        arrays = [self.plan.given(*value.shape) for value in values]
        self.given |= zip(arrays, values, strict=True)
        return arrays if len(arrays) > 1 else arrays[0]

    def give_maps(self, maps: np.ndarray | ImageMaps) -> Maps:
        """Make image tokens (N, M), or chunked ImageMaps, an input of the plan. Returns the Maps."""
        data, n = (maps_of(maps), len(maps)) if isinstance(maps, np.ndarray) else maps
        given = self.plan.given_maps(data.shape[1], n)
        self.given[given.array] = data
        return given

    def run(self, *wanted: Array | Maps) -> list[np.ndarray]:
        """Compile and run the plan. Returns copies of the values of each wanted Array, and of Maps as tokens (N, M)."""
        arrays = [result.array if isinstance(result, Maps) else result for result in wanted]
        for array in arrays:
            self.plan.result(array)
        self.plan.compile()
        self.plan.run(self.given)
        copies = [self.given[array].copy() if array in self.given else self.plan.view(array).copy() for array in arrays]
        return [tokens_of(y, x.n) if isinstance(x, Maps) else y for x, y in zip(wanted, copies, strict=True)]

    def fill(self, array: Array) -> np.ndarray:
        """Compile and run a plan whose last step writes to ``array``. Returns the values of ``array`` after the run."""
        self.given[array] = np.full(array.shape, np.nan, np.float32)
        return self.run(array)[0]


class Exact:
    """Has a Plan's methods for steps on tokens, but computes each step immediately in float64."""

    @staticmethod
    def linear(x, weight, bias=None, *, activation=None, residual=None, scale=1.0):
        return scale * reference.linear(x, weight, bias, activation=activation, residual=residual)

    @staticmethod
    def attention(q, k, v, *, heads):
        # cross_attention divides q by √d, which a plan does not, so q is multiplied by √d before.
        q = reference.f64(q) * (q.shape[-1] // heads) ** 0.5
        return np.stack([reference.cross_attention(*prompt, heads=heads) for prompt in zip(q, k, v, strict=True)])

    layer_norm = staticmethod(reference.layer_norm)

    @staticmethod
    def add(x, other):
        return reference.f64(x) + reference.f64(other)

    @staticmethod
    def take(x, numbers):
        return x[:, list(numbers)]


def maps_of(x: np.ndarray) -> np.ndarray:
    """Convert tokens (N, M) to channel-major chunks of 256 tokens (⌈N / 256⌉, M, 256), padded with zeros."""
    padded = np.pad(x, [(0, -len(x) % CHUNK), (0, 0)])
    return np.ascontiguousarray(padded.reshape(-1, CHUNK, x.shape[1]).transpose(0, 2, 1))


def tokens_of(maps: np.ndarray, n: int) -> np.ndarray:
    """Convert channel-major chunks (⌈n / 256⌉, M, 256) to tokens (n, M)."""
    return np.ascontiguousarray(maps.transpose(0, 2, 1).reshape(-1, maps.shape[1])[:n])


def project_image(
    x: np.ndarray,
    shift: np.ndarray | None,
    scale: np.ndarray | None,
    rows: PackedRows | np.ndarray,
    added: tuple[ImageMaps, int] | None = None,
    *,
    precision: str = "fp32",
    **options: Any,
) -> ImageMaps:
    """Run the step `project` on image tokens x (N, C).

    Args:
        x: Image tokens.
        shift: Argument ``shift`` of the step `project`.
        scale: Argument ``scale`` of the step `project`.
        rows: Weight of the projection, (M, C).
        added: Maps to add to the projection, and the number of their channels to add.
        precision: Precision in which to pack the weight.
        **options: Arguments of Plan.
    """
    made = Recording(**options)
    rows = rows if isinstance(rows, PackedRows) else pack_rows(rows, precision=precision)
    more = None if added is None else made.give_maps(added[0]).rows(0, added[1])
    maps = made.plan.project(made.give(x[None]), rows, more, shift=shift, scale=scale)
    (data,) = made.run(maps.array)
    return ImageMaps(data, len(x))


def arrays(prompts: int, tokens: int, widths: Sequence[int]) -> list[np.ndarray]:
    """Return one random array (prompts, tokens, width) for each width."""
    rng = np.random.default_rng((prompts, tokens, *widths))
    return [rng.standard_normal((prompts, tokens, width), np.float32) for width in widths]


def upscale_arrays(height: int, width: int, c1: int, c2: int, masks: int) -> dict[str, np.ndarray]:
    """Return random arguments of `reference.upscale_masks`. Weights are scaled so that sums are of order 1."""
    rng = np.random.default_rng((height, width, c1, c2, masks))
    shapes = {
        "x": (4 * c1, height, width),
        "norm_weight": (c1,),
        "norm_bias": (c1,),
        "w2": (4 * c2, c1),
        "b2": (c2,),
        "hyper": (masks, c2),
    }
    arrays = {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    return arrays | {"w2": arrays["w2"] / np.float32(c1**0.5)}


def record_upscaling(
    made: Recording,
    arrays: Mapping[str, np.ndarray],
    precision: str = "fp32",
    *,
    image: Maps | None = None,
    shift: np.ndarray | None = None,
    size: tuple[int, int] | None = None,
    **options: Any,
) -> Array:
    """Record the step `upscale_masks` with arguments from `upscale_arrays`. If ``image`` is given, it replaces x.

    ``size`` is the number of rows and columns of image tokens. None means those of x.
    """
    x = arrays["x"]
    if image is None:
        image = made.give_maps(np.ascontiguousarray(x.reshape(len(x), -1).T))
    weights = [arrays[name] for name in ("norm_weight", "norm_bias")]
    w2, hyper = pack_rows(arrays["w2"], precision=precision), made.give(arrays["hyper"])
    shift = np.zeros(len(x), np.float32) if shift is None else shift
    return made.plan.upscale_masks(image, size or x.shape[1:], *weights, w2, arrays["b2"], hyper, shift, **options)


def upscaled(arrays: Mapping[str, np.ndarray], precision: str = "fp32", *, threads: int | None = None, **options: Any):
    """Run a plan that contains only the step `upscale_masks`. Returns the masks."""
    made = Recording(threads=threads)
    return made.fill(record_upscaling(made, arrays, precision, **options))
