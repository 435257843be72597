"""`linear` and `pack`: sizes near those of tiles and panels, the network's shapes, special values."""

import itertools

import grids
import numpy as np
import pytest
from grids import any_case
from hypothesis import given
from hypothesis import strategies as st
from isas import as_products_give, every_isa  # noqa: F401
from kernel_cases import NETWORK_LAYERS
from tolerances import assert_same, assert_sum, assert_within, gelu_bound, integers, normal

from mobilesam import kernels
from mobilesam.kernels import isa, reference

pytestmark = pytest.mark.usefixtures("every_isa")


def test_every_edge_of_the_tile_is_exact():
    """Sums of small integers are exact in any order, so a single missing or wrong product is detected."""
    mr, nr, vl = isa.register_tile()
    rows = {1, 2, mr - 1, mr, mr + 1, 2 * mr + 1, 167, 168, 169}
    columns = {1, 2, vl - 1, vl, vl + 1, nr - 1, nr, nr + 1, 2 * nr - 1, 3 * nr + vl + 1}
    for m, n, k in itertools.product(rows, columns, (1, 2, 37)):
        x, weight, bias, residual = integers(m, k), integers(n, k), integers(n), integers(m, n)
        y = kernels.linear(x, weight, bias, residual=residual)
        assert np.array_equal(y, reference.linear(x, weight, bias, residual=residual)), (m, n, k)


@pytest.mark.parametrize(
    ("n", "k"), grids.some(NETWORK_LAYERS, [(384, 128), (160, 640), (320, 1280), (256, 16), (4, 256)])
)
def test_network_shapes(n, k):
    x, weight, bias = normal(29, k), normal(n, k), normal(n)
    options = {"residual": normal(29, n), "activation": "gelu"}
    assert_sum(kernels.linear(x, weight, bias, **options), "linear", k, x, weight, bias, **options)


@any_case(60)
@given(
    batch=st.lists(st.integers(1, 4), max_size=3),
    n=st.integers(1, 70),
    k=st.integers(1, 70),
    with_bias=st.booleans(),
    with_residual=st.booleans(),
    activation=st.sampled_from([None, "relu"]),
    threads=st.integers(1, 4),
)
def test_any_shape_is_exact(batch, n, k, with_bias, with_residual, activation, threads):
    x, weight = integers(*batch, k), integers(n, k)
    bias = integers(n) if with_bias else None
    options = {"residual": integers(*batch, n) if with_residual else None, "activation": activation}
    y = kernels.linear(x, weight, bias, **options, threads=threads)
    assert np.array_equal(y, reference.linear(x, weight, bias, **options))


def test_a_row_alone_gives_the_bits_it_has_among_others():
    x, weight, bias = normal(200, 37), normal(67, 37), normal(67)
    together = kernels.linear(x, weight, bias, activation="gelu")
    for i in (0, 13, 14, 167, 168, 199):
        assert_same(kernels.linear(x[i], weight, bias, activation="gelu"), together[i])


@pytest.mark.parametrize("activation", ["gelu", "relu", None])
@pytest.mark.parametrize("n", [1, 5, 16, 67])
def test_special_values_reach_the_epilogue(activation, n):
    x = np.float32([[np.nan], [np.inf], [-np.inf], [0.0], [-0.0], [1e-45], [-1e-45], [3e38], [-3e38], [5], [-5]])
    y = kernels.linear(x, np.ones((n, 1), np.float32), activation=activation)
    expected = reference.linear(as_products_give(x, 1), np.ones((n, 1)), activation=activation)
    assert_within(y, expected, gelu_bound(expected) if activation == "gelu" else 0.0)


def test_not_a_number_stays_in_its_row_and_column():
    x, weight = normal(40, 23), normal(70, 23)
    clean = kernels.linear(x, weight)
    x[17, 5] = weight[33, 22] = np.nan
    y = kernels.linear(x, weight)
    assert np.isnan(y[17]).all()
    assert np.isnan(y[:, 33]).all()
    clean[17], clean[:, 33] = y[17], y[:, 33]
    assert_same(y, clean)


@pytest.mark.parametrize("name", ["tanh", "GELU", "", 1, True])
def test_unknown_activation(name):
    with pytest.raises(ValueError, match=f"^activation: .*{name!r}"):
        kernels.linear(normal(2, 3), normal(4, 3), activation=name)


@pytest.mark.parametrize("shape", [(70, 23), (37, 3, 2, 5), (1, 1), (1, 1, 1, 1)])
def test_panels_keep_the_shape(shape):
    assert kernels.pack(normal(*shape)).shape == shape


def test_packing_half_precision_is_exact():
    """Every finite float16 weight is packed as the float32 number of the same value."""
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    weight = every[np.isfinite(every)].reshape(-1, 2)
    both = np.eye(2, dtype=np.float32)
    assert np.array_equal(kernels.linear(both, kernels.pack(weight)), weight.T.astype(np.float32))


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_packing_half_precision_keeps_or_refuses_nan_and_infinity(value):
    weight = np.full((3, 2), value, np.float16)
    try:
        y = kernels.linear(np.ones((1, 2), np.float32), kernels.pack(weight))
    except ValueError as error:
        assert "weight" in str(error)
    else:
        assert_within(y, as_products_give(np.full((1, 3), value), 2), 0.0)


def test_packing_reads_strided_weights():
    weight = normal(37, 3, 3, 6)
    x = normal(5, 6, 6)
    for view in (np.asfortranarray(weight), np.repeat(weight, 2, axis=0)[::2], weight[::-1].copy()[::-1]):
        assert_same(kernels.conv2d(x, kernels.pack(view)), kernels.conv2d(x, weight))


@pytest.mark.parametrize("weight", [np.ones((2, 2)), np.ones((2, 2), np.int8), [[1.0]], None])
def test_pack_refuses_other_types(weight):
    with pytest.raises(TypeError, match=r"^weight: .*float16"):
        kernels.pack(weight)


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4), (1, 2, 3, 4, 5), (0, 3), (3, 0), (2, 0, 3, 4)])
def test_pack_refuses_other_shapes(shape):
    with pytest.raises(ValueError, match=r"^weight: ") as error:
        kernels.pack(np.ones(shape, np.float32))
    assert str(shape) in str(error.value)
