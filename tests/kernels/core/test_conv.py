"""Convolutions: exact sums for any geometry, rounding bounds for the network's layers, special values, errors."""

import itertools
import math

import grids
import numpy as np
import pytest
from grids import any_case
from hypothesis import assume, given
from hypothesis import strategies as st
from isas import as_products_give, every_isa  # noqa: F401
from tolerances import assert_same, assert_sum, assert_within, integers, normal

from mobilesam import kernels
from mobilesam.kernels import isa, reference

pytestmark = pytest.mark.usefixtures("every_isa")
OPERATIONS = ("conv2d", "depthwise_conv2d")


def exact(name, x, weight, bias, **options):
    """Assert that kernel and reference give equal results. Sums of small integers are exact in any order."""
    y = getattr(kernels, name)(x, weight, bias, **options)
    options.pop("threads", None)
    expected = getattr(reference, name)(x, weight, bias, **options)
    assert np.array_equal(y, expected), (x.shape, weight.shape, options)


def weight_shape(name: str, kernel: tuple[int, int], channels: int, out_channels: int = 5) -> tuple[int, ...]:
    return (*kernel, channels) if name == "depthwise_conv2d" else (out_channels, *kernel, channels)


def pairs(low: int, high: int) -> st.SearchStrategy:
    return st.tuples(st.integers(low, high), st.integers(low, high))


@pytest.mark.parametrize("name", OPERATIONS)
@any_case(120)
@given(
    batch=st.sampled_from([(), (1,), (3,)]),
    size=pairs(1, 11),
    channels=st.integers(1, 40),
    out_channels=st.integers(1, 70),
    kernel=pairs(1, 4),
    stride=pairs(1, 5),
    pad=pairs(0, 4),
    dilation=pairs(1, 3),
    activation=st.sampled_from([None, "relu"]),
    with_bias=st.booleans(),
    threads=st.integers(1, 4),
)
def test_any_geometry_is_exact(
    name, batch, size, channels, out_channels, kernel, stride, pad, dilation, activation, with_bias, threads
):
    assume(all(s + 2 * p > d * (k - 1) for s, p, d, k in zip(size, pad, dilation, kernel)))
    x, weight = (
        integers(*batch, *size, channels),
        integers(*weight_shape(name, kernel, channels, out_channels)),
    )
    bias = integers(channels if name == "depthwise_conv2d" else out_channels) if with_bias else None
    geometry = {"stride": stride, "pad": pad, "dilation": dilation}
    exact(name, x, weight, bias, **geometry, activation=activation, threads=threads)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("height", [1, 2, 5])
def test_depthwise_3x3_is_exact_at_every_edge(stride, height):
    """Tests the 3×3 kernel's fast path, with widths near its tile width and channel counts near the vector length."""
    vl = isa.register_tile()[2]
    edges = (1, vl - 1, vl, vl + 1, 2 * vl - 1, 2 * vl, 3 * vl + 1)
    for width, channels in itertools.product(range(1, 14), edges):
        x, weight, bias = integers(height, width, channels), integers(3, 3, channels), integers(channels)
        exact("depthwise_conv2d", x, weight, bias, stride=stride, pad=1)


@pytest.mark.parametrize("pad", [0, 1, 3])
def test_depthwise_rows_are_exact_at_every_edge(pad):
    """With stride 1, the kernel treats the width and the channels of a row as one axis.

    In this test, width·channels is near multiples of the vector length.
    """
    vl = isa.register_tile()[2]
    for width, channels in itertools.product((5, 6, 17), {1, 2, 3, vl // 2, vl - 1, vl, vl + 3}):
        exact("depthwise_conv2d", integers(7, width, channels), integers(5, 4, channels), None, pad=pad)


CONVOLUTIONS = [  # (input channels C, output channels OC, kernel, stride, pad)
    (3, 32, 3, 2, 1), (32, 64, 3, 2, 1), (256, 256, 3, 1, 1), (320, 256, 1, 1, 0),
    (1, 4, 2, 2, 0), (4, 16, 2, 2, 0), (16, 256, 1, 1, 0),
]  # fmt: skip


@pytest.mark.parametrize(("channels", "out_channels", "kernel", "stride", "pad"), CONVOLUTIONS)
def test_network_convolutions(channels, out_channels, kernel, stride, pad):
    x, bias = normal(6, 18, channels), normal(out_channels)
    weight = normal(out_channels, kernel, kernel, channels)
    geometry = {"stride": stride, "pad": pad, "activation": "gelu"}
    y = kernels.conv2d(x, weight, bias, **geometry)
    assert_sum(y, "conv2d", kernel * kernel * channels, x, weight, bias, **geometry)


DEPTHWISE = [(256, 1), (128, 2), (160, 2), (320, 1), (128, 1), (160, 1), (3, 1)]  # (C, stride)


@pytest.mark.parametrize(("channels", "stride"), DEPTHWISE)
def test_network_depthwise(channels, stride):
    x, weight, bias = normal(9, 65, channels), normal(3, 3, channels), normal(channels)
    geometry = {"stride": stride, "pad": 1, "activation": "gelu"}
    y = kernels.depthwise_conv2d(x, weight, bias, **geometry)
    assert_sum(y, "depthwise_conv2d", 9, x, weight, bias, **geometry)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("at", grids.some([(0, 0), (4, 6), (8, 10)], [(4, 6), (8, 10)]))
@pytest.mark.parametrize("geometry", [{"pad": 1}, {"stride": 2, "pad": 1}, {"stride": 2, "pad": 2, "dilation": 2}])
def test_a_bad_pixel_affects_only_outputs_that_use_it(name, value, at, geometry):
    x, weight = normal(9, 11, 21), normal(*weight_shape(name, (3, 3), 21))
    operation = getattr(kernels, name)
    clean = operation(x, weight, **geometry)
    x[(*at, 7)] = value
    y = operation(x, weight, **geometry)
    with np.errstate(invalid="ignore"):  # ∞ − ∞ is NaN
        expected = getattr(reference, name)(x, weight, **geometry)
    seen = ~np.isfinite(expected)
    expected = as_products_give(expected, 9 * 21) if name == "conv2d" else expected
    assert seen.any()
    assert_within(np.where(seen, y, 0), np.where(seen, expected, 0), 0.0)
    assert_same(np.where(seen, 0, y), np.where(seen, 0, clean))


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_batch_gives_the_bits_of_its_images(name):
    x, weight = normal(3, 9, 8, 21), normal(*weight_shape(name, (3, 3), 21))
    operation = getattr(kernels, name)
    y = operation(x, weight, stride=2, pad=1)
    for image, expected in zip(x, y):
        assert_same(operation(image, weight, stride=2, pad=1), expected)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize(
    ("size", "kernel", "pad", "dilation"),
    [((2, 9), (3, 1), 0, 1), ((9, 2), (1, 3), 0, 1), ((4, 9), (3, 3), 0, 2), ((1, 1), (4, 4), 1, 1)],
)
def test_a_kernel_beyond_the_padded_map_is_refused(name, size, kernel, pad, dilation):
    with pytest.raises(ValueError, match=r"^weight: ") as error:
        weight = normal(*weight_shape(name, kernel, 5))
        getattr(kernels, name)(normal(*size, 5), weight, pad=pad, dilation=dilation)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("argument", ["stride", "pad", "dilation"])
@pytest.mark.parametrize("value", [-1, (1, -1), 1.5, "2", (1, 2, 3), (), None, (1, 2.0), 0, (1, 0)])
def test_bad_geometry_is_refused(name, argument, value):
    if argument == "pad" and value in (0, (1, 0)):
        pytest.skip("pad 0 is allowed")
    with pytest.raises((TypeError, ValueError), match=rf"^{argument}: ") as error:
        getattr(kernels, name)(normal(9, 9, 5), normal(*weight_shape(name, (3, 3), 5)), **{argument: value})
    assert repr(value) in str(error.value)


@pytest.mark.parametrize("name", OPERATIONS)
def test_numpy_integers_are_numbers(name):
    x, weight = normal(9, 9, 5), normal(*weight_shape(name, (3, 3), 5))
    two = np.int64(2)
    operation = getattr(kernels, name)
    assert_same(operation(x, weight, stride=two, pad=two), operation(x, weight, stride=(2, 2), pad=(2, 2)))


def test_sums_deeper_than_a_panel_slice():
    """The sum has 25·509 products, which is not a multiple of any cache block."""
    x, weight = normal(5, 5, 509), normal(3, 5, 5, 509)
    assert_sum(kernels.conv2d(x, weight), "conv2d", math.prod(weight.shape[1:]), x, weight)
