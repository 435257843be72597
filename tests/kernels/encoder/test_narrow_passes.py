"""Convolutions and fused passes in bf16 and int8, against `kernels.reference`, which rounds the same arrays."""

from dataclasses import replace

import grids
import numpy as np
import pytest
from grids import any_case
from hypothesis import given
from hypothesis import strategies as st
from isas import every_bf16, every_narrow  # noqa: F401
from kernel_cases import CASES, PACKERS, Case, attention_shapes, embed_shapes, mbconv_shapes, mlp_shapes, packed
from plans import project_image, upscale_arrays, upscaled
from tolerances import (
    assert_narrow_sum,
    assert_relative_l2,
    assert_same,
    narrow_pass_bound,
    normal,
    pass_bound,
)

from mobilesam import kernels
from mobilesam.kernels import isa, reference


def expected(case: Case, arrays: dict[str, np.ndarray], precisions: dict[str, str]) -> np.ndarray:
    """Return the reference's result. `precisions` has the precision of each weight.

    With narrow qkv weights, scores and softmax are computed in bf16 if the current ISA supports bf16.
    """
    options = dict(case.options)
    if precisions.get("qkv_weight", "fp32") != "fp32" and "bf16" in isa.precisions():
        options["attend"] = "bf16"
    weights = {name: reference.Packed(arrays[name], precision) for name, precision in precisions.items()}
    return replace(case, options=options).expected(arrays | weights)


def all_in(precision: str, case: Case) -> dict[str, str]:
    return dict.fromkeys(PACKERS[case.operation], precision)


def bound(case: Case, precision: str) -> float:
    """Error bound (`narrow_pass_bound`) of a pass in a narrow precision.

    Attention rounds six arrays: the LayerNorm's result, q, k, v, the exponentials and the heads' output. For the bound,
    the error of the exponentials counts as much as the error of three GELUs.
    """
    shapes = case.shapes
    if case.operation == "patch_embed":
        depths, gelus, roundings = [np.prod(shapes[name][1:]) for name in ("w1", "w2")], 1, 1
    elif case.operation == "mbconv":
        depths, gelus, roundings = [shapes["w1"][1], 9, shapes["w3"][1]], 3, 1
    elif case.operation == "local_mlp":
        depths, gelus, roundings = [9, shapes["x"][2], shapes["x"][2], shapes["fc2_weight"][1]], 1, 2
    else:
        channels, (heads, tokens, _) = shapes["x"][2], shapes["attention_bias"]
        depths, gelus, roundings = [channels, channels, channels // heads, tokens, tokens, channels], 3, 6
    count = int(np.prod(shapes["x"]))
    return narrow_pass_bound(precision, *depths, gelus=gelus, roundings=roundings, count=count)


def check(case: Case, precisions: dict[str, str], **options) -> None:
    arrays = case.arrays()
    weights = {name: kernels.pack(arrays[name], precision=precision) for name, precision in precisions.items()}
    coarsest = "int8" if "int8" in precisions.values() else "bf16"
    got = case(arrays | weights, **options)
    assert_relative_l2(got, expected(case, arrays, precisions), bound(case, coarsest))


# --- convolutions ---


def windows(x: np.ndarray, kernel: tuple[int, int], stride: int, pad: int, dilation: int = 1) -> np.ndarray:
    """Return the inputs of each output pixel of a convolution, (OH, OW, KH·KW·C)."""
    x = np.pad(x, [(pad, pad), (pad, pad), (0, 0)])
    (kh, kw), d = kernel, dilation
    oh, ow = ((size - (k - 1) * d - 1) // stride + 1 for size, k in zip(x.shape, kernel))
    taps = [
        x[i * d : i * d + stride * (oh - 1) + 1 : stride, j * d : j * d + stride * (ow - 1) + 1 : stride]
        for i in range(kh)
        for j in range(kw)
    ]
    return np.concatenate(taps, axis=-1)


@pytest.mark.parametrize("channels", grids.some([1, 3, 7, 32, 33, 64], [7, 33]))
@pytest.mark.parametrize(
    ("kernel", "stride", "pad", "dilation"),
    [((3, 3), 1, 1, 1), ((3, 3), 2, 1, 1), ((3, 2), 1, 0, 1), ((3, 3), 1, 2, 2), ((1, 1), 1, 0, 1), ((1, 1), 2, 0, 1)],
)
def test_conv2d(every_narrow, channels, kernel, stride, pad, dilation):  # noqa: F811
    """A convolution reads the inputs of an output pixel as several contiguous segments, which may end within a tile.

    With dilation, there is one segment for each tap of the convolution kernel.
    """
    x, weight, bias = normal(9, 11, channels), normal(35, *kernel, channels), normal(35)
    packed_weight = kernels.pack(weight, precision=every_narrow)
    y = kernels.conv2d(x, packed_weight, bias, stride=stride, pad=pad, dilation=dilation, activation="gelu")
    rows = windows(x, kernel, stride, pad, dilation)
    assert_narrow_sum(y, every_narrow, rows, weight.reshape(35, -1), bias, activation="gelu")


def test_conv2d_of_the_reference_rounds_the_same(every_narrow):  # noqa: F811
    """Like `test_conv2d`, but compares with `reference.conv2d`, and has a batch and a residual."""
    case = CASES["conv2d"]
    arrays = case.arrays()
    y = case(packed(case, arrays, every_narrow))
    assert_relative_l2(y, expected(case, arrays, all_in(every_narrow, case)), pass_bound(42))


def test_a_bad_pixel_stays_in_its_windows(every_narrow):  # noqa: F811
    """If one input pixel is NaN, exactly those output pixels are NaN whose 3×3 windows contain the input pixel."""
    x, weight = normal(12, 9, 7), kernels.pack(normal(35, 3, 3, 7), precision=every_narrow)
    clean = kernels.conv2d(x, weight, pad=1)
    x[5, 4, 3] = np.nan
    y = kernels.conv2d(x, weight, pad=1)
    assert np.isnan(y[4:7, 3:6]).all()
    y[4:7, 3:6] = clean[4:7, 3:6]
    assert_same(y, clean)


# --- passes ---


@pytest.mark.parametrize(
    "case",
    [
        CASES["patch_embed"],
        Case("patch_embed", embed_shapes(37, 130, 3, 32, 64)),
        CASES["mbconv"],
        Case("mbconv", mbconv_shapes(19, 75, 64, 256, 64), {"residual": True}),
        Case("mbconv", mbconv_shapes(18, 23, 64, 128, 128), {"stride": 2}),
        CASES["local_mlp"],
        Case("local_mlp", mlp_shapes(9, 88, 64)),
        Case("local_mlp", mlp_shapes(7, 17, 128)),
        CASES["window_attention"],
        Case("window_attention", attention_shapes(14, 21, 128, 4, 7), {"window": 7}),
        Case("window_attention", attention_shapes(15, 17, 160, 5, 14), {"window": 14}),
        Case("window_attention", attention_shapes(9, 10, 80, 2, 7), {"window": 7}),
    ],
    ids=lambda case: f"{case.operation}{case.shapes['x']}",
)
def test_passes(every_narrow, case):  # noqa: F811
    check(case, all_in(every_narrow, case))


MIXED = {
    "patch_embed": ("w1", "w2"),
    "mbconv": ("w1", "w3"),
    "local_mlp": ("fc1_weight", "fc2_weight"),
    "window_attention": ("qkv_weight", "proj_weight"),
}


@pytest.mark.parametrize("operation", MIXED)
def test_precisions_mix_in_a_pass(every_narrow, operation):  # noqa: F811
    """The two weights of the pass have two different precisions, of which one is `every_narrow`."""
    first, second = MIXED[operation]
    for other in isa.precisions():
        if other != every_narrow:
            check(CASES[operation], {first: other, second: every_narrow})
            check(CASES[operation], {first: every_narrow, second: other})


@any_case(30)
@given(
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    heads=st.integers(1, 5),
    head_dim=st.integers(4, 37),
    window=st.integers(1, 8),
    threads=st.integers(1, 4),
)
def test_any_windows(every_narrow, height, width, heads, head_dim, window, threads):  # noqa: F811
    shapes = attention_shapes(height, width, heads * head_dim, heads, window)
    case = Case("window_attention", shapes, {"window": window})
    check(case, all_in(every_narrow, case), threads=threads)


@pytest.mark.parametrize("width", grids.some([1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 33], [1, 7, 16, 17]))
@pytest.mark.parametrize("channels", grids.some([16, 24, 64], [24]))
def test_local_mlp_of_few_columns(every_narrow, width, channels):  # noqa: F811
    """The hidden layer is stored in tiles of 16 rows. Here some tiles are partly empty."""
    case = Case("local_mlp", mlp_shapes(3, width, channels))
    check(case, all_in(every_narrow, case))


@pytest.mark.parametrize("operation", MIXED)
def test_any_number_of_threads_gives_the_same_bits(every_narrow, operation):  # noqa: F811
    case = CASES[operation]
    weights = packed(case, case.arrays(), every_narrow)
    one, *others = (case(weights, threads=threads) for threads in (1, 2, 3, 4))
    for other in others:
        assert_same(other, one)


def test_window_attention_in_place(every_narrow):  # noqa: F811
    case = CASES["window_attention"]
    weights = packed(case, case.arrays(), every_narrow)
    whole = case(weights)
    assert case(weights, out=weights["x"]) is weights["x"]
    assert_same(weights["x"], whole)


def attention(precision: str, height: int = 11, width: int = 9, **changed: np.ndarray) -> np.ndarray:
    """Run `window_attention` with two heads and 4×4 windows. `changed` replaces arguments."""
    case = Case("window_attention", attention_shapes(height, width, 24, 2, 4), {"window": 4})
    return case(packed(case, case.arrays() | changed, precision))


def test_a_bad_token_stays_in_its_window(every_narrow):  # noqa: F811
    x = Case("window_attention", attention_shapes(11, 9, 24, 2, 4)).arrays()["x"]
    clean = attention(every_narrow)
    x[5, 6, 3] = np.nan  # this pixel is in the window of rows 4 to 7 and columns 4 to 7
    y = attention(every_narrow, x=x)
    assert np.isnan(y[4:8, 4:8]).all()
    y[4:8, 4:8] = clean[4:8, 4:8]
    assert_same(y, clean)


def test_an_undefined_score_gives_nan(every_narrow):  # noqa: F811
    """The attention bias makes one softmax undefined. The output must be NaN although all values v are finite."""
    for value, row in ((np.nan, 3), (np.inf, 3), (-np.inf, slice(None))):
        bias = normal(2, 16, 16)
        bias[:, 5, row] = value  # query 5 of a 4×4 window is the token in row 1, column 1
        y = attention(every_narrow, 8, 8, attention_bias=bias)
        bad = np.zeros((8, 8), bool)
        bad[1::4, 1::4] = True
        np.testing.assert_array_equal(np.isnan(y), np.broadcast_to(bad[..., None], y.shape))


def test_masked_keys_weigh_nothing(every_narrow):  # noqa: F811
    """A masked token does not change the result, because the token's softmax weight is at most 2⁻¹²⁶."""
    arrays = Case("window_attention", attention_shapes(4, 4, 24, 2, 4)).arrays()
    bias = arrays["attention_bias"]
    bias[:, :, 3] = -np.inf
    x = arrays["x"].copy()
    one = attention(every_narrow, 4, 4, attention_bias=bias, x=x)
    x[0, 3] += normal(24)
    other = attention(every_narrow, 4, 4, attention_bias=bias, x=x)
    other[0, 3] = one[0, 3]
    assert_same(other, one)


def test_sharp_scores(every_narrow):  # noqa: F811
    """Attention scores are near 300, so exp overflows unless the maximum is subtracted.

    One key has nearly all the softmax weight.
    """
    case = Case("window_attention", attention_shapes(9, 9, 24, 2, 4), {"window": 4})
    arrays = case.arrays()
    arrays["qkv_weight"] *= np.float32(10)
    y = case(packed(case, arrays, every_narrow))
    # Scores, and so their absolute errors, are about 300 times larger than in the other tests.
    # The relative error of a softmax weight is the absolute error of its score.
    assert_relative_l2(y, expected(case, arrays, all_in(every_narrow, case)), 300 * bound(case, every_narrow))


@pytest.mark.parametrize("operation", MIXED)
def test_weights_packed_for_another_isa_are_refused(every_narrow, operation):  # noqa: F811
    """Pairs of amx, zen4 and avx512 are left out, because these ISAs accept each other's float32 weights."""
    case = CASES[operation]
    arrays = case.arrays()
    _, second = MIXED[operation]
    alike = {"amx", "zen4", "avx512"}
    names = alike if isa.current() in alike else {isa.current()}
    weights = packed(case, arrays, every_narrow)
    for name in set(isa.available()) - names:
        with isa.use(name):
            foreign = kernels.pack(arrays[second])
        with pytest.raises(ValueError, match=f"^{second}: packed for another ISA"):
            case(weights | {second: foreign})


# --- the mask decoder, in bf16 only ---


@pytest.mark.parametrize("shape", [(701, 64, 37), (4096, 256, 1153)], ids=str)
def test_projected_image(every_bf16, shape):  # noqa: F811
    n, channels, count = shape
    x, shift, scale = normal(n, channels), normal(channels), normal(1, channels)[0]
    rows = normal(count, channels) / np.float32(channels**0.5)
    got = project_image(x, shift, scale, rows, precision="bf16")
    exact = reference.project(x, shift, scale, rows, precision="bf16")
    maps = got.data.transpose(1, 0, 2).reshape(count + 2, -1)
    assert_relative_l2(maps[:count, :n], exact[:count], pass_bound(channels))
    assert_relative_l2(maps[count:, :n], exact[count:], pass_bound(channels, channels))
    for threads in (1, 2, 3):
        assert_same(project_image(x, shift, scale, rows, precision="bf16", threads=threads).data, got.data)


@pytest.mark.parametrize(
    "shape", [(9, 11, 19, 16, 3), (9, 11, 19, 13, 3), (5, 64, 64, 32, 4), (3, 1, 8, 8, 1)], ids=str
)
def test_upscaled_masks(every_bf16, shape):  # noqa: F811
    height, width, c1, c2, _ = shape
    arrays = upscale_arrays(*shape)
    got, exact = upscaled(arrays, "bf16"), reference.upscale_masks(**arrays, precision="bf16")
    within = narrow_pass_bound("bf16", c1, c1, c2, gelus=2, roundings=1, count=height * width * 4 * c1)
    assert_relative_l2(got, exact, within)
