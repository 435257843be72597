"""The encoder's fused kernels (passes) against `kernels.reference`, with `pass_bound` on the norm of the error."""

from dataclasses import replace

import numpy as np
import pytest
from grids import any_case
from hypothesis import given
from hypothesis import strategies as st
from isas import every_isa  # noqa: F401
from kernel_cases import CASES, Case, attention_shapes, embed_shapes, mbconv_shapes, mlp_shapes
from tolerances import assert_relative_l2, assert_same, normal, pass_bound

from mobilesam import kernels
from mobilesam.kernels import isa, reference

pytestmark = pytest.mark.usefixtures("every_isa")


def attention_case(height: int, width: int, channels: int, heads: int, window: int) -> Case:
    shapes = attention_shapes(height, width, channels, heads, window)
    return Case("window_attention", shapes, {"window": window})


def check(case: Case, bound: float, **options) -> None:
    arrays = case.arrays()
    assert_relative_l2(case(arrays, **options), case.expected(arrays), bound)


def attention_bound(channels: int, heads: int, window: int) -> float:
    """Error bound of window attention, from the sums in LayerNorm, qkv, scores, softmax, weighted mean, projection."""
    return pass_bound(channels, channels, channels // heads, window**2, window**2, channels)


@pytest.mark.parametrize(
    ("channels", "heads", "window"),
    [(128, 4, 7), (160, 5, 14), (320, 10, 7)],
    ids=["stage1", "stage2", "stage3"],
)
@pytest.mark.parametrize("windows", [(1, 2), (1.3, 1.1)], ids=["whole", "ragged"])
def test_network_attention(channels, heads, window, windows):
    height, width = (int(window * count) for count in windows)
    check(attention_case(height, width, channels, heads, window), attention_bound(channels, heads, window))


@any_case(50)
@given(
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    heads=st.integers(1, 5),
    head_dim=st.integers(1, 37),
    window=st.integers(1, 8),
    threads=st.integers(1, 4),
)
def test_any_windows(height, width, heads, head_dim, window, threads):
    channels = heads * head_dim
    case = attention_case(height, width, channels, heads, window)
    check(case, attention_bound(channels, heads, window), threads=threads)


def test_a_window_larger_than_the_map_sees_its_padding():
    """If the window is larger than the image, the window's padding tokens are also keys and change the result."""
    case = attention_case(3, 2, 24, 2, 9)
    arrays = case.arrays()
    y = case(arrays)
    assert_relative_l2(y, case.expected(arrays), attention_bound(24, 2, 9))
    small = attention_case(3, 2, 24, 2, 3)
    other = small.expected(arrays | {"attention_bias": arrays["attention_bias"][:, :9, :9]})
    assert np.linalg.norm(y - other) > 0.01 * np.linalg.norm(other)


def test_window_attention_masks_with_minus_infinity():
    case = attention_case(10, 9, 24, 2, 4)
    arrays = case.arrays()
    masked = np.tril(arrays["attention_bias"]) + np.triu(np.full((16, 16), -np.inf, np.float32), 1)
    arrays["attention_bias"] = masked.astype(np.float32)
    assert_relative_l2(case(arrays), case.expected(arrays), attention_bound(24, 2, 4))


def test_window_attention_of_sharp_scores():
    """Attention scores are near 300, so exp overflows unless the maximum is subtracted. Errors grow with the scores."""
    case = attention_case(9, 9, 24, 2, 4)
    arrays = case.arrays()
    arrays["qkv_weight"] *= np.float32(10)
    assert_relative_l2(case(arrays), case.expected(arrays), 300 * attention_bound(24, 2, 4))


def test_a_bad_token_stays_in_its_window():
    case = attention_case(11, 9, 24, 2, 4)
    arrays = case.arrays()
    clean = case(arrays)
    arrays["x"][5, 6, 3] = np.nan  # this pixel is in the window of rows 4 to 7 and columns 4 to 7
    y = case(arrays)
    assert np.isnan(y[4:8, 4:8]).all()
    y[4:8, 4:8] = clean[4:8, 4:8]
    assert_same(y, clean)


def test_attention_bias_packed_beforehand_gives_the_same_bits():
    case = CASES["window_attention"]
    arrays = case.arrays()
    bias = arrays["attention_bias"]
    heads, n, _ = bias.shape
    index = np.random.default_rng(0).permutation(n * n).reshape(n, n)
    table = np.empty((heads, n * n), np.float32)
    table[:, index] = bias
    packed = kernels.pack_attention_bias(table, index)
    assert_same(packed[:, :, :n], bias)
    assert packed.shape[-1] % isa.panel_width() == 0
    assert np.isneginf(packed[:, :, n:]).all()
    assert_same(case(arrays | {"attention_bias": packed}), case(arrays))


@pytest.mark.parametrize(
    ("index", "problem"),
    [
        ([[0, 4], [1, 2]], "0 to 3, got 0 to 4"),
        ([[0, -1], [1, 2]], "0 to 3, got -1 to 2"),
        ([[0, 1, 2]], r"\(N, N\), got \(1, 3\)"),
        ([0, 1], r"\(N, N\), got \(2,\)"),
        (np.empty((0, 0), int), r"\(N, N\), got \(0, 0\)"),
        ([[0.5, 1], [2, 3]], "integers, got float64"),
    ],
)
def test_a_wrong_attention_bias_index_is_refused(index, problem):
    with pytest.raises((TypeError, ValueError), match=f"^index: expected .*{problem}$"):
        kernels.pack_attention_bias(normal(2, 4), np.array(index))


def test_window_attention_in_place():
    case = CASES["window_attention"]
    arrays = case.arrays()
    expected = case(arrays)
    assert case(arrays, out=arrays["x"]) is arrays["x"]
    assert_same(arrays["x"], expected)


def test_heads_must_divide_the_channels():
    case = attention_case(4, 4, 25, 3, 4)
    with pytest.raises(ValueError, match=r"^attention_bias: .*25.*3"):
        case(case.arrays())


@pytest.mark.parametrize("value", [0, -1, 1.5, "7", None, (3, 7)])
def test_bad_windows_are_refused(value):
    case = replace(CASES["window_attention"], options={"window": value})
    with pytest.raises((TypeError, ValueError), match=r"^window: ") as error:
        case(case.arrays())
    assert repr(value) in str(error.value)


def test_network_patch_embed():
    check(Case("patch_embed", embed_shapes(37, 150, 3, 32, 64)), pass_bound(27, 9 * 32, gelus=1))


@any_case(50)
@given(
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    channels=st.integers(1, 5),
    c1=st.integers(1, 40),
    c2=st.integers(1, 40),
    threads=st.integers(1, 4),
)
def test_any_patch_embed(size, channels, c1, c2, threads):
    case = Case("patch_embed", embed_shapes(*size, channels, c1, c2))
    check(case, pass_bound(9 * channels, 9 * c1, gelus=1), threads=threads)


STAGES = {  # layer -> height and width (smaller than in the network), C, hidden channels, OC, stride, residual
    "stage0": (9, 40, 64, 256, 64, 1, True),
    "merge0": (9, 40, 64, 128, 128, 2, False),
    "merge1": (9, 21, 128, 160, 160, 2, False),
    "merge2": (9, 20, 160, 320, 320, 1, False),
}


def mbconv_case(
    height: int, width: int, channels: int, hidden: int, out_channels: int, stride: int, residual: bool
) -> Case:
    shapes = mbconv_shapes(height, width, channels, hidden, out_channels)
    return Case("mbconv", shapes, {"stride": stride, "residual": residual})


@pytest.mark.parametrize("stage", STAGES.values(), ids=STAGES)
def test_network_mbconv(stage):
    _, _, channels, hidden, *_, residual = stage
    check(mbconv_case(*stage), pass_bound(channels, 9, hidden, gelus=2 + residual))


@any_case(50)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    channels=st.integers(1, 20),
    hidden=st.integers(16, 40),
    out_channels=st.integers(1, 40),
    stride=st.integers(1, 2),
    residual=st.booleans(),
    threads=st.integers(1, 4),
)
def test_any_mbconv(height, width, channels, hidden, out_channels, stride, residual, threads):
    if residual:
        stride, out_channels = 1, channels
    case = mbconv_case(height, width, channels, hidden, out_channels, stride, residual)
    check(case, pass_bound(channels, 9, hidden, gelus=2 + residual), threads=threads)


@pytest.mark.parametrize(("stride", "out_channels"), [(2, 21), (1, 20)])
def test_mbconv_with_a_residual_keeps_the_shape(stride, out_channels):
    case = mbconv_case(9, 9, 21, 43, out_channels, stride, True)
    with pytest.raises(ValueError) as error:
        case(case.arrays())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("stride", [0, -1, 3, 1.5, (1, 2), None])
def test_mbconv_strides(stride):
    case = mbconv_case(9, 9, 21, 43, 21, stride, False)
    with pytest.raises((TypeError, ValueError), match=r"^stride: "):
        case(case.arrays())


@pytest.mark.parametrize("channels", [128, 160, 320])
def test_network_local_mlp(channels):
    check(
        Case("local_mlp", mlp_shapes(3, 33, channels)),
        pass_bound(9, channels, channels, 4 * channels, gelus=1),
    )


@any_case(50)
@given(
    height=st.integers(1, 9),
    width=st.integers(1, 100),
    channels=st.integers(16, 40),
    threads=st.integers(1, 4),
)
def test_any_local_mlp(height, width, channels, threads):
    case = Case("local_mlp", mlp_shapes(height, width, channels))
    check(case, pass_bound(9, channels, channels, 4 * channels, gelus=1), threads=threads)


def test_local_mlp_takes_any_hidden_width():
    shapes = mlp_shapes(3, 5, 21) | {"fc1_weight": (33, 21), "fc1_bias": (33,), "fc2_weight": (21, 33)}
    check(Case("local_mlp", shapes), pass_bound(9, 21, 21, 33, gelus=1))


@pytest.mark.parametrize("operation", ["mbconv", "local_mlp"])
def test_fewer_channels_than_a_vector_are_right_or_refused(operation):
    for channels in range(1, 16):
        mbconv = Case("mbconv", mbconv_shapes(5, 6, 3, channels, 3))
        case = mbconv if operation == "mbconv" else Case(operation, mlp_shapes(5, 6, channels))
        arrays = case.arrays()
        try:
            y = case(arrays)
        except ValueError as error:
            assert str(channels) in str(error)
        else:
            assert_relative_l2(y, case.expected(arrays), pass_bound(3, 9, channels, 4 * channels, channels, gelus=2))


@pytest.mark.parametrize("operation", ["mbconv", "local_mlp"])
@pytest.mark.parametrize("at", [(0, 0), (4, 50), (8, 96)])
def test_a_bad_pixel_spoils_its_neighbours_only(operation, at):
    shapes = mbconv_shapes(9, 97, 21, 43, 21) if operation == "mbconv" else mlp_shapes(9, 97, 21)
    case = Case(operation, shapes)
    arrays = case.arrays()
    clean = case(arrays)
    arrays["x"][at] = np.nan
    y = case(arrays)
    near = tuple(slice(max(0, i - 1), i + 2) for i in at)
    assert np.isnan(y[near]).all()
    y[near] = clean[near]
    assert_same(y, clean)


@pytest.mark.parametrize("operation", ["layer_norm", "window_attention", "local_mlp"])
def test_eps_matters(operation):
    """With an eps as large as the variance, a kernel that ignores the argument eps has a different result."""
    case = CASES[operation]
    arrays = case.arrays()
    expected = getattr(reference, operation)(**arrays, **case.options, eps=1.0)
    assert_relative_l2(case(arrays, eps=1.0), expected, 1e-5)
    assert np.linalg.norm(expected - case.expected(arrays)) > 0.01 * np.linalg.norm(expected)
