"""LayerNorm, softmax, GELU and `normalize`: rows of every length, extreme magnitudes, NaN and infinity."""

import numpy as np
import pytest
from isas import every_isa  # noqa: F401
from micro_kernels import gelu, softmax
from tolerances import (
    U,
    activation_bound,
    assert_same,
    assert_within,
    gelu_bound,
    layer_norm_bound,
    normal,
    softmax_bound,
)

from mobilesam import kernels
from mobilesam.kernels import isa, reference

pytestmark = pytest.mark.usefixtures("every_isa")


def lengths(*more: int) -> list[int]:
    """Return row lengths near multiples of the vector length, and the lengths `more`."""
    vl = isa.register_tile()[2]
    return sorted({1, 2, 3, vl - 1, vl, vl + 1, 2 * vl - 1, 2 * vl, 2 * vl + 1, 3 * vl + 1, *more})


@pytest.mark.parametrize("activation", [None, "gelu", "relu"])
@pytest.mark.parametrize("eps", [1e-5, 1e-6, 0.5])
def test_layer_norm(eps, activation):
    for channels in lengths(4, 16, 64, 128, 160, 256, 320):
        x, weight, bias = normal(39, channels), normal(channels), normal(1, channels)[0]
        y = kernels.layer_norm(x, weight, bias, eps=eps, activation=activation)
        expected = reference.layer_norm(x, weight, bias, eps=eps, activation=activation)
        error = layer_norm_bound(x, weight, bias, eps=eps)
        assert_within(y, expected, activation_bound(error, expected, activation))


@pytest.mark.parametrize("channels", [7, 64, 320])
def test_layer_norm_of_rows_far_from_zero(channels):
    """The squared mean is 10⁷ times the variance, so a variance computed as E[x²] − mean² in float32 would be wrong."""
    x = normal(50, channels) + np.float32(3000)
    weight, bias = normal(channels), normal(1, channels)[0]
    y = kernels.layer_norm(x, weight, bias)
    assert_within(y, reference.layer_norm(x, weight, bias), layer_norm_bound(x, weight, bias))


@pytest.mark.parametrize("value", [0.0, 1.0, -3.0, 1024.0])
def test_layer_norm_of_a_constant_row_is_the_bias(value):
    bias = normal(37)
    y = kernels.layer_norm(np.full((2, 37), value, np.float32), normal(1, 37)[0], bias)
    assert_within(y, np.tile(bias, (2, 1)), 0.0)  # exact: the sum 37·value and its division by 37 do not round


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_layer_norm_keeps_nan_and_infinity_in_their_row(value):
    x, weight, bias = normal(9, 37), normal(37), normal(1, 37)[0]
    clean = kernels.layer_norm(x, weight, bias)
    x[4, 36] = value
    y = kernels.layer_norm(x, weight, bias)
    assert np.isnan(y[4]).all()
    assert_same(np.delete(y, 4, axis=0), np.delete(clean, 4, axis=0))


@pytest.mark.parametrize("scale", [1e-3, 1, 30, 1e4, 1e30])
def test_softmax(scale):
    for length in lengths(49, 196):
        x = np.float32(scale) * normal(5, length)
        y = softmax(x)
        assert_within(y, reference.softmax(x), softmax_bound(x))
        assert (y >= 0).all()
        assert abs(y.sum(axis=-1, dtype=np.float64) - 1).max() <= (length + 8) * U


def test_softmax_of_minus_infinity_is_zero():
    for length in lengths(49):
        if length > 1:
            x = normal(length, length)
            np.fill_diagonal(x, -np.inf)
            y = softmax(x)
            assert_within(y, reference.softmax(x), softmax_bound(x))
            assert (np.diag(y) == 0).all()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_softmax_of_an_undefined_row_is_not_a_number(value):
    for length in lengths(49):
        for at in {0, length // 2, length - 1}:
            x = normal(3, length)
            clean = softmax(x)
            x[1, at] = value
            y = softmax(x)
            assert np.isnan(y[1]).all(), (length, at)
            assert_same(y[::2], clean[::2])
        assert np.isnan(softmax(np.full((2, length), -np.inf, np.float32))).all()


@pytest.fixture(scope="module")
def gelu_inputs() -> tuple[np.ndarray, np.ndarray]:
    """Return two million float32 numbers and their exact GELU: bit patterns of all kinds and a fine grid around 0."""
    patterns = np.arange(0, 1 << 32, 2039, dtype=np.uint32).view(np.float32)
    special = np.float32([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 3.4e38, -3.4e38])
    x = np.concatenate([patterns, special, np.linspace(-12, 12, 500_001, dtype=np.float32)])
    with np.errstate(invalid="ignore"):  # converting a signalling NaN to float64 warns
        return x, reference.gelu(x)


def test_gelu_of_every_kind_of_number(gelu_inputs):
    x, expected = gelu_inputs
    assert_within(gelu(x), expected, gelu_bound(expected))


def test_gelu_of_any_length():
    for length in lengths(1000):
        x = normal(length)
        expected = reference.gelu(x)
        assert_within(gelu(x), expected, gelu_bound(expected))
    one = gelu(np.float32([[0.75]]))
    assert_same(gelu(np.full((3, 5, 7), 0.75, np.float32)), np.broadcast_to(one, (3, 5, 7)).copy())


def test_out_may_be_the_input():
    x, more = normal(333, 61), [normal(61), normal(1, 61)[0]]
    expected = kernels.layer_norm(x, *more)
    assert kernels.layer_norm(x, *more, out=x) is x
    assert_same(x, expected)


@pytest.mark.parametrize(("shape", "size"), [((1, 1, 3), (1, 1)), ((5, 7, 3), (9, 8)), ((64, 300, 3), (64, 301))])
def test_normalize(shape: tuple[int, int, int], size: tuple[int, int]):
    """The error bound allows one rounding of the subtraction of the mean and one of the division."""
    image = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    mean, std = np.array([123.675, 116.28, 103.53], np.float32), np.array([58.395, 57.12, 57.375], np.float32)
    expected = reference.normalize(image, mean, std, size=size)
    magnitude = reference.normalize(image, -mean, std, size=size)
    assert_within(kernels.normalize(image, mean, std, size=size), expected, 3 * U * magnitude)
    wide = np.zeros((shape[0], 2 * shape[1], 3), np.uint8)
    wide[:, ::2] = image
    assert_same(kernels.normalize(wide[:, ::2], mean, std, size=size), kernels.normalize(image, mean, std, size=size))


def test_normalize_errors_name_the_argument():
    image, mean = np.zeros((4, 5, 3), np.uint8), normal(3)
    for arguments, size, error, name in (
        ((image.astype(np.float32), mean, mean), (4, 5), TypeError, "image"),
        ((image[0], mean, mean), (4, 5), ValueError, "image"),
        ((image, normal(4), mean), (4, 5), ValueError, "mean"),
        ((image, mean, mean.astype(np.float64)), (4, 5), TypeError, "std"),
        ((image, mean, mean), (3, 5), ValueError, "size"),
    ):
        with pytest.raises(error, match=rf"^{name}: [^\n]*$"):
            kernels.normalize(*arguments, size=size)


@pytest.mark.parametrize("threads", [True, "2", 2.0, 0, -1])
def test_a_number_of_threads_is_a_whole_number(threads: object):
    with pytest.raises(ValueError, match=r"^threads: expected a whole number from 1 "):
        kernels.layer_norm(normal(2, 3), normal(3), normal(3), threads=threads)
