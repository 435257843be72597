"""Matrix products of the ISA zen4, computed from pairs of terms (kernels/micro/pairs.h)."""

import itertools

import numpy as np
import pytest
from isas import PAIRED_DEPTH
from tolerances import assert_same, assert_within, integers, normal, paired_bound

from mobilesam import kernels
from mobilesam.kernels import isa, reference

pytestmark = [
    pytest.mark.skipif("zen4" not in isa.available(), reason="this CPU is no Zen 4"),
    pytest.mark.usefixtures("pairs"),
]

BLOCK, DEPTH = 48, 336  # the values of PAIRS_BLOCK and GEMM_DEPTH in pairs.h
DEPTHS = [
    PAIRED_DEPTH - 1, PAIRED_DEPTH, PAIRED_DEPTH + 1, BLOCK - 1, BLOCK, BLOCK + 1, BLOCK + 17, 2 * BLOCK - 1, 160, 257,
    DEPTH - 1, DEPTH, DEPTH + 1, 640, 2 * DEPTH + 33,
]  # fmt: skip


@pytest.fixture(scope="module")
def pairs():
    with isa.use("zen4"):
        yield


@pytest.mark.parametrize("k", DEPTHS)
def test_every_depth_is_exact(k):
    """Sums of small integers are exact, also if computed from pairs of terms, so any wrong term is detected."""
    for m, n in itertools.product((1, 2, 11, 12, 13, 25, 49, 168, 169), (1, 31, 32, 33, 65)):
        x, weight, bias = integers(m, k), integers(n, k), integers(n)
        assert np.array_equal(kernels.linear(x, weight, bias), reference.linear(x, weight, bias)), (m, n)


@pytest.mark.parametrize("k", DEPTHS)
@pytest.mark.parametrize("name", ["rows", "columns", "outliers", "positive"])
def test_scales(name, k):
    """Rows and columns have very different magnitudes, outliers, or terms of only one sign."""
    x, weight, residual = normal(29, k), normal(37, k), normal(29, 37)
    powers = 10.0 ** np.linspace(-15, 15, 29)
    match name:
        case "rows":
            x *= powers[:, None].astype(np.float32)
        case "columns":
            weight *= np.resize(powers, 37)[:, None].astype(np.float32)
        case "outliers":
            x[:, 3 % k] *= 1000
            weight[:, 4 % k] *= 1000
        case _:
            x, weight = abs(x), abs(weight)
    y = kernels.linear(x, weight, residual=residual)
    assert_within(y, reference.linear(x, weight, residual=residual), paired_bound(x, weight, residual))


@pytest.mark.parametrize("k", [PAIRED_DEPTH, 320])
@pytest.mark.parametrize(("size_x", "size_weight"), [(3e37, 1e-37), (1e-37, 3e37), (2e19, 2e-19), (0, 1), (1, 0)])
def test_the_ends_of_the_range(k, size_x, size_weight):
    """The squares of the inputs overflow or underflow in float32, so the scales must be computed in float64."""
    x, weight = normal(5, k).clip(-3, 3) * np.float32(size_x), normal(33, k).clip(-3, 3) * np.float32(size_weight)
    assert_within(kernels.linear(x, weight), reference.linear(x, weight), paired_bound(x, weight))


def test_below_the_normal_numbers():
    """A row of subnormal numbers cannot be scaled to a root mean square near 1, because a scale is at least 2⁻¹²⁶.

    The error bound grows by the ratio of 2⁻¹²⁶ and the scale that the row would need.
    """
    x, weight = normal(5, 64) * np.float32(1e-41), normal(33, 64) * np.float32(1e30)
    lacks = 2.0**-126 / np.linalg.norm(np.asarray(x, np.float64) / 8, axis=1, keepdims=True)
    assert_within(kernels.linear(x, weight), reference.linear(x, weight), lacks * paired_bound(x, weight))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_stay_in_their_row_or_column(value):
    x, weight = normal(30, 100), normal(40, 100)
    clean = kernels.linear(x, weight)
    x[7, 50] = weight[9, 5] = value
    y = kernels.linear(x, weight)
    seen = np.zeros(y.shape, bool)
    seen[7], seen[:, 9] = True, True
    assert np.isnan(y[seen]).all()
    assert_same(y[~seen], clean[~seen])


@pytest.mark.parametrize("channels", [16, 21, 32, 96])
@pytest.mark.parametrize("dilation", [1, 2])
def test_segments(channels, dilation):
    """A convolution reads an output pixel's inputs as several contiguous segments, which may end within a vector."""
    x, weight = integers(9, 14, channels), integers(33, 3, 3, channels)
    y = kernels.conv2d(x, weight, pad=1, dilation=dilation)
    assert np.array_equal(y, reference.conv2d(x, weight, pad=1, dilation=dilation))


def test_the_result_differs_from_avx512():
    """zen4's result differs from avx512's. Equal results would mean that these tests did not run zen4's product."""
    x, weight = normal(64, 160), normal(64, 160)
    with isa.use("avx512"):
        usual = kernels.linear(x, weight)
    assert (kernels.linear(x, weight) != usual).any()
