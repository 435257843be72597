"""What the mask decoder runs on: packed keys and values, attention folded onto the tokens, upscaled masks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from isas import every_isa  # noqa: F401
from kernel_cases import CASES, Case
from tolerances import assert_relative_l2, assert_same, assert_sum, normal, pass_bound

from mobilesam import kernels
from mobilesam.kernels import isa, reference

pytestmark = pytest.mark.usefixtures("every_isa")


def test_packed_keys_and_values_give_the_same_bits():
    q, k, v = normal(90, 42), normal(53, 42), normal(1, 53, 42)[0]
    expected = kernels.cross_attention(q, k, v, heads=3)
    keys_values = kernels.pack_keys_values(k, v, heads=3)
    k[...], v[...] = np.nan, np.nan
    for name in isa.available():
        with isa.use(name):
            assert_same(kernels.cross_attention(q, keys_values), expected)


def test_packed_keys_and_values_fit_or_are_refused():
    keys_values = kernels.pack_keys_values(normal(53, 42), normal(53, 42), heads=3)
    for q, more in (
        (normal(9, 43), {}),
        (normal(9, 42), {"heads": 2}),
        (normal(9, 42), {"v": normal(53, 42)}),
    ):
        with pytest.raises((TypeError, ValueError)) as error:
            kernels.cross_attention(q, keys_values, **more)
        assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match=r"^v: "):
        kernels.pack_keys_values(normal(53, 42), normal(52, 42), heads=3)
    with pytest.raises(ValueError, match=r"^heads: "):
        kernels.pack_keys_values(normal(53, 42), normal(53, 42), heads=4)


def attend_case(tokens: int, queries: int, channels: int) -> Case:
    return Case("attend_image", {"x": (tokens, channels), "pe": (tokens, channels), "queries": (queries, channels)})


def update_case(tokens: int, prompts: int, channels: int, *, source: int | None = None, queries: int = 0) -> Case:
    shapes = {
        "x": (tokens, channels),
        "pe": (tokens, channels),
        "keys": (8 * prompts, source or channels),
        "key_bias": (8 * prompts,),
        "values": (8 * prompts, channels),
        "bias": (channels,),
        "norm_weight": (channels,),
        "norm_bias": (channels,),
    }
    if source:
        shapes["source"] = (tokens, source)
    if queries:
        shapes["queries"] = (queries, channels)
    return Case("update_image", shapes)


def check_attend(case: Case, **options) -> None:
    """Scores, softmax over the image, mix."""
    arrays = case.arrays()
    tokens, channels = case.shapes["x"]
    assert_relative_l2(case(arrays, **options), case.expected(arrays), pass_bound(channels, tokens, tokens))


def check_update(case: Case, **options) -> None:
    """Scores, softmax over the tokens, mix, LayerNorm; then what `check_attend` says."""
    arrays = case.arrays()
    (tokens, channels), (rows, depth) = case.shapes["x"], case.shapes["keys"]
    y, mixed = kernels.update_image(**arrays, **options)
    expected_y, expected_mixed = reference.update_image(**arrays)
    bound = pass_bound(depth, rows // 8, rows, channels)
    assert_relative_l2(y, expected_y, bound)
    if "queries" in arrays:
        assert_relative_l2(mixed, expected_mixed, 2 * bound + pass_bound(channels, tokens, tokens))
    else:
        assert mixed is None


@pytest.mark.parametrize("prompts", [6, 7, 16])
def test_network_attention(prompts):
    check_attend(attend_case(4096, 8 * prompts, 256))
    check_update(update_case(4096, prompts, 256, queries=8 * prompts))
    check_update(update_case(1024, prompts, 256, source=128, queries=8 * prompts))


@settings(deadline=None, derandomize=True, max_examples=40)
@given(
    tokens=st.integers(1, 600),
    prompts=st.integers(1, 9),
    channels=st.sampled_from([64, 128, 192]),
    source=st.one_of(st.none(), st.integers(1, 70)),
    queries=st.integers(0, 70),
    threads=st.integers(1, 4),
)
def test_any_attention(tokens, prompts, channels, source, queries, threads):
    check_update(update_case(tokens, prompts, channels, source=source, queries=queries), threads=threads)
    if queries:
        check_attend(attend_case(tokens, queries, channels), threads=threads)


def test_attend_image_of_sharp_scores():
    """Scores near ±1000 over several chunks of the image, where each chunk has a maximum of its own."""
    case = attend_case(1000, 24, 64)
    arrays = case.arrays()
    arrays["queries"] *= np.float32(300)
    y, expected = case(arrays), case.expected(arrays)
    assert_relative_l2(y, expected, 1000 * pass_bound(64))


def test_fold_heads():
    for tokens, width, channels in ((1, 8, 64), (7, 128, 256), (13, 40, 192)):
        t, weight = normal(tokens, width), normal(width, channels)
        assert_sum_fold(kernels.fold_heads(t, weight), t, weight)
        assert_sum_fold(kernels.fold_heads(np.asfortranarray(t), weight[:, ::-1][:, ::-1]), t, weight)


def assert_sum_fold(got: np.ndarray, tokens: np.ndarray, weight: np.ndarray) -> None:
    """Each head's rows of y are `linear` of its part of the tokens."""
    parts = zip(np.split(tokens, 8, axis=1), np.split(weight, 8))
    for h, (part, rows) in enumerate(parts):
        assert_sum(np.ascontiguousarray(got[h::8]), "linear", part.shape[1], part, rows.T)


@pytest.mark.parametrize(
    ("name", "shapes"),
    [
        ("weight", [(3, 16), (17, 64)]),
        ("weight", [(3, 16), (16, 63)]),
        ("tokens", [(3, 17), (17, 64)]),
        ("tokens", [(16,), (16, 64)]),
    ],
)
def test_fold_heads_refuses(name, shapes):
    with pytest.raises(ValueError, match=r"^(tokens|weight): ") as error:
        kernels.fold_heads(*(normal(*shape) for shape in shapes))
    assert any(str(number) in str(error.value) for number in (17, 63, 16)), name


@pytest.mark.parametrize("operation", ["attend_image", "update_image"])
def test_channels_come_in_blocks_of_64(operation):
    case = attend_case(9, 8, 96) if operation == "attend_image" else update_case(9, 1, 96)
    with pytest.raises(ValueError, match=r"^x: .*64.*96"):
        case(case.arrays())


def test_keys_come_eight_to_a_token():
    case = CASES["update_image"]
    arrays = case.arrays()
    arrays |= {
        "keys": arrays["keys"][:-1],
        "key_bias": arrays["key_bias"][:-1],
        "values": arrays["values"][:-1],
    }
    with pytest.raises(ValueError, match=r"^keys: .*23"):
        case(arrays)


def upscale_case(height: int, width: int, channels: int, c1: int, c2: int, masks: int) -> Case:
    shapes = {
        "x": (height, width, channels),
        "w1": (4 * c1, channels),
        "b1": (c1,),
        "norm_weight": (c1,),
        "norm_bias": (c1,),
        "w2": (4 * c2, c1),
        "b2": (c2,),
        "hyper": (masks, c2),
    }
    return Case("upscale_masks", shapes)


def check_upscale(case: Case, **options) -> None:
    arrays = case.arrays()
    channels, c1, c2 = case.shapes["x"][2], case.shapes["b1"][0], case.shapes["b2"][0]
    bound = pass_bound(channels, c1, c1, c2, gelus=2)
    assert_relative_l2(case(arrays, **options), case.expected(arrays), bound)


@pytest.mark.parametrize("masks", [1, 3, 4])
def test_network_upscaling(masks):
    check_upscale(upscale_case(5, 64, 256, 64, 32, masks))


@settings(deadline=None, derandomize=True, max_examples=40)
@given(
    size=st.tuples(st.integers(1, 4), st.integers(1, 70)),
    channels=st.integers(1, 40),
    c1=st.integers(2, 40),
    c2=st.integers(8, 40),
    masks=st.integers(1, 8),
    threads=st.integers(1, 4),
)
def test_any_upscaling(size, channels, c1, c2, masks, threads):
    check_upscale(upscale_case(*size, channels, c1, c2, masks), threads=threads)


def test_more_masks_than_a_panel_are_right_or_refused():
    case = upscale_case(3, 4, 21, 19, 13, isa.panel_width() + 1)
    arrays = case.arrays()
    try:
        y = case(arrays)
    except ValueError as error:
        assert str(error).startswith("hyper: ")
    else:
        assert_relative_l2(y, case.expected(arrays), pass_bound(21, 19, 19, 13, gelus=2))


@pytest.mark.parametrize("name", ["w1", "w2"])
def test_upscaling_weights_come_in_fours(name):
    case = CASES["upscale_masks"]
    arrays = case.arrays()
    with pytest.raises(ValueError) as error:
        case(arrays | {name: arrays[name][:-1]})
    assert name in str(error.value)
    assert str(len(arrays[name]) - 1) in str(error.value)
