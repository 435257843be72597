"""Matrix products in bf16 and int8 on every ISA of the host, compared with `kernels.reference`."""

import itertools
import sys

import grids
import numpy as np
import pytest
from grids import any_case
from hypothesis import given
from hypothesis import strategies as st
from isas import NARROW, every_narrow, has  # noqa: F401
from kernel_cases import NETWORK_LAYERS
from processes import run
from tolerances import (
    GELU_ERROR,
    assert_narrow_sum,
    assert_same,
    assert_within,
    normal,
    whole_numbers,
)

from mobilesam import kernels
from mobilesam.kernels import isa, reference

TINY = np.float32(2.0**-126)


def packed_linear(precision: str, x: np.ndarray, weight: np.ndarray, *arguments, **options) -> np.ndarray:
    return kernels.linear(x, kernels.pack(weight, precision=precision), *arguments, **options)


def bit_patterns(count: int) -> np.ndarray:
    """Return float32 numbers of every kind: subnormals, infinities, NaN, midpoints of two bf16 numbers, and others."""
    rng = np.random.default_rng(count)
    bits = rng.integers(0, 1 << 32, count, np.uint32)
    bits[: count // 4] = bits[: count // 4] & 0xFFFF0000 | 0x8000
    bits[count // 4 : count // 2] = bits[count // 4 : count // 2] & 0xFFFF0000 | 0x7FFF + 2 * rng.integers(0, 2)
    special = np.float32([0, -0.0, np.inf, -np.inf, np.nan, TINY, -TINY, TINY / 2, 1e-45, 3.3895314e38, 3.4028235e38])
    bits[-special.size :] = special.view(np.uint32)
    return bits.view(np.float32)


# --- packing ---


def unpacked(panels: kernels.Panels, precision: str) -> np.ndarray:
    """Return the weight (N, K), in float64, that the packed panels hold."""
    count, _, width = panels.words.shape
    assert width == 32
    terms = {"bf16": 2, "int8": 4}[precision]
    words = panels.words if precision == "bf16" else panels.words[:, :-2]
    parts = np.ascontiguousarray(words).view({"bf16": np.uint16, "int8": np.int8}[precision])
    parts = parts.reshape(count, -1, width, terms).transpose(0, 2, 1, 3).reshape(count * width, -1)
    assert not parts[:, panels.k :].any()
    assert not parts[panels.n :].any()
    parts = parts[: panels.n, : panels.k]
    if precision == "bf16":
        return (parts.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    scales, corrections = (panels.words[:, row].reshape(-1)[: panels.n] for row in (-2, -1))
    np.testing.assert_array_equal(corrections.view(np.int32), -128 * parts.sum(axis=1, dtype=np.int32))
    return parts * scales.view(np.float32).astype(np.float64)[:, None]


@pytest.mark.parametrize("shape", [(1, 1), (31, 33), (70, 129), (5, 64), (37, 3, 2, 5)])
def test_words_are_the_rounded_weight(every_narrow, shape):  # noqa: F811
    weight = normal(*shape)
    panels = kernels.pack(weight, precision=every_narrow)
    assert panels.shape == shape
    np.testing.assert_array_equal(
        unpacked(panels, every_narrow), reference.narrow(weight.reshape(shape[0], -1), every_narrow)
    )


def test_rounding_of_every_kind_of_number(every_narrow):  # noqa: F811
    """Weights are read back from the panels. The rounding of rows is checked by multiplying the rows by 1.

    For int8, a row holds three arbitrary numbers and three numbers of the first number's magnitude.
    """
    numbers = bit_patterns(30_000)
    if every_narrow == "int8":
        numbers = numbers.reshape(-1, 3)
        exponents = np.frexp(numbers[:, :1])[1]
        with np.errstate(all="ignore"):
            numbers = np.concatenate([numbers, np.ldexp(np.float32([[0.3, -0.7, 0.01]]), exponents)], axis=1)
        expected = reference.narrow(numbers, every_narrow)
        got = unpacked(kernels.pack(numbers, precision=every_narrow), every_narrow)
        np.testing.assert_array_equal(got[~np.isnan(expected)], expected[~np.isnan(expected)])
        sums = packed_linear(every_narrow, np.ones((1, 6), np.float32), numbers)
        np.testing.assert_array_equal(np.isnan(sums[0]), np.isnan(expected[:, 0]))
        ones = np.eye(6, dtype=np.float32)[:1]
        assert_narrow_sum(packed_linear(every_narrow, numbers, ones), every_narrow, numbers, ones)
        return
    with np.errstate(invalid="ignore"):  # converting a signalling NaN warns
        expected = reference.narrow(numbers[:, None], every_narrow)
    weight = kernels.pack(numbers[:, None], precision=every_narrow)
    np.testing.assert_array_equal(unpacked(weight, every_narrow), expected)
    rows = packed_linear(every_narrow, numbers[:, None], np.ones((1, 1), np.float32))
    np.testing.assert_array_equal(rows, expected)


def test_half_precision_packs_as_the_float32_of_its_values(every_narrow):  # noqa: F811
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    weight = every[np.isfinite(every)].reshape(-1, 2)
    half, single = (kernels.pack(w, precision=every_narrow) for w in (weight, weight.astype(np.float32)))
    assert (half.shape, half.isa) == (single.shape, single.isa)
    np.testing.assert_array_equal(half.words, single.words)


# --- linear ---


def test_every_edge_of_the_tiles_is_exact(every_narrow):  # noqa: F811
    """Sums of whole numbers are exact in any order, so a single missing or wrong product is detected."""
    rows = (1, 2, 8, 9, 15, 16, 17, 31, 32, 33, 47, 48, 49, 63, 64, 65, 167, 168, 169)
    columns = (1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 97)
    depths = (1, 2, 3, 31, 32, 33, 63, 64, 65, 130)
    for n, k in itertools.product(columns, depths):
        weight, bias = whole_numbers(every_narrow, n, k), whole_numbers(every_narrow, n)
        panels = kernels.pack(weight, precision=every_narrow)
        for m in rows:
            x, residual = whole_numbers(every_narrow, m, k), whole_numbers(every_narrow, m, n)
            y = kernels.linear(x, panels, bias, residual=residual)
            assert np.array_equal(y, np.asarray(x, np.float64) @ np.asarray(weight, np.float64).T + bias + residual), (
                m,
                n,
                k,
            )


@pytest.mark.parametrize(("n", "k"), grids.some(NETWORK_LAYERS, [(384, 128), (160, 640), (32, 256), (4, 256)]))
def test_network_shapes(every_narrow, n, k):  # noqa: F811
    x, weight, bias = normal(29, k), normal(n, k), normal(n)
    options = {"residual": normal(29, n), "activation": "gelu"}
    assert_narrow_sum(packed_linear(every_narrow, x, weight, bias, **options), every_narrow, x, weight, bias, **options)


@any_case(80)
@given(
    batch=st.lists(st.integers(1, 5), max_size=3),
    n=st.integers(1, 70),
    k=st.integers(1, 140),
    with_bias=st.booleans(),
    with_residual=st.booleans(),
    activation=st.sampled_from([None, "relu", "gelu"]),
    threads=st.integers(1, 4),
)
def test_any_shape(every_narrow, batch, n, k, with_bias, with_residual, activation, threads):  # noqa: F811
    x, weight, bias = normal(*batch, k), normal(n, k), normal(n) if with_bias else None
    options = {"residual": normal(*batch, n) if with_residual else None, "activation": activation}
    y = packed_linear(every_narrow, x, weight, bias, **options, threads=threads)
    assert_narrow_sum(y, every_narrow, x, weight, bias, **options)


def test_any_number_of_threads_gives_the_same_bits(every_narrow):  # noqa: F811
    x, weight, bias = normal(501, 100), kernels.pack(normal(130, 100), precision=every_narrow), normal(130)
    one, *others = (kernels.linear(x, weight, bias, activation="gelu", threads=count) for count in (1, 2, 3, 4))
    for other in others:
        assert_same(other, one)


def test_a_row_alone_gives_the_bits_it_has_among_others(every_narrow):  # noqa: F811
    x, weight, bias = normal(200, 37), kernels.pack(normal(67, 37), precision=every_narrow), normal(67)
    together = kernels.linear(x, weight, bias, activation="gelu")
    for i in (0, 7, 8, 15, 16, 31, 32, 167, 168, 199):
        assert_same(kernels.linear(x[i], weight, bias, activation="gelu"), together[i])


def test_panels_run_under_the_isa_that_packed_them(every_narrow):  # noqa: F811
    x, weight = normal(40, 37), kernels.pack(normal(67, 37), precision=every_narrow)
    expected = kernels.linear(x, weight)
    for name in isa.available():
        with isa.use(name):
            assert_same(kernels.linear(x, weight), expected)


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_every_isa_gives_the_same_sums(precision):
    """All ISAs must give the same bits.

    int8 sums are exact, and all ISAs add bias and residual in the same way. bf16 sums depend on the order of their
    terms, so the bf16 inputs are whole numbers, whose sums are exact.
    """
    names = [name for name, kind in NARROW if kind == precision and has(name, kind)]
    if len(names) < 2:
        pytest.skip(f"needs two ISAs with {precision}, this CPU has {len(names)}")
    x, weight, bias, options = normal(67, 130), normal(70, 130), normal(70), {"residual": normal(67, 70)}
    if precision == "bf16":
        x, weight = whole_numbers(precision, 67, 130), whole_numbers(precision, 70, 130)
    results = []
    for name in names:
        with isa.use(name):
            results.append(packed_linear(precision, x, weight, bias, **options, activation="gelu"))
    for other in results[1:]:
        assert_same(other, results[0])


# --- special values ---


def test_gelu_is_within_its_error(every_narrow):  # noqa: F811
    """GELU is applied to the bias, because the product is 0. So only GELU rounds."""
    bias = np.concatenate([np.linspace(-12, 12, 200_000), np.geomspace(1e-30, 12, 999), -np.geomspace(1e-30, 12, 999)])
    bias = bias.astype(np.float32)
    nothing = np.zeros((bias.size, 1), np.float32)
    y = packed_linear(every_narrow, nothing[:1], nothing, bias, activation="gelu")
    assert_within(y[0], reference.gelu(bias), GELU_ERROR)


@pytest.mark.parametrize("n", [4, 32, 37])
def test_gelu_of_infinity_and_nan(every_narrow, n):  # noqa: F811
    bias = np.resize(np.float32([np.inf, -np.inf, np.nan, -3e38]), n)
    y = packed_linear(every_narrow, np.zeros((3, 1), np.float32), np.zeros((n, 1), np.float32), bias, activation="gelu")
    assert_within(y, np.broadcast_to(reference.gelu(bias), (3, n)), GELU_ERROR)


@pytest.mark.parametrize("activation", ["relu", None])
@pytest.mark.parametrize("n", [1, 5, 16, 67])
def test_special_values_reach_the_epilogue(every_narrow, activation, n):  # noqa: F811
    x = np.float32([[np.nan], [np.inf], [-np.inf], [0.0], [-0.0], [1e-45], [-1e-45], [3e38], [-3e38], [5], [-5]])
    weight = np.ones((n, 1), np.float32)
    y = packed_linear(every_narrow, x, weight, activation=activation)
    assert_narrow_sum(y, every_narrow, x, weight, activation=activation)


def test_rows_of_zeros_give_the_bias(every_narrow):  # noqa: F811
    """Rows of zeros or subnormal numbers give the bias.

    bf16 rounds subnormal numbers to 0. In int8, the factor 127/max of a row of subnormal numbers would overflow.
    """
    x, weight, bias = normal(40, 23), normal(70, 23), normal(70)
    x[[3, 17]], x[39], weight[33], weight[34] = 0, -1e-38, 0, 1e-38
    y = packed_linear(every_narrow, x, weight, bias)
    np.testing.assert_array_equal(y[[3, 17, 39]], np.broadcast_to(bias, (3, 70)))
    np.testing.assert_array_equal(y[:, 33:35], np.broadcast_to(bias[33:35], (40, 2)))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_stay_in_their_row_and_column(every_narrow, value):  # noqa: F811
    x, weight = normal(40, 133), normal(70, 133)
    clean = packed_linear(every_narrow, x, weight)
    x[17, 5] = weight[33, 132] = value
    y = packed_linear(every_narrow, x, weight)
    assert not np.isfinite(y[17]).any()
    assert not np.isfinite(y[:, 33]).any()
    if every_narrow == "int8" or np.isnan(value):
        assert np.isnan(y[17]).all()
        assert np.isnan(y[:, 33]).all()
    clean[17], clean[:, 33] = y[17], y[:, 33]
    assert_same(y, clean)


# --- errors ---


def without(precision: str) -> list[str]:
    return [name for name in isa.available() if precision not in isa.precisions(name)]


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_a_precision_that_the_isa_lacks_is_refused(precision):
    """The ISAs x86-64-v2 and NEON support neither bf16 nor int8."""
    assert without(precision)
    for name in without(precision):
        with isa.use(name), pytest.raises(ValueError, match=r"^precision: expected 'fp32'") as error:
            kernels.pack(normal(3, 5), precision=precision)
        assert f"got {precision!r}" in str(error.value)
        assert name in str(error.value)
        assert all(repr(has_it) in str(error.value) for has_it in isa.precisions(name))


@pytest.mark.parametrize("precision", ["fp16", "BF16", ""])
def test_unknown_precisions_are_refused(precision):
    for name in isa.available():
        with isa.use(name), pytest.raises(ValueError, match=r"^precision: expected 'fp32'") as error:
            kernels.pack(normal(3, 5), precision=precision)
        assert f"got {precision!r}" in str(error.value)
    with pytest.raises(ValueError, match=f"precision .*{precision!r}"):
        reference.narrow(normal(3), precision)


@pytest.mark.parametrize("precision", [None, 8])
def test_a_precision_must_be_a_string(precision):
    with pytest.raises(ValueError, match=r"^precision: expected 'fp32'"):
        kernels.pack(normal(3, 5), precision=precision)


def test_a_table_for_every_isa_and_precision():
    places = [isa.index(name, precision) for name in isa.available() for precision in isa.precisions(name)]
    assert len(set(places)) == len(places)
    for name in isa.available():
        assert isa.precisions(name)[0] == "fp32"
        with isa.use(name):
            assert isa.precisions() == isa.precisions(name)
            for precision in isa.precisions():
                assert isa.index(None, precision) == isa.index(name, precision)
                assert kernels.pack(normal(3, 5), precision=precision).isa == isa.index(name, precision)


# --- memory outside the arrays ---

STAYS_INSIDE = """
import sys
from guarded import guarded
from kernel_cases import Case, attention_shapes, embed_shapes, mbconv_shapes, mlp_shapes, packed
from tolerances import assert_same

precision = sys.argv[1]
cases = []
for c in (1, 2, 3, 15, 16, 17, 31, 32, 33, 64, 65):
    cases += [
        Case("linear", {"x": (c, c), "weight": (c, c), "bias": (c,), "residual": (c, c)}, {"activation": "gelu"}),
        Case("conv2d", {"x": (3, 4, c), "weight": (c, 3, 3, c), "bias": (c,)}, {"pad": 1}),
        Case("conv2d", {"x": (5, 5, c), "weight": (c, 3, 2, c)}, {"dilation": 2}),
        Case("window_attention", attention_shapes(3, 4, c, 1, 2), {"window": 2}),
        Case("window_attention", attention_shapes(7, 6, c, 1, 6), {"window": 6}),
        Case("patch_embed", embed_shapes(5, c, 3, c, c)),
    ]
    if c > 15:
        cases += [
            Case("mbconv", mbconv_shapes(4, 5, c, c, c), {"residual": True}),
            Case("local_mlp", mlp_shapes(2, 3, c)),
            Case("local_mlp", mlp_shapes(2, 33, c)),
        ]
for case in cases:
    arrays = case.arrays()
    weights = packed(case, arrays, precision)
    expected = case(weights)
    for at_end in (True, False):
        print(case.operation, case.shapes, "at the end" if at_end else "at the beginning", flush=True)
        inside = {name: guarded(array, at_end=at_end) for name, array in arrays.items()}
        both = weights | {name: array for name, array in inside.items() if weights[name] is arrays[name]}
        assert_same(case(both, out=guarded(expected, at_end=at_end)), expected)
        for name in weights:
            if weights[name] is not arrays[name]:
                assert (packed(case, inside, precision)[name].words == weights[name].words).all()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs mprotect")
def test_nothing_outside_an_array_is_touched(every_narrow):  # noqa: F811
    done = run(f"import sys; sys.argv[1:] = [{every_narrow!r}]\n{STAYS_INSIDE}", MOBILESAM_ISA=isa.current())
    last = done.stdout.strip().rpartition("\n")[2]
    assert done.returncode == 0, f"{done.stderr.strip()} code {done.returncode} in {last}"
