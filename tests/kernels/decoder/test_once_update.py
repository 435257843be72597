"""What an image that serves one prompt runs on: its channels as maps, its update and the attention to it, its masks."""

from functools import partial

import numpy as np
import pytest
from grids import any_case
from hypothesis import given
from hypothesis import strategies as st
from isas import every_isa  # noqa: F401
from tolerances import assert_relative_l2, assert_same, normal, pass_bound

from mobilesam import kernels
from mobilesam.kernels import OnceAttention, OnceUpdate, reference
from mobilesam.network.parameters import PANEL

pytestmark = pytest.mark.usefixtures("every_isa")

CHANNELS, INNER = 96, 32
SCALE = np.float32((INNER // reference.HEADS) ** -0.5)


def linear(n: int, k: int, seed: int):
    rng = np.random.default_rng((n, k, seed))
    weight, bias = rng.standard_normal((n, k), np.float32), rng.standard_normal(n, np.float32)
    return weight / np.float32(k**0.5), bias


KEY, VALUE, QUERY, OUT = (
    linear(n, k, seed)
    for seed, (n, k) in enumerate([(INNER, CHANNELS), (INNER, CHANNELS), (INNER, CHANNELS), (CHANNELS, INNER)])
)
NORM = 1 + normal(CHANNELS) / 4, normal(1, CHANNELS)[0]
ATTENTION = OnceAttention(KEY[0], np.ascontiguousarray(np.pad(VALUE[0].T, [(0, 1), (0, 0)])), VALUE[1])
QUERY_ROWS = np.pad(np.column_stack(QUERY), [(0, 0), (0, -(CHANNELS + 1) % PANEL)])
UPDATE = OnceUpdate(np.ascontiguousarray(QUERY_ROWS), np.ascontiguousarray(OUT[0].T), OUT[1], *NORM)


def maps_of(x: np.ndarray) -> np.ndarray:
    """ImageMaps' data as x (N, C) would be in it."""
    padded = np.pad(x, [(0, -len(x) % 256), (0, 0)])
    return np.ascontiguousarray(padded.reshape(-1, 256, x.shape[1]).transpose(0, 2, 1))


@pytest.mark.parametrize("n", [1, 255, 256, 257, 600])
def test_turned_image(n):
    x, row, same = normal(n, 35), normal(35), normal(1, n, 35)[0]
    for added in (None, row, same):
        expected = maps_of(x if added is None else x + added)
        for threads in (1, 3):
            turned = kernels.turn_image(x, added, threads=threads)
            assert turned.n == n
            assert_same(turned.data, expected)
    with pytest.raises(ValueError, match=r"^added: "):
        kernels.turn_image(x, normal(34))


def check_passes(n: int, tokens: int, asking: int, *, sharper: float = 1, **options) -> None:
    """Scores, softmax over the tokens, the sum, its norm; scores, softmax over the image, its sums.

    An exponential errs by its scores, which are `sharper` times of order √C.
    """
    x, pe = normal(n, CHANNELS), normal(1, n, CHANNELS)[0]
    keys, values, queries = (
        normal(tokens, INNER),
        normal(1, tokens, INNER)[0],
        normal(asking, INNER) * np.float32(sharper),
    )
    maps, pe_maps = kernels.turn_image(x), kernels.turn_image(pe)
    depths = CHANNELS, INNER // 8, CHANNELS, n, CHANNELS
    bound = sharper * CHANNELS**0.5 * pass_bound(*depths, tokens, *depths)
    same, looked = kernels.update_image_once(maps, pe_maps, ATTENTION, queries * SCALE, **options)
    assert same is maps
    assert_relative_l2(looked, reference.attend_image(queries, x, pe, KEY, VALUE), bound)
    image, attended = kernels.update_image_once(
        maps, pe_maps, ATTENTION, queries * SCALE, UPDATE, keys * SCALE, values, **options
    )
    expected = reference.update_image(x, pe, keys, values, QUERY, OUT, NORM)
    assert_relative_l2(image.data.transpose(0, 2, 1).reshape(-1, CHANNELS)[:n].copy(), expected, bound)
    assert_relative_l2(attended, reference.attend_image(queries, expected, pe, KEY, VALUE), bound)


@pytest.mark.parametrize(
    "sizes", [(4096, 7, 4), (1, 1, 1), (255, 14, 2), (256, 2, 16), (257, 30, 16), (600, 5, 3)], ids=str
)
def test_updates_of_an_image_for_one_prompt(sizes):
    check_passes(*sizes)


@any_case(15)
@given(n=st.integers(1, 600), tokens=st.integers(1, 16), asking=st.integers(1, 16), threads=st.integers(1, 4))
def test_any_updates_of_an_image_for_one_prompt(n, tokens, asking, threads):
    check_passes(n, tokens, asking, threads=threads)


def test_attention_of_sharp_scores():
    check_passes(1000, 3, 5, sharper=300)


def test_the_same_bits_on_any_threads():
    maps, pe = kernels.turn_image(normal(1500, CHANNELS)), kernels.turn_image(normal(1, 1500, CHANNELS)[0])
    run = partial(
        kernels.update_image_once,
        maps,
        pe,
        ATTENTION,
        normal(4, INNER),
        UPDATE,
        normal(6, INNER),
        normal(1, 6, INNER)[0],
    )
    image, attended = run(threads=1)
    for threads in (2, 3, 4):
        other, answer = run(threads=threads)
        assert_same(other.data, image.data)
        assert_same(answer, attended)


def test_what_does_not_fit_is_refused():
    maps, queries, keys = kernels.turn_image(normal(9, CHANNELS)), normal(3, INNER), normal(2, INNER)
    update = kernels.update_image_once
    few, narrow = kernels.turn_image(normal(8, CHANNELS)), kernels.turn_image(normal(9, CHANNELS - 1))
    for pe in (few, narrow):
        with pytest.raises(ValueError, match=r"^pe: expected 96 maps of x's 9 tokens"):
            update(maps, pe, ATTENTION, queries)
    with pytest.raises(ValueError, match=r"^queries: "):
        update(maps, maps, ATTENTION, queries[:, 1:])
    with pytest.raises(ValueError, match=r"^values: "):
        update(maps, maps, ATTENTION, queries, UPDATE, keys, keys[:1])
    with pytest.raises(TypeError, match=r"^keys: "):
        update(maps, maps, ATTENTION, queries, UPDATE)
    with pytest.raises(TypeError, match=r"^x: expected ImageMaps, got ndarray"):
        update(maps.data, maps, ATTENTION, queries)


def test_upscaling_maps_through_rows():
    """Rows of 9 tokens, which end within blocks and chunks and beyond them; maps from the fifth on."""
    x, c1, shift = normal(297, CHANNELS + 5), 16, normal(64)
    rows = normal(4 * c1, CHANNELS) / np.float32(CHANNELS**0.5)
    more = normal(c1), normal(1, c1)[0], normal(32, c1) / np.float32(c1**0.5), normal(8), normal(3, 8)
    maps, packed = kernels.turn_image(x), kernels.pack_rows(rows)
    got = kernels.upscale_masks((maps, 5, (33, 9)), *more, rows=packed, shift=shift)
    z = reference.linear(x[:, 5:], rows, shift).T.reshape(4 * c1, 33, 9)
    assert_relative_l2(got, reference.upscale_masks(z, *more), pass_bound(CHANNELS, c1, c1, c1, 8, gelus=2))
    for threads in (1, 3, 4):
        again = kernels.upscale_masks((maps, 5, (33, 9)), *more, rows=packed, shift=shift, threads=threads)
        assert_same(again, got)
    with pytest.raises(ValueError, match=r"^x: expected 96 maps .* from map 6 on"):
        kernels.upscale_masks((maps, 6, (33, 9)), *more, rows=packed)
    with pytest.raises(TypeError, match=r"^x: expected \(ImageMaps, the first map, \(H, W\)\), got ndarray"):
        kernels.upscale_masks(normal(64, 33, 9), *more, rows=kernels.pack_rows(normal(64, 64)))
