"""What the mask decoder runs on: the image's updates in low rank, upscaled masks."""

import dataclasses
from functools import partial

import numpy as np
import pytest
from grids import any_case
from hypothesis import given
from hypothesis import strategies as st
from isas import every_isa  # noqa: F401
from kernel_cases import CASES, Case, as_maps
from scenes import CHANNELS, INNER, LAST, SCALE, basis_of, rows_of, scale_of, scene, update_one_mixed, updates
from tolerances import assert_relative_l2, assert_same, integers, normal, pass_bound

from mobilesam import kernels
from mobilesam.kernels import reference

pytestmark = pytest.mark.usefixtures("every_isa")

# Of updates: a basis of the tokens, and of the channels that they mix.
both_forms = pytest.mark.parametrize("update_image", [kernels.update_image, update_one_mixed])


def check_updates(n: int, tokens: int, asking: int, update_image, *, sharper: float = 1, **options) -> None:
    """Maps, scores, softmax over the tokens, a quadratic form, scores again, softmax over the image, sums.

    Terms of a squared deviation err by their own size, which `condition` compares with the sum's, and exponentials by
    their scores', which are `sharper` times of order 1.
    """
    case = scene(n, tokens, asking, sharper)
    maps = case.maps(**options)
    image, attended = case.update(maps, update_image, **options)
    depths = (CHANNELS, INNER // 8, 16 * tokens + 1, CHANNELS)
    for i, (got, expected) in enumerate(zip(attended, case.attended)):
        bound = (i + 1) * sharper * case.condition * pass_bound(*depths, *depths, n, n)
        assert_relative_l2(got, expected, bound)
    c = case.constants
    basis = basis_of(image).transpose(1, 0, 2).reshape(image.rank, -1)[:, :n]
    own = maps[0].data[:, c.last_at : c.last_at + LAST].transpose(0, 2, 1).reshape(-1, LAST)[:n]
    scale = scale_of(image).reshape(-1)[:n, None]
    last = (own + basis.T @ rows_of(image, case).rows.T) * scale + c.last_shift
    assert_relative_l2(last, case.last, 2 * case.condition * pass_bound(*depths, *depths))


@both_forms
@pytest.mark.parametrize(
    "sizes",
    [
        (4096, 7, 4),
        (1, 1, 1),
        (255, 6, 2),
        (256, 2, 16),
        (257, 16, 16),
        (300, 15, 1),
        (600, 4, 3),
        (600, 5, 3),
        (4096, 26, 4),
    ],
    ids=str,
)
def test_updates_in_low_rank(sizes, update_image):
    check_updates(*sizes, update_image)


@both_forms
@any_case(15)
@given(n=st.integers(1, 600), tokens=st.integers(1, 16), asking=st.integers(1, 16), threads=st.integers(1, 4))
def test_any_updates_in_low_rank(update_image, n, tokens, asking, threads):
    check_updates(n, tokens, asking, update_image, threads=threads)


@any_case(15)
@given(n=st.integers(1, 600), asking=st.integers(1, 40), threads=st.integers(1, 4))
def test_attention_to_the_image_before_it_is_updated(n, asking, threads):
    case = scene(n, asking, 1)
    maps, _ = case.maps(threads=threads)
    c, queries = case.constants, case.tokens[0][2]
    got = kernels.attend_image(maps, c.before_at, queries[None] * SCALE, c.before_bias, threads=threads)
    assert_relative_l2(got[0], case.looked, pass_bound(CHANNELS, CHANNELS, INNER // 8, CHANNELS, n, n))
    other = np.stack([normal(asking, INNER), queries * SCALE])
    both = kernels.attend_image(maps, c.before_at, other, c.before_bias)
    assert_same(both[1], got[0])


def test_attention_to_the_image_refuses_what_does_not_fit():
    case = scene(9, 2, 3)
    (maps, _), c = case.maps(), case.constants
    with pytest.raises(ValueError, match=r"^queries: "):
        kernels.attend_image(maps, c.before_at, normal(1, 2, INNER + 1), c.before_bias)
    last = maps.data.shape[1] - INNER
    with pytest.raises(ValueError, match=rf"^at: .*got \(0, {last + 1}\)"):
        kernels.attend_image(maps, (0, last + 1), normal(1, 2, INNER), c.before_bias)
    for at in ((0,), (0.5, INNER), (0, 1, 2)):
        with pytest.raises(ValueError, match=r"^at: "):
            kernels.attend_image(maps, at, normal(1, 2, INNER), c.before_bias)
    with pytest.raises(TypeError, match=r"^maps: expected ImageMaps, got ndarray"):
        kernels.attend_image(maps.data, c.before_at, normal(1, 2, INNER), c.before_bias)


def test_updates_by_mixed_channels_refuse_what_does_not_fit():
    case = scene(300, 5, 3)
    maps, c, m = case.maps(), case.constants, case.mixed
    (keys, values, queries), later = case.tokens
    update = partial(kernels.update_image_mixed, channels=CHANNELS)
    for name, arguments in {
        "values": (keys, values[:1], queries),
        "queries": (keys, values, queries[:, :8]),
        "keys": (keys[:, :8], values, queries),
    }.items():
        with pytest.raises(ValueError, match=f"^{name}: "):
            update(*maps, m.first, *arguments)
    first, _ = update(*maps, m.first, keys, values, queries)
    second, _ = update(*maps, m.second, *later, first)
    for constants, before in ((m.first, first), (m.second, None), (m.second, second)):
        with pytest.raises(ValueError, match=r"^before: .*second of two updates"):
            update(*maps, constants, keys, values, queries, before)
    few, other = case.x[:5], kernels.project_image(case.pe[:5], None, None, c.pe_rows)
    small = kernels.project_image(few, c.shift, c.scale, c.rows, (other, 2 * INNER))
    with pytest.raises(ValueError, match=r"^before: expected an image of 5 tokens, got 300"):
        update(small, other, m.second, keys, values, queries, first)
    with pytest.raises(ValueError, match=r"^maps: .* 300 and 5 tokens"):
        update(maps[0], other, m.first, keys, values, queries)
    lacking = kernels.project_image(case.pe, None, None, c.pe_rows.rows[: c.first.pe_at + 2 * INNER])
    with pytest.raises(ValueError, match=r"^maps: expected"):
        update(maps[0], lacking, m.first, keys, values, queries)
    with pytest.raises(TypeError, match=r"^maps: expected ImageMaps"):
        update(maps[0].data, maps[1], m.first, keys, values, queries)
    (other,), _ = kernels.update_image(
        *maps, case.constants.first, *(normal(1, INNER // 8, INNER) for _ in range(3)), channels=CHANNELS
    )
    assert other.rank == first.rank
    with pytest.raises(TypeError, match=r"^before: expected MixedImage, got UpdatedImage"):
        update(*maps, m.second, keys, values, queries, other)
    with pytest.raises(ValueError, match=r"^before.data: expected shape"):
        update(*maps, m.second, keys, values, queries, first._replace(data=first.data[:, :-1].copy()))


def test_rows_of_maps_are_a_copy_in_a_precision_that_has_columns():
    rows, x = normal(20, CHANNELS), normal(9, CHANNELS)
    packed = kernels.pack_rows(rows)
    expected = kernels.project_image(x, None, None, packed).data[:, :, :9].copy()
    rows[:] = np.nan
    assert_same(kernels.project_image(x, None, None, packed).data[:, :, :9].copy(), expected)
    with pytest.raises(ValueError, match=r"^precision: expected 'fp32' or 'bf16', got 'int8'"):
        kernels.pack_rows(rows, precision="int8")


@both_forms
def test_updates_give_the_same_bits_on_any_threads(update_image):
    case = scene(1500, 5, 4)
    image, attended = case.update(case.maps(threads=1), update_image, threads=1)
    for threads in (2, 3, 4):
        again, others = case.update(case.maps(threads=threads), update_image, threads=threads)
        for one, other in zip((scale_of(image).ravel()[:1500], *attended), (scale_of(again).ravel()[:1500], *others)):
            assert_same(other, one)


def test_prompts_together_give_the_same_bits_as_alone():
    scenes = [scene(700, 3, 4, sharper=sharper) for sharper in (1, 2, 0.5)]
    maps = scenes[0].maps()
    together = updates(scenes[0].constants, maps, [one.tokens for one in scenes], kernels.update_image)
    for one, (image, attended) in zip(scenes, together):
        ((alone, expected),) = updates(scenes[0].constants, maps, [one.tokens], kernels.update_image)
        assert_same(basis_of(image), basis_of(alone))
        assert_same(scale_of(image), scale_of(alone))
        for got, answer in zip(attended, expected, strict=True):
            assert_same(got, answer)


@both_forms
def test_attention_of_sharp_scores(update_image):
    """Scores near ±1000 over several chunks of the image, where each chunk has a maximum of its own."""
    check_updates(1000, 3, 5, update_image, sharper=300)


def test_updates_refuse_what_does_not_fit():
    case = scene(9, 2, 3)
    maps, c = case.maps(), case.constants
    keys, values, queries = (array[None] for array in case.tokens[0])
    (first,), _ = kernels.update_image(*maps, c.first, keys, values, queries, channels=CHANNELS)
    for name, arguments in {
        "values": (c.first, keys, values[:, :1], queries),
        "queries": (c.first, keys, values, queries[..., :8]),
        "keys": (c.first, keys[..., :8], values, queries),
    }.items():
        with pytest.raises(ValueError, match=f"^{name}: "):
            kernels.update_image(*maps, *arguments, channels=CHANNELS)
    with pytest.raises(ValueError, match=r"^values: .*update before"):
        kernels.update_image(*maps, c.second, keys[:, :1], values[:, :1], queries, [first], channels=CHANNELS)
    with pytest.raises(ValueError, match=r"^values: .*update before"):
        kernels.update_image(*maps, c.second, keys, values, queries, [first, first], channels=CHANNELS)
    (second,), _ = kernels.update_image(*maps, c.second, keys, values, queries, [first], channels=CHANNELS)
    with pytest.raises(ValueError, match=r"^values: .*update before"):
        kernels.update_image(*maps, c.second, keys, values, queries, [second], channels=CHANNELS)
    for update, before in ((c.first, [first]), (c.second, None)):
        with pytest.raises(ValueError, match=r"^before: .*second of two updates"):
            kernels.update_image(*maps, update, keys, values, queries, before, channels=CHANNELS)
    for wrong, message in (
        (normal(2 * INNER, 64), r"\(65, OC\), got \(64, 64\)"),
        (normal(2 * INNER + 1, 40), "32.*40"),
    ):
        other = dataclasses.replace(c.second, last_basis=wrong)
        with pytest.raises(ValueError, match=rf"^update.last_basis: .*{message}"):
            kernels.update_image(*maps, other, keys, values, queries, [first], channels=CHANNELS)
    turned = dataclasses.replace(c.second, last_basis=np.asfortranarray(c.second.last_basis))
    with pytest.raises(ValueError, match="contiguous"):
        kernels.update_image(*maps, turned, keys, values, queries, [first], channels=CHANNELS)
    other_form, _ = update_one_mixed(*maps, case.mixed.first, keys, values, queries, channels=CHANNELS)
    with pytest.raises(TypeError, match=r"^before: expected UpdatedImage, got MixedImage"):
        kernels.update_image(*maps, c.second, keys, values, queries, other_form, channels=CHANNELS)
    other = kernels.project_image(case.pe[:5], None, None, c.pe_rows)
    with pytest.raises(ValueError, match=r"^maps: .* 9 and 5 tokens"):
        kernels.update_image(maps[0], other, c.first, keys, values, queries, channels=CHANNELS)
    few = kernels.project_image(case.x[:5], c.shift, c.scale, c.rows, (other, 2 * INNER))
    with pytest.raises(ValueError, match=r"^before: expected an image of 5 tokens, got 9"):
        kernels.update_image(few, other, c.second, keys, values, queries, [first], channels=CHANNELS)
    with pytest.raises(ValueError, match=r"^added: "):
        kernels.project_image(case.x[:5], c.shift, c.scale, c.rows, (maps[1], INNER))


@any_case(20)
@given(n=st.integers(1, 600), channels=st.integers(2, 80), count=st.integers(1, 200), threads=st.integers(1, 4))
def test_projected_image(n, channels, count, threads):
    x, shift, scale = normal(n, channels), normal(channels), normal(1, channels)[0]
    rows = normal(count, channels) / np.float32(channels**0.5)
    got = kernels.project_image(x, shift, scale, rows, threads=threads)
    exact = reference.project_image(x, shift, scale, rows)
    maps = got.data.transpose(1, 0, 2).reshape(count + 2, -1)
    assert_relative_l2(maps[:count, :n], exact[:count], pass_bound(channels))
    assert_relative_l2(maps[count:, :n], exact[count:], pass_bound(channels, channels, channels))
    plain = kernels.project_image(x, None, None, rows, threads=threads).data.transpose(1, 0, 2).reshape(count, -1)
    assert_relative_l2(plain[:, :n], reference.linear(rows, x), pass_bound(channels))


@both_forms
def test_upscaling_an_updated_image(update_image):
    """Rows of 9 tokens, which end within blocks and chunks and beyond them."""
    tokens = 5
    case = scene(297, tokens, 4)
    maps = case.maps()
    image, _ = case.update(maps, update_image)
    c, c1 = case.constants, LAST // 4
    more = normal(c1), normal(1, c1)[0], normal(32, c1) / np.float32(c1**0.5), normal(8), normal(3, 8)
    update = {"update": image, "rows": rows_of(image, case), "shift": c.last_shift}
    got = kernels.upscale_masks((maps[0], c.last_at, (33, 9)), *more, **update)
    expected = reference.upscale_masks(case.last.T.reshape(LAST, 33, 9), *more)
    depths = (CHANNELS, INNER // 8, 16 * tokens + 1, CHANNELS)
    assert_relative_l2(got, expected, 2 * case.condition * pass_bound(*depths, *depths, c1, c1, 8, gelus=2))
    for threads in (1, 3, 4):
        assert_same(kernels.upscale_masks((maps[0], c.last_at, (33, 9)), *more, **update, threads=threads), got)
    with pytest.raises(ValueError, match=r"^x: expected 64 maps of 32x9 tokens .* of 297"):
        kernels.upscale_masks((maps[0], c.last_at, (32, 9)), *more, **update)
    with pytest.raises(ValueError, match=r"^x: expected 64 maps .* from map \d+ on"):
        kernels.upscale_masks((maps[0], maps[0].data.shape[1] - LAST + 1, (33, 9)), *more, **update)
    few = kernels.project_image(case.x[:288], None, None, c.rows)
    with pytest.raises(ValueError, match=r"^update: expected one of 288 tokens, got 297"):
        kernels.upscale_masks((few, 0, (32, 9)), *more, **update)
    with pytest.raises(ValueError, match=r"^rows: "):
        kernels.upscale_masks(
            (maps[0], c.last_at, (33, 9)), *more, **(update | {"rows": kernels.pack_rows(normal(LAST, image.rank - 1))})
        )
    with pytest.raises(TypeError, match=r"^rows: expected MapRows, got ndarray"):
        kernels.upscale_masks((maps[0], c.last_at, (33, 9)), *more, **(update | {"rows": update["rows"].rows}))
    with pytest.raises(TypeError, match=r"^x: expected \(ImageMaps, the first map, \(H, W\)\), got ndarray"):
        kernels.upscale_masks(normal(LAST, 33, 9), *more, **update)
    with pytest.raises(ValueError, match=r"^precision: .*'int8'"):
        kernels.upscale_masks((maps[0], c.last_at, (33, 9)), *more, precision="int8")


def test_upscaling_maps_and_their_shift():
    """Maps in chunks as those in one piece, and a shift as if it had been added before."""
    case = upscale_case(7, 41, 16, 8, 3)
    arrays, rows, shift = case.arrays(), np.eye(80, dtype=np.float32), normal(64)
    tokens = np.vstack([normal(16, 287), arrays["x"].reshape(64, -1)]).T
    maps = kernels.project_image(np.ascontiguousarray(tokens), None, None, rows)
    got = case(arrays | {"x": (maps, 16, (7, 41))}, shift=shift)
    expected = case.expected(arrays | {"x": arrays["x"] + shift[:, None, None]})
    assert_relative_l2(got, expected, pass_bound(80, 16, 16, 8, gelus=2))


@pytest.mark.parametrize("c1", [1, 7, 31, 32, 33, 47, 48, 51, 96, 97])
def test_upscaling_whole_numbers_is_exact(c1):
    """A norm that leaves its bias alone, and numbers beyond 8, which GELU leaves: sums are exact in any order."""
    rng = np.random.default_rng(c1)
    x, weight, bias = normal(4 * c1, 3, 5), np.zeros(c1, np.float32), rng.integers(8, 12, c1).astype(np.float32)
    w2, b2 = rng.integers(1, 5, (4 * 3, c1)).astype(np.float32), rng.integers(0, 9, 3).astype(np.float32)
    hyper = integers(2, 3)
    y = kernels.upscale_masks(as_maps(x), weight, bias, w2, b2, hyper)
    fine = (w2 @ bias).reshape(2, 2, 3) + b2
    assert fine.min() >= 8
    expected = np.tile(np.einsum("ijc,mc->mij", fine, hyper), (1, 6, 10))
    assert np.array_equal(y, expected)


def upscale_case(height: int, width: int, c1: int, c2: int, masks: int) -> Case:
    shapes = {
        "x": (4 * c1, height, width),
        "norm_weight": (c1,),
        "norm_bias": (c1,),
        "w2": (4 * c2, c1),
        "b2": (c2,),
        "hyper": (masks, c2),
    }
    return Case("upscale_masks", shapes)


def check_upscale(case: Case, **options) -> None:
    arrays = case.arrays()
    c1, c2 = case.shapes["norm_weight"][0], case.shapes["b2"][0]
    bound = pass_bound(c1, c1, c2, gelus=2)
    assert_relative_l2(case(arrays, **options), case.expected(arrays), bound)


@pytest.mark.parametrize("masks", [1, 3, 4])
def test_network_upscaling(masks):
    check_upscale(upscale_case(5, 64, 64, 32, masks))


@any_case(40)
@given(
    size=st.tuples(st.integers(1, 4), st.integers(1, 70)),
    c1=st.integers(2, 40),
    c2=st.integers(8, 40),
    masks=st.integers(1, 9),
    threads=st.integers(1, 4),
)
def test_any_upscaling(size, c1, c2, masks, threads):
    check_upscale(upscale_case(*size, c1, c2, masks), threads=threads)


def test_upscaling_weights_come_in_fours():
    case = CASES["upscale_masks"]
    arrays = case.arrays()
    with pytest.raises(ValueError) as error:
        case(arrays | {"w2": arrays["w2"][:-1]})
    assert "w2" in str(error.value)
    assert str(len(arrays["w2"]) - 1) in str(error.value)
