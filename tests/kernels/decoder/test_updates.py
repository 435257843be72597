"""Tests of a plan's steps on an image: low-rank image updates, attention to the image, projection and upscaling."""

import dataclasses
import math

import numpy as np
import pytest
from grids import any_case
from hypothesis import given
from hypothesis import strategies as st
from isas import every_isa  # noqa: F401
from plans import Recording, project_image, record_upscaling, upscale_arrays, upscaled
from scenes import CHANNELS, INNER, LAST, SCALE, Updated, record_updates, scene, updates
from tolerances import assert_relative_l2, assert_same, integers, normal, pass_bound

from mobilesam import kernels
from mobilesam.kernels import reference

pytestmark = pytest.mark.usefixtures("every_isa")


def check_updates(n: int, tokens: int, query_count: int, *, sharper: float = 1, **options) -> None:
    """Compare two image updates in the low-rank form with the reference.

    The bound covers these sums of an update: projection, scores, softmax over the tokens, and the quadratic form that
    gives the variance. It also covers scores, softmax and weighted sum of the attention to the image that follows.
    Cancellation in the variance multiplies the error by ``condition``. The relative error of an exponential is the
    absolute error of its score, and scores are of order ``sharper``.
    """
    case = scene(n, tokens, query_count, sharper)
    maps = case.maps(**options)
    updated = case.update(maps, **options)
    depths = (CHANNELS, INNER // 8, 16 * tokens + 1, CHANNELS)
    for i, (got, expected) in enumerate(zip(updated.attended, case.attended)):
        bound = (i + 1) * sharper * case.condition * pass_bound(*depths, *depths, n, n)
        assert_relative_l2(got, expected, bound)
    c = case.constants
    own = maps[0].data[:, c.last_at : c.last_at + LAST].transpose(0, 2, 1).reshape(-1, LAST)[:n]
    last = (own + updated.basis.T @ updated.last.T) * updated.scale[:, None] + c.last_shift
    assert_relative_l2(last, case.last, 2 * case.condition * pass_bound(*depths, *depths))


def assert_alike(got: Updated, expected: Updated) -> None:
    """Assert that both Updated hold the same bits."""
    for one, other in zip((*got[:3], *got.attended), (*expected[:3], *expected.attended), strict=True):
        assert_same(one, other)


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
def test_updates_in_low_rank(sizes):
    check_updates(*sizes)


@any_case(15)
@given(n=st.integers(1, 600), tokens=st.integers(1, 16), query_count=st.integers(1, 16), threads=st.integers(1, 4))
def test_any_updates_in_low_rank(n, tokens, query_count, threads):
    check_updates(n, tokens, query_count, threads=threads)


def attend_before_updates(case, queries: np.ndarray, maps, **options) -> np.ndarray:
    """Run the attention of scaled queries (P, T, E) to the image, without image updates."""
    made, c = Recording(**options), case.constants
    keys, values = (made.give_maps(maps).rows(at, INNER) for at in c.before_at)
    (y,) = made.run(made.plan.attend_image(made.give(queries), keys, values, c.before_bias))
    return y


@any_case(15)
@given(n=st.integers(1, 600), query_count=st.integers(1, 40), threads=st.integers(1, 4))
def test_attention_to_the_image_before_it_is_updated(n, query_count, threads):
    case = scene(n, query_count, 1)
    maps, _ = case.maps(threads=threads)
    queries = case.tokens[0][2][None] * SCALE
    got = attend_before_updates(case, queries, maps, threads=threads)
    assert_relative_l2(got[0], case.attended_before, pass_bound(CHANNELS, CHANNELS, INNER // 8, CHANNELS, n, n))
    both = attend_before_updates(case, np.concatenate([normal(1, query_count, INNER), queries]), maps)
    assert_same(both[1], got[0])


@pytest.mark.parametrize("sizes", [(4096, 4096), (4096, 1), (1, 65)], ids=str)
def test_attention_to_an_image_of_any_queries(sizes):
    """The attention has up to 4096 queries, which is more than a prompt has tokens."""
    n, query_count = sizes
    queries, keys, values = normal(query_count // 8 + 1, 32), normal(n, 32), normal(1, n, 32)[0]
    made, bias = Recording(), normal(32)
    given_keys, given_values = made.give_maps(keys), made.give_maps(values)
    (got,) = made.run(
        made.plan.attend_image(made.give(queries[None] * np.float32(0.5)), given_keys, given_values, bias)
    )
    expected = reference.cross_attention(queries, keys, values + np.asarray(bias, np.float64), heads=8)
    assert_relative_l2(got[0], expected, pass_bound(4, n, n))


def test_attention_picks_the_one_matching_token():
    """Scores are in the thousands, so the softmax weights of all tokens except the matching one underflow to 0."""
    k, v = np.zeros((600, 16), np.float32), normal(600, 16)
    at = [0, 255, 256, 511, 599]
    k[at] = np.sign(normal(5, 16)) * 64
    made = Recording()
    queries = made.give(k[at][None])
    (y,) = made.run(made.plan.attend_image(queries, made.give_maps(k), made.give_maps(v), np.zeros(16, np.float32)))
    expected = reference.cross_attention(k[at] * np.float32(2**0.5), k, v, heads=8)
    assert_relative_l2(y[0], expected, pass_bound(2, 600, 600))


def test_attention_to_the_image_refuses_what_does_not_fit():
    case = scene(9, 2, 3)
    made, c = Recording(), case.constants
    maps, queries = made.give_maps(case.maps()[0]), made.give(normal(1, 2, INNER))
    keys, values = (maps.rows(at, INNER) for at in c.before_at)
    other, odd = made.give_maps(normal(8, INNER)), made.give(normal(1, 2, INNER + 1))
    begins = r"^step 0, attend_image: "
    for arguments, message in {
        (odd, keys, values): "queries: expected a multiple of 8 channels, got 33",
        (made.plan.given(2, 32), keys, values): r"queries: expected shape \(P, T, E\), got \(2, 32\)",
        (queries, maps, values): rf"keys, channels and tokens: expected shape \(32, N\), got \({maps.channels}, 9\)",
        (queries, keys, keys.rows(1, 31)): r"values, channels and tokens: expected shape \(32, 9\), got \(31, 9\)",
        (queries, keys, other): r"values, channels and tokens: expected shape \(32, 9\), got \(32, 8\)",
    }.items():
        with pytest.raises(ValueError, match=begins + message):
            made.plan.attend_image(*arguments, c.before_bias)
    with pytest.raises(TypeError, match=begins + "keys: expected Maps, got ndarray"):
        made.plan.attend_image(queries, normal(9, INNER), values, c.before_bias)
    with pytest.raises(TypeError, match=begins + "values: expected Maps, got Array"):
        made.plan.attend_image(queries, keys, maps.array, c.before_bias)
    with pytest.raises(ValueError, match=begins + r"bias: expected shape \(32,\), got \(33,\)"):
        made.plan.attend_image(queries, keys, values, normal(33))


def test_rows_of_maps_are_a_copy_in_a_precision_that_has_columns():
    rows, x = normal(20, CHANNELS), normal(9, CHANNELS)
    packed = kernels.pack_rows(rows)
    expected = project_image(x, None, None, packed).data[:, :, :9].copy()
    rows[:] = np.nan
    assert_same(project_image(x, None, None, packed).data[:, :, :9].copy(), expected)
    with pytest.raises(ValueError, match=r"^precision: expected 'fp32' or 'bf16', got 'int8'"):
        kernels.pack_rows(rows, precision="int8")


def test_updates_give_the_same_bits_on_any_threads():
    case = scene(1500, 5, 4)
    expected = case.update(case.maps(threads=1), threads=1)
    for threads in (2, 3, 4):
        assert_alike(case.update(case.maps(threads=threads), threads=threads), expected)


def test_prompts_together_give_the_same_bits_as_alone():
    scenes = [scene(700, 3, 4, sharper=sharper) for sharper in (1, 2, 0.5)]
    maps = scenes[0].maps()
    together = updates(scenes[0].constants, maps, [one.tokens for one in scenes])
    for one, got in zip(scenes, together, strict=True):
        (alone,) = updates(scenes[0].constants, maps, [one.tokens])
        assert_alike(got, alone)


def test_a_plan_of_updates_runs_many_times():
    """A run does not affect the next run. Two plans may share the channel-major projections (maps) of an image."""
    scenes = [scene(600, 5, 3, sharper=sharper) for sharper in (1, 3)]
    maps = scenes[0].maps()
    made = Recording()
    _, attended = record_updates(made, scenes[0].constants, *map(made.give_maps, maps), [scenes[0].tokens])
    first, others = made.run(*attended), scenes[1].update(maps).attended
    tokens = [array * SCALE if i % 3 != 1 else array for i, array in enumerate(sum(scenes[1].tokens, ()))]
    values = dict(zip(list(made.given)[2:], (array[None] for array in tokens), strict=True))
    made.plan.run(made.given | values)
    for array, expected in zip(attended, others, strict=True):
        assert_same(made.plan.view(array)[0], expected)
    made.plan.run(made.given)
    for array, expected in zip(attended, first, strict=True):
        assert_same(made.plan.view(array), expected)


def test_attention_of_sharp_scores():
    """Scores are near ±1000, and the chunks of the image have different maximum scores."""
    check_updates(1000, 3, 5, sharper=300)


def test_updates_refuse_what_does_not_fit():
    case = scene(9, 2, 3)
    made, c = Recording(), case.constants
    maps, pe = map(made.give_maps, case.maps())
    tokens = keys, values, queries = made.give(*(array[None] for array in case.tokens[0]))
    one, narrow = made.give(normal(1, 1, INNER)), made.give(normal(1, 2, 8))
    few, few_pe = made.give_maps(normal(5, maps.channels)), made.give_maps(normal(5, pe.channels))
    update = made.plan.update_image
    first, _ = update(maps, pe, c.first, *tokens, channels=CHANNELS)
    second, _ = update(maps, pe, c.second, *tokens, first, channels=CHANNELS)
    begins = r"^step \d+, update_image: "
    for arguments, message in {
        (maps, pe, c.first, keys, one, queries): r"values: expected shape \(1, 2, 32\), got \(1, 1, 32\)",
        (maps, pe, c.first, keys, values, narrow): r"queries: expected shape \(1, T2, 32\), got \(1, 2, 8\)",
        (maps, pe, c.first, narrow, values, queries): r"keys: expected shape \(P, T, 32\), got \(1, 2, 8\)",
        (maps, few_pe, c.first, *tokens): r"pe, channels and tokens: expected shape \(M, 9\), got \(\d+, 5\)",
        (
            maps.rows(0, c.first.squares),
            pe,
            c.first,
            *tokens,
        ): f"maps: expected at least {c.first.squares + 1} channels of the image",
        (maps, pe.rows(0, 3 * INNER - 1), c.first, *tokens): "maps: expected .* of the positional enc.* and 95",
        (maps, pe, c.first, *tokens, first): "before: expected .* and None in the first, got Updated",
        (maps, pe, c.second, *tokens): "before: expected an UpdatedImage in the second update .*, got None",
        (maps, pe, c.second, one, one, queries, first): "before: expected an image of 9 tokens and one update by 1 tok",
        (maps, pe, c.second, *tokens, second): "before: expected an image of 9 tokens and one update by 2 tokens",
        (few, few_pe, c.second, *tokens, first): "before: expected an image of 5 tokens",
    }.items():
        with pytest.raises(ValueError, match=begins + message):
            update(*arguments, channels=CHANNELS)
    for arguments, message in {
        (maps, pe, c.first, None, values, queries): "keys: expected Array, got NoneType",
        (maps.array, pe, c.first, *tokens): "maps: expected Maps, got Array",
        (maps, pe, c.second, *tokens, (first,)): "before: expected UpdatedImage, got tuple",
    }.items():
        with pytest.raises(TypeError, match=begins + message):
            update(*arguments, channels=CHANNELS)
    for wrong, message in (
        (normal(2 * INNER, 64), r"update.last_basis: .*\(65, OC\), got \(64, 64\)"),
        (normal(2 * INNER + 1, 40), "update.last_basis: .*32.*40"),
    ):
        other = dataclasses.replace(c.second, last_basis=wrong)
        with pytest.raises(ValueError, match=begins + message):
            update(maps, pe, other, *tokens, first, channels=CHANNELS)


@pytest.mark.parametrize("name", ["gram", "query_rows", "key_rows", "value_rows", "last_basis"])
def test_an_updates_constants_are_read_where_they_are(name):
    """Constants in Fortran order are refused. A contiguous copy would be freed before the plan runs."""
    case = scene(9, 2, 3)
    made, c = Recording(), case.constants
    maps, pe = map(made.give_maps, case.maps())
    tokens = made.give(*(array[None] for array in case.tokens[0]))
    first, _ = made.plan.update_image(maps, pe, c.first, *tokens, channels=CHANNELS)
    turned = dataclasses.replace(c.second, **{name: np.asfortranarray(getattr(c.second, name))})
    with pytest.raises(ValueError, match=r"^step \d+, update_image: .*contiguous"):
        made.plan.update_image(maps, pe, turned, *tokens, first, channels=CHANNELS)


def test_added_maps_are_of_as_many_tokens():
    case = scene(9, 2, 3)
    with pytest.raises(
        ValueError, match=r"^step 0, project: added, channels and tokens: expected shape \(M, 5\), got \(\d+, 9\)"
    ):
        project_image(case.x[:5], None, None, case.constants.rows, (case.maps()[1], INNER))
    with pytest.raises(ValueError, match=r"^step 0, project: added: expected at most 20 channels, got 32"):
        project_image(case.x, None, None, normal(20, CHANNELS), (case.maps()[1], INNER))


@any_case(20)
@given(n=st.integers(1, 600), channels=st.integers(2, 80), count=st.integers(1, 200), threads=st.integers(1, 4))
def test_projected_image(n, channels, count, threads):
    x, shift, scale = normal(n, channels), normal(channels), normal(1, channels)[0]
    rows = normal(count, channels) / np.float32(channels**0.5)
    got = project_image(x, shift, scale, rows, threads=threads)
    exact = reference.project(x, shift, scale, rows)
    maps = got.data.transpose(1, 0, 2).reshape(count + 2, -1)
    assert_relative_l2(maps[:count, :n], exact[:count], pass_bound(channels))
    assert_relative_l2(maps[count:, :n], exact[count:], pass_bound(channels, channels, channels))
    plain = project_image(x, None, None, rows, threads=threads).data.transpose(1, 0, 2).reshape(count, -1)
    assert_relative_l2(plain[:, :n], reference.linear(rows, x), pass_bound(channels))


# --- upscaling ---


def test_upscaling_an_updated_image():
    """One plan updates the image for two prompts. A second plan computes the masks of one of the two prompts.

    The image has 9 tokens per line, so lines cross the boundaries of chunks and of units of work.
    """
    case, prompt, c1 = scene(297, 5, 4), 1, LAST // 4
    c, arrays = case.constants, upscale_arrays(33, 9, c1, 8, 3)
    other = tuple(tuple(part[::-1].copy() for part in update) for update in case.tokens)
    maps = case.maps()

    def draw(prompts: list, prompt: int, arrays=arrays, size=(33, 9), **options) -> np.ndarray:
        made = Recording(**options)
        updated, _ = record_updates(made, c, *map(made.give_maps, maps), prompts)
        left = [np.ascontiguousarray(array[prompt]) for array in made.run(updated.data, *updated.last)]
        apart = Recording(**options)
        rows = len(arrays["x"])
        x, update = apart.give_maps(maps[0]).rows(c.last_at, rows), apart.give(*left)
        shift = c.last_shift[:rows]
        return apart.fill(record_upscaling(apart, arrays, image=x, update=update, shift=shift, size=size))

    got = draw([other, case.tokens], prompt)
    exact = arrays | {"x": case.last.T.reshape(LAST, 33, 9)}
    expected = reference.upscale_masks(**exact)
    depths = (CHANNELS, INNER // 8, 16 * 5 + 1, CHANNELS)
    bound = 2 * case.condition * pass_bound(*depths, *depths, c1, c1, 8, gelus=2)
    assert_relative_l2(got, expected, bound)
    part = {"w2": arrays["w2"][-8:], "x": arrays["x"][:c1]}  # one pixel for each image token
    one_each = draw([other, case.tokens], prompt, arrays | part)
    assert_relative_l2(one_each, reference.upscale_masks(**exact | part | {"x": exact["x"][:c1]}), bound)
    for threads in (1, 3, 4):
        assert_same(draw([case.tokens], 0, threads=threads), got)
    for lines in (1, 14, 29):  # the last unit of work has fewer image tokens, and one or two chunks are read
        assert_same(draw([case.tokens], 0, size=(lines, 9)), got[:, : 4 * lines])


def test_upscaling_the_projection_of_an_image():
    x, c1, shift = normal(297, CHANNELS), 16, normal(64)
    rows, arrays = normal(4 * c1, CHANNELS) / np.float32(CHANNELS**0.5), upscale_arrays(33, 9, 16, 8, 3)
    z = project_image(x, None, None, rows)
    made = Recording()
    got = made.fill(record_upscaling(made, arrays, image=made.give_maps(z), shift=shift))
    expected = reference.upscale_masks(**arrays | {"x": reference.linear(x, rows, shift).T.reshape(4 * c1, 33, 9)})
    assert_relative_l2(got, expected, pass_bound(CHANNELS, c1, c1, c1, 8, gelus=2))


def test_a_shift_is_as_if_it_had_been_added_before():
    arrays, shift = upscale_arrays(7, 41, 16, 8, 3), normal(64)
    expected = reference.upscale_masks(**arrays | {"x": arrays["x"] + shift[:, None, None]})
    assert_relative_l2(upscaled(arrays, shift=shift), expected, pass_bound(16, 16, 8, gelus=2))


@pytest.mark.parametrize("c1", [1, 7, 31, 32, 33, 47, 48, 51, 96, 97])
def test_upscaling_whole_numbers_is_exact(c1):
    """Upscaling is exact, because the norm returns its whole-number bias and GELU returns numbers above 8 unchanged."""
    rng = np.random.default_rng(c1)
    x, weight, bias = normal(4 * c1, 3, 5), np.zeros(c1, np.float32), rng.integers(8, 12, c1).astype(np.float32)
    w2, b2 = rng.integers(1, 5, (4 * 3, c1)).astype(np.float32), rng.integers(0, 9, 3).astype(np.float32)
    hyper = integers(2, 3)
    y = upscaled({"x": x, "norm_weight": weight, "norm_bias": bias, "w2": w2, "b2": b2, "hyper": hyper})
    fine = (w2 @ bias).reshape(2, 2, 3) + b2
    assert fine.min() >= 8
    expected = np.tile(np.einsum("ijc,mc->mij", fine, hyper), (1, 6, 10))
    assert np.array_equal(y, expected)


def check_upscale(*sizes: int, **options) -> None:
    *_, c1, c2, _ = sizes
    arrays = upscale_arrays(*sizes)
    assert_relative_l2(upscaled(arrays, **options), reference.upscale_masks(**arrays), pass_bound(c1, c1, c2, gelus=2))


@pytest.mark.parametrize("masks", [1, 3, 4])
def test_network_upscaling(masks):
    check_upscale(5, 64, 64, 32, masks)


@pytest.mark.parametrize(("pixels1", "pixels2"), [(4, 1), (1, 4), (1, 1)])
def test_upscaling_to_fewer_pixels(pixels1: int, pixels2: int) -> None:
    height, width, c1, c2 = 5, 13, 48, 32
    arrays = upscale_arrays(height, width, c1, c2, 3)
    part = arrays | {"x": arrays["x"][: pixels1 * c1], "w2": arrays["w2"][(4 - pixels2) * c2 :]}
    expected = reference.upscale_masks(**part)
    side = math.isqrt(pixels1 * pixels2)
    assert expected.shape == (3, side * height, side * width)
    assert_relative_l2(upscaled(part), expected, pass_bound(c1, c1, c2, gelus=2))
    # The first pixel of the first convolution is the left upper one, and the last of the second the right lower one.
    rows = np.arange(4 * height).reshape(height, 2, 2)[:, : (1, 2)[pixels1 == 4], (0, 1)[pixels2 == 1] :].ravel()
    columns = np.arange(4 * width).reshape(width, 2, 2)[:, : (1, 2)[pixels1 == 4], (0, 1)[pixels2 == 1] :].ravel()
    np.testing.assert_allclose(expected, reference.upscale_masks(**arrays)[:, rows][:, :, columns], rtol=1e-12)


@any_case(40)
@given(
    size=st.tuples(st.integers(1, 4), st.integers(1, 70)),
    c1=st.integers(2, 40),
    c2=st.integers(8, 40),
    masks=st.integers(1, 9),
    threads=st.integers(1, 4),
)
def test_any_upscaling(size, c1, c2, masks, threads):
    check_upscale(*size, c1, c2, masks, threads=threads)


def test_upscaling_gives_the_same_bits_on_any_threads():
    arrays = upscale_arrays(9, 64, 19, 13, 3)
    alone = upscaled(arrays, threads=1)
    for threads in (2, 3, 4, None):
        assert_same(upscaled(arrays, threads=threads), alone)


def test_each_run_fills_the_masks_that_it_is_given():
    arrays = upscale_arrays(9, 11, 19, 13, 3)
    made = Recording()
    y = record_upscaling(made, arrays)
    first = made.fill(y)
    memory = np.full(first.size + 2 * 1021, 7, np.float32)
    out = memory[1021:-1021].reshape(first.shape)  # an output array that is not aligned to 16 bytes
    made.plan.run(made.given | {y: out})
    assert_same(out, first)
    assert (memory[:1021] == 7).all()
    assert (memory[-1021:] == 7).all()


W2 = upscale_arrays(4, 9, 16, 8, 3)["w2"]
FITS = [(1, 10, 272), (64, 8), (64,)]  # shapes of the three Arrays in a valid argument ``update``
REFUSED = {  # expected error message -> the invalid argument that replaces a valid one
    "size: expected at most 36 image tokens, got 4x10": {"size": (4, 10)},
    r"w2: expected shape \(32, C1\), got \(31, 16\)": {"w2": kernels.pack_rows(W2[:-1])},
    r"norm_weight: expected shape \(16,\), got \(15,\)": {"norm_weight": normal(15)},
    r"norm_bias: expected shape \(16,\), got \(15,\)": {"norm_bias": normal(15)},
    r"w2: expected shape \(36, C1\), got \(32, 16\)": {"b2": normal(9)},
    r"shift: expected shape \(64,\), got \(16,\)": {"shift": normal(16)},
    r"hyper: expected shape \(M, 8\), got \(3, 9\)": {"hyper": (3, 9)},
    "x: expected Maps, got ndarray": {"x": normal(36, 40)},
    "x: expected Maps, got Array": {"x": (1, 64, 256)},
    "w2: expected PackedRows, got ndarray": {"w2": W2},
    "hyper: expected Array, got ndarray": {"hyper": normal(3, 8)},
    r"update: expected shape \(1, rows, 272\), got \(2, 10, 272\)": {"update": [(2, 10, 272), *FITS[1:]]},
    r"update: expected shape \(64, rank\), got \(60, 8\)": {"update": [FITS[0], (60, 8), (64,)]},
    "update: expected fewer than 10 basis rows, got 12": {"update": [FITS[0], (64, 12), (64,)]},
    r"update: expected shape \(\d+,\), got \(64, 2\)": {"update": [*FITS[:2], (64, 2)]},
    "update: expected Array, got ndarray": {"update": [FITS[0], normal(64, 8), (64,)]},
}


@pytest.mark.parametrize("message", REFUSED)
def test_upscaling_refuses_what_does_not_fit(message):
    """Each case of REFUSED replaces one valid argument. A tuple in REFUSED stands for an Array of this shape."""
    arrays, made = upscale_arrays(4, 9, 16, 8, 3), Recording()

    def value(name: str, change):
        if isinstance(change, list):
            return [value("", part) for part in change]
        return made.plan.given(*change) if type(change) is tuple and name != "size" else change

    fits = {name: arrays[name] for name in ("norm_weight", "norm_bias", "b2")} | {
        "x": made.give_maps(normal(36, 70)).rows(3, 64), "size": (4, 9), "w2": kernels.pack_rows(W2),
        "hyper": made.give(arrays["hyper"]), "shift": normal(64),
    }  # fmt: skip
    fits |= {name: value(name, change) for name, change in REFUSED[message].items()}
    with pytest.raises((TypeError, ValueError), match=f"^step 0, upscale_masks: {message}"):
        made.plan.upscale_masks(**fits)
