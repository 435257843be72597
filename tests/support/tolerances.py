"""Error bounds of float32 results, derived from the arithmetic.

U = 2⁻²⁴ is the unit roundoff. A sum of n rounded terms, in any order, with or without fused multiply-add,
differs from the exact sum by at most n·U/(1 − n·U) times the sum of the absolute values (Higham, Accuracy and
Stability of Numerical Algorithms, 2002, sections 3.1 and 4.2).
"""

from typing import Any

import numpy as np

from mobilesam.kernels import reference

U = 2.0**-24
TINY = float(np.finfo(np.float32).tiny)
GELU_ERROR = 1e-6  # the largest absolute error that GELU may have
GELU_SLOPE = 1.13  # the largest |gelu'|, at x = √2


def assert_within(got: np.ndarray, expected: np.ndarray, bound: np.ndarray | float) -> None:
    """Assert |got − expected| ≤ bound for each element. NaN and infinities must be in the same places."""
    assert got.dtype == np.float32
    assert got.shape == expected.shape
    bound = np.broadcast_to(bound, got.shape)
    with np.errstate(invalid="ignore", over="ignore"):
        same = (got == expected.astype(np.float32)) | (np.isnan(got) & np.isnan(expected))
        wrong = ~(same | (abs(got - expected) <= bound))
    if wrong.any():
        at = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise AssertionError(
            f"{wrong.sum()} of {wrong.size} elements are outside the bound, the first at {at}: {got[at]} is not "
            f"{expected[at]} within {bound[at]:.3g}"
        )


def sum_bound(depth: int, magnitude: np.ndarray) -> np.ndarray:
    """Error bound of a sum of `depth` products, a bias and a residual, whose absolute values add up to `magnitude`."""
    rounded = (depth + 2) * U
    return rounded / (1 - rounded) * magnitude


def paired_bound(x: np.ndarray, weight: np.ndarray, *added: np.ndarray | None) -> np.ndarray:
    """Error bound of x·weightᵀ computed from pairs of terms (pairs.h).

    A row a and a column b are first scaled by powers of two, so that their root mean squares are within a factor of
    two of each other. The terms (|a0| + |b1|)(|a1| + |b0|), |a0·a1| and |b0·b1| then add up to at most
    1.5(|a|² + |b|²), which is at most 3.75|a||b|. Each term is rounded three times before it is summed.

    Args:
        x: Rows (..., K).
        weight: (N, K).
        *added: Bias and residual, or None.
    """
    depth = x.shape[-1]
    norms = [np.linalg.norm(np.asarray(array, np.float64), axis=-1) for array in (x, weight)]
    others = sum(abs(np.asarray(array, np.float64)) for array in added if array is not None)
    rounded = (depth + 8) * U
    return rounded / (1 - rounded) * (3.75 * norms[0][..., None] * norms[1] + others)


def gelu_bound(y: np.ndarray) -> np.ndarray:
    """Error bound of GELU for the exact result y: the larger of GELU_ERROR and 2·U·|y|."""
    return np.maximum(GELU_ERROR, 2 * U * abs(y))


def activation_bound(error: np.ndarray, y: np.ndarray, activation: str | None) -> np.ndarray:
    """Error bound of activation(t), if t has the error `error` and the exact value of activation(t) is y."""
    return GELU_SLOPE * error + gelu_bound(y) if activation == "gelu" else error


def assert_sum(
    got: np.ndarray, name: str, depth: int, *arrays: Any, activation: str | None = None, **options: Any
) -> None:
    """Assert that `got` is the result of the reference operation `name`, within the rounding of its sums.

    Args:
        got: The result to check.
        name: Name of a function in `kernels.reference`.
        depth: Number of products in the sum of one output.
        *arrays: Array arguments of the operation. An optional argument may be None.
        activation: The operation's activation.
        **options: The operation's other arguments.
    """
    operation = getattr(reference, name)
    expected = operation(*arrays, activation=activation, **options)
    absolute = {key: abs(value) if isinstance(value, np.ndarray) else value for key, value in options.items()}
    magnitude = operation(*(None if array is None else abs(array) for array in arrays), **absolute)
    assert_within(got, expected, activation_bound(sum_bound(depth, magnitude), expected, activation))


def layer_norm_bound(x: np.ndarray, weight: np.ndarray, bias: np.ndarray, *, eps: float = 1e-5) -> np.ndarray:
    """Error bound of LayerNorm computed in two passes.

    The mean is a sum of C terms. The error δ of the mean shifts every deviation from the mean. The variance around
    the computed mean is σ² + δ², plus the rounding errors of the sum of squares. The square root, the division, the
    product with the weight and the addition of the bias are rounded as well.
    """
    x, weight, bias = np.asarray(x, np.float64), np.asarray(weight, np.float64), np.asarray(bias, np.float64)
    channels = x.shape[-1]
    shift = (channels + 1) * U * abs(x).mean(axis=-1, keepdims=True)
    deviation = abs(x - x.mean(axis=-1, keepdims=True))
    variance = np.square(deviation).mean(axis=-1, keepdims=True)
    spread = np.sqrt(variance + eps)
    relative = ((channels + 4) * U * variance + shift**2) / (variance + eps)
    error = shift + deviation * (3 * U + relative + 4 * U)
    return abs(weight) * error / spread + 3 * U * (abs(weight) * deviation / spread + abs(bias))


def softmax_bound(x: np.ndarray) -> np.ndarray:
    """Error bound of softmax over the last axis of x.

    The relative errors of a softmax weight add up: U·|x − max| from the exponent, 2 ulps from exp, 2 roundings from
    the division, and the errors of the N positive terms and of the additions in the sum. A subnormal result may be 0.
    """
    x = np.asarray(x, np.float64)
    y = reference.softmax(x)
    with np.errstate(invalid="ignore"):
        distance = np.where(y > 0, abs(x - x.max(axis=-1, keepdims=True)), 0)
    in_sum = distance.max(axis=-1, keepdims=True)
    return (distance + 4 + in_sum + 4 + x.shape[-1] + 2) * U * y + 2 * TINY


def resize_bound(x: np.ndarray, padded: tuple[int, int], crop: tuple[int, int]) -> float:
    """Error bound of `resize_logits`.

    A source coordinate is at most the side of the source and has a relative error of 3·U. The error of an
    interpolated value is the error of the coordinate times the slope. The slope is at most the largest difference
    between neighbouring pixels. Both resizes contribute: from x to the padded canvas, and from the canvas to the
    photo. Each of the four interpolations adds a few roundings of a value of at most max|x|.
    """
    canvas = reference.resize_logits(x, padded=padded, crop=padded, size=padded)[:, : crop[0], : crop[1]]
    moved = sum(
        3 * U * side * abs(np.diff(source, axis=axis)).max(initial=0.0)
        for source in (x, canvas)
        for axis, side in ((1, source.shape[1]), (2, source.shape[2]))
    )
    return moved + 4 * 4 * U * abs(x).max()


def assert_relative_l2(got: np.ndarray, expected: np.ndarray, bound: float) -> None:
    """Assert ‖got − expected‖ ≤ bound·‖expected‖.

    For chains of several sums, this bound is tighter than elementwise bounds.
    """
    assert got.dtype == np.float32
    assert got.shape == expected.shape
    error = np.linalg.norm(got - expected) / np.linalg.norm(expected)
    assert error <= bound, f"relative error {error:.3g} is over {bound:.3g}"


def assert_same(got: np.ndarray, expected: np.ndarray) -> None:
    """Assert that both arrays have the same dtype, shape and bits."""
    assert got.dtype == expected.dtype
    assert got.shape == expected.shape
    differ = np.flatnonzero(got.ravel().view(np.uint32) != expected.ravel().view(np.uint32))
    assert not differ.size, f"{differ.size} of {got.size} elements differ, the first at flat index {differ[0]}"


def normal(*shape: int) -> np.ndarray:
    """Float32 values of a standard normal distribution. The same shape gives the same values."""
    return np.random.default_rng(shape).standard_normal(shape, np.float32)


def integers(*shape: int) -> np.ndarray:
    """Whole numbers from −4 to 4, whose sums of products are exact in float32. The same shape gives the same values."""
    return np.random.default_rng(shape).integers(-4, 5, shape).astype(np.float32)


def pass_bound(*depths: int, gelus: int = 0) -> float:
    """Bound of ‖error‖/‖result‖ for a chain of sums.

    Rounding errors are nearly independent, so the error of n additions grows like √n·U, not like n·U (Higham and
    Mary, SIAM Journal on Scientific Computing 41, 2019). A random weight scales error and signal equally. The bound
    allows four standard deviations and one additional rounding for each sum. GELU's error is GELU_ERROR, and the root
    mean square of its results is assumed to be at least ¼.

    Args:
        *depths: Number of products in each sum of the chain, from the first sum to the last.
        gelus: Number of GELUs between the sums.
    """
    return 4 * U * sum(depth**0.5 + 1 for depth in depths) + 4 * GELU_ERROR * gelus


def narrow_sum_bound(precision: str, x: np.ndarray, weight: np.ndarray, *added: np.ndarray | None) -> np.ndarray:
    """Error bound of x·weightᵀ in a narrow precision.

    In bf16, products are exact in float32, and subnormal numbers may become 0. In int8, the integer sum is exact,
    and five values are rounded to float32: the sum, the product of the two scales, the scaled sum, the sum with the
    bias, and the sum with the residual.

    Args:
        precision: "bf16" or "int8".
        x: Rows (..., K), before rounding to the precision.
        weight: (N, K), before rounding to the precision.
        *added: Bias and residual, or None.
    """
    x, weight = reference.narrow(x, precision), reference.narrow(weight, precision)
    others = sum(abs(np.asarray(array, np.float64)) for array in added if array is not None)
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
    """Assert that `got` is `linear` of x (..., K) with a weight (N, K) packed in a narrow precision."""
    packed = reference.Packed(weight, precision)
    expected = reference.linear(x, packed, bias, residual=residual, activation=activation)
    bound = narrow_sum_bound(precision, x, weight, bias, residual)
    assert_within(got, expected, activation_bound(bound, expected, activation))


def whole_numbers(precision: str, *shape: int) -> np.ndarray:
    """Whole numbers whose sums of products are exact in a narrow precision.

    For int8, one number in each row is ±127, which makes the row's scale 1.
    """
    x = integers(*shape)
    if precision == "int8":
        x[..., shape[-1] // 2] = 127 * np.where(x[..., 0] < 0, -1, 1)
    return x


# Distance between neighbouring numbers of a precision, for arrays of order 1 whose values are at most 6.
NARROW_SPACING = {"bf16": 2.0**-7, "int8": 6 / 127}


def narrow_pass_bound(precision: str, *depths: int, gelus: int = 0, roundings: int, count: int) -> float:
    """Bound of ‖error‖/‖result‖ for a pass that rounds intermediate values to a narrow precision.

    Before rounding, the kernel's values differ from the reference's values by a standard deviation δ. With probability
    δ/s, the kernel's and the reference's value are rounded to two different neighbours, whose distance is s. The bound
    allows a fraction δ/s of the values, and four more values, to have an error of s. For the other values, it allows
    the float32 error of `pass_bound`. A kernel that omits or adds a rounding has an error of about s/√12 in each value.

    Args:
        precision: "bf16" or "int8".
        *depths: Number of products in each sum of the pass, from the first sum to the last.
        gelus: Number of GELUs between the sums.
        roundings: Number of intermediate arrays that are rounded.
        count: Number of values in one intermediate array.
    """
    spread = pass_bound(*depths) / 4 + GELU_ERROR * gelus
    spacing = NARROW_SPACING[precision]
    return 4 * spread + spacing * (roundings * (spread / spacing + 4 / count)) ** 0.5
