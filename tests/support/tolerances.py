"""How far float32 arithmetic may stray from the exact value, as follows from the arithmetic.

U = 2⁻²⁴ is the unit roundoff. A sum of n rounded terms, in any order, with or without fused multiply-add,
differs from the exact one by at most n·U/(1 − n·U) times the sum of the absolute values (Higham, Accuracy and
Stability of Numerical Algorithms, 2002, sections 3.1 and 4.2).
"""

from typing import Any

import numpy as np

from mobilesam.kernels import reference

U = 2.0**-24
TINY = float(np.finfo(np.float32).tiny)
GELU_ERROR = 1e-6  # what mobilesam.kernels.gelu promises
GELU_SLOPE = 1.13  # the largest |gelu'|, at x = √2


def assert_within(got: np.ndarray, expected: np.ndarray, bound: np.ndarray | float) -> None:
    """|got − expected| ≤ bound, element by element; NaN and infinities must be where they are expected."""
    assert got.dtype == np.float32
    assert got.shape == expected.shape
    bound = np.broadcast_to(bound, got.shape)
    with np.errstate(invalid="ignore", over="ignore"):
        same = (got == expected.astype(np.float32)) | (np.isnan(got) & np.isnan(expected))
        wrong = ~(same | (abs(got - expected) <= bound))
    if wrong.any():
        at = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise AssertionError(
            f"{wrong.sum()} of {wrong.size} differ, the first at {at}: {got[at]} is not "
            f"{expected[at]} within {bound[at]:.3g}"
        )


def sum_bound(depth: int, magnitude: np.ndarray) -> np.ndarray:
    """For Σ of `depth` products, a bias and a residual whose absolute values add up to `magnitude`."""
    rounded = (depth + 2) * U
    return rounded / (1 - rounded) * magnitude


def paired_bound(x: np.ndarray, weight: np.ndarray, *added: np.ndarray | None) -> np.ndarray:
    """For rows x (..., K) times weight (N, K) by pairs of terms (pairs.h), and what is added.

    With a and b divided by powers of two such that their root mean squares are within a factor of two, the sums' terms
    (|a0| + |b1|)(|a1| + |b0|), |a0·a1| and |b0·b1| add up to at most 1.5(|a|² + |b|²), and that to at most 3.75|a||b|.
    Each term rounds three times before it is summed.
    """
    depth = x.shape[-1]
    norms = [np.linalg.norm(np.float64(array), axis=-1) for array in (x, weight)]
    others = sum(abs(np.float64(array)) for array in added if array is not None)
    rounded = (depth + 8) * U
    return rounded / (1 - rounded) * (3.75 * norms[0][..., None] * norms[1] + others)


def gelu_bound(y: np.ndarray) -> np.ndarray:
    """Where y is the exact result: the promised error, and an ulp where y is so large that this is more."""
    return np.maximum(GELU_ERROR, 2 * U * abs(y))


def activation_bound(error: np.ndarray, y: np.ndarray, activation: str | None) -> np.ndarray:
    """For act(t) with a t known within `error`, where y is the exact result."""
    return GELU_SLOPE * error + gelu_bound(y) if activation == "gelu" else error


def assert_sum(
    got: np.ndarray, name: str, depth: int, *arrays: Any, activation: str | None = None, **options: Any
) -> None:
    """`got` is what the operation `name` gives, each output being a sum of `depth` products and more."""
    operation = getattr(reference, name)
    expected = operation(*arrays, activation=activation, **options)
    absolute = {key: abs(value) if isinstance(value, np.ndarray) else value for key, value in options.items()}
    magnitude = operation(*(None if array is None else abs(array) for array in arrays), **absolute)
    assert_within(got, expected, activation_bound(sum_bound(depth, magnitude), expected, activation))


def layer_norm_bound(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, *, eps: float = 1e-5) -> np.ndarray:
    """For the two-pass formula. The mean errs by δ, as a sum of C terms, and shifts every deviation by it.

    The variance around the computed mean is σ² + δ² within the rounding of its sum; the square root and the
    division round, and so do the product with the weight and the addition of the bias.
    """
    x, weight, bias = np.float64(x), np.float64(weight), np.float64(bias)
    channels = x.shape[-1]
    shift = (channels + 1) * U * abs(x).mean(axis=-1, keepdims=True)
    deviation = abs(x - x.mean(axis=-1, keepdims=True))
    variance = np.square(deviation).mean(axis=-1, keepdims=True)
    spread = np.sqrt(variance + eps)
    relative = ((channels + 4) * U * variance + shift**2) / (variance + eps)
    error = shift + deviation * (3 * U + relative + 4 * U)
    return abs(weight) * error / spread + 3 * U * (abs(weight) * deviation / spread + abs(bias))


def softmax_bound(x: np.ndarray) -> np.ndarray:
    """Relative errors add up: U·|x − m| of the exponent, 2 ulps of exp, in the sum those of its N positive
    terms and its additions, 2 roundings of the quotient. Below the normal numbers the answer may be 0.
    """
    x = np.float64(x)
    y = reference.softmax(x)
    with np.errstate(invalid="ignore"):
        distance = np.where(y > 0, abs(x - x.max(axis=-1, keepdims=True)), 0)
    in_sum = distance.max(axis=-1, keepdims=True)
    return (distance + 4 + in_sum + 4 + x.shape[-1] + 2) * U * y + 2 * TINY


def resize_bound(x: np.ndarray, padded: tuple[int, int], crop: tuple[int, int]) -> float:
    """For `resize_logits`: a coordinate rounds by 3 U of its size, at most the source's side, and moves the value by
    the slope there.

    A slope is at most the largest step between neighbours, of x and of the padded map; each of the four
    blends adds a few roundings of a value of at most max|x|.
    """
    canvas = reference.resize_logits(x, padded=padded, crop=padded, size=padded)[:, : crop[0], : crop[1]]
    moved = sum(
        3 * U * side * abs(np.diff(source, axis=axis)).max(initial=0.0)
        for source in (x, canvas)
        for axis, side in ((1, source.shape[1]), (2, source.shape[2]))
    )
    return moved + 4 * 4 * U * abs(x).max()


def assert_relative_l2(got: np.ndarray, expected: np.ndarray, bound: float) -> None:
    """‖got − expected‖ ≤ bound·‖expected‖: for passes of several sums, whose elementwise bounds are loose."""
    assert got.dtype == np.float32
    assert got.shape == expected.shape
    error = np.linalg.norm(got - expected) / np.linalg.norm(expected)
    assert error <= bound, f"relative error {error:.3g} is over {bound:.3g}"


def assert_same(got: np.ndarray, expected: np.ndarray) -> None:
    """The same shape and the same bits."""
    assert got.dtype == expected.dtype
    assert got.shape == expected.shape
    differ = np.flatnonzero(got.ravel().view(np.uint32) != expected.ravel().view(np.uint32))
    assert not differ.size, f"{differ.size} of {got.size} differ, the first at index {differ[0]} of all"


def normal(*shape: int) -> np.ndarray:
    """Float32 values of a standard normal distribution, always the same for a shape."""
    return np.random.default_rng(shape).standard_normal(shape, np.float32)


def integers(*shape: int) -> np.ndarray:
    """Whole numbers from −4 to 4, always the same for a shape: sums of products are exact in float32."""
    return np.random.default_rng(shape).integers(-4, 5, shape).astype(np.float32)


def pass_bound(*depths: int, gelus: int = 0) -> float:
    """The relative error, by norm, of sums of `depths` products one after the other, with GELUs between them.

    Rounding errors are independent enough that those of n additions grow like √n·U and not n·U (Higham &
    Mary, SIAM J. Sci. Comput. 41, 2019); a random weight changes error and signal alike. Four standard
    deviations and one rounding more for each sum. GELU's values are of order 1 here, ¼ at least, and err by
    what it promises.
    """
    return 4 * U * sum(depth**0.5 + 1 for depth in depths) + 4 * GELU_ERROR * gelus


def narrow_sum_bound(precision: str, x: np.ndarray, weight: np.ndarray, *added: np.ndarray | None) -> np.ndarray:
    """For a product in a narrow precision of rows x (..., K) with weight (N, K), and what is added to it.

    bf16: products are exact in float32; what is below the normal numbers may become 0. int8: the sum is exact and is
    rounded to float32, and so are the scales' product, its product with the sum, and two additions.
    """
    x, weight = reference.narrow(x, precision), reference.narrow(weight, precision)
    others = sum(abs(np.float64(array)) for array in added if array is not None)
    if precision == "int8":
        return 5 * U / (1 - 5 * U) * (abs(x @ weight.T) + others) + 5 * TINY
    depth = x.shape[-1]
    return sum_bound(depth, abs(x) @ abs(weight).T + others) + 2 * depth * TINY


def assert_narrow_sum(
    got: np.ndarray,
    precision: str,
    x: np.ndarray,
    weight: np.ndarray,
    bias: np.ndarray | None = None,
    *,
    residual: np.ndarray | None = None,
    activation: str | None = None,
) -> None:
    """`got` is `linear` of rows x (..., K) with a weight (N, K) packed in a precision."""
    packed = reference.Packed(weight, precision)
    expected = reference.linear(x, packed, bias, residual=residual, activation=activation)
    bound = narrow_sum_bound(precision, x, weight, bias, residual)
    assert_within(got, expected, activation_bound(bound, expected, activation))


def whole_numbers(precision: str, *shape: int) -> np.ndarray:
    """`integers` that a narrow precision holds exactly, as products of them: in int8 one of a row is ±127, which makes
    its scale 1.
    """
    x = integers(*shape)
    if precision == "int8":
        x[..., shape[-1] // 2] = 127 * np.where(x[..., 0] < 0, -1, 1)
    return x


NARROW_SPACING = {"bf16": 2.0**-7, "int8": 6 / 127}  # of neighbouring values, for values of order 1 below 6


def narrow_pass_bound(precision: str, *depths: int, gelus: int = 0, roundings: int, count: int) -> float:
    """The relative error, by norm, of a pass as in `pass_bound` that rounds `roundings` times `count` values it made.

    A value within δ of the reference's is rounded to another neighbour, a spacing s away, where a boundary lies between
    the two: with probability δ/s, δ a standard deviation. That many of the values, and four more for a few values'
    luck, err by s, the others as in float32. A rounding left out, or one too many, is s/√12 in all of them.
    """
    spread = pass_bound(*depths) / 4 + GELU_ERROR * gelus
    spacing = NARROW_SPACING[precision]
    return 4 * spread + spacing * (roundings * (spread / spacing + 4 / count)) ** 0.5
