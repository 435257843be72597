"""The passes over prompts' tokens: self-attention, MLPs of single tokens, and a linear layer's norm."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from isas import every_isa  # noqa: F401
from tolerances import assert_relative_l2, assert_same, normal, pass_bound

from mobilesam import kernels
from mobilesam.kernels import isa, reference

pytestmark = pytest.mark.usefixtures("every_isa")


def layer(n: int, k: int):
    return normal(n, k) / np.float32(k**0.5), normal(n)


def attention(prompts: int, tokens: int, channels: int, heads: int, width: int):
    """Arguments of self_attention with ``heads`` of ``width`` channels."""
    e, c, shape = heads * width, channels, (prompts, tokens, channels)
    layers = [layer(e, c), layer(e, c), layer(e, c), layer(c, e)]
    return normal(*shape), normal(1, *shape)[0], layers, normal(2, *shape)[0], (normal(c), normal(1, c)[0])


def check_attention(prompts: int, tokens: int, channels: int, heads: int, width: int, **options) -> None:
    """Projections, scores, softmax, mixing, projection and norm; an exponential errs by its score, some √channels."""
    arguments = attention(prompts, tokens, channels, heads, width)
    expected = reference.self_attention(*arguments, heads=heads)
    got = kernels.self_attention(*arguments, heads=heads, **options)
    bound = channels**0.5 * pass_bound(channels, channels, width, tokens, heads * width, channels)
    assert_relative_l2(got, expected, bound)


@pytest.mark.parametrize(
    "sizes",
    [(1, 7, 256, 8, 32), (4, 26, 256, 8, 32), (3, 1, 5, 1, 1), (2, 65, 33, 3, 17), (1, 129, 48, 2, 40)],
    ids=str,
)
def test_self_attention(sizes):
    check_attention(*sizes)


@settings(deadline=None, derandomize=True, max_examples=25)
@given(
    prompts=st.integers(1, 5),
    tokens=st.integers(1, 70),
    channels=st.integers(4, 70),
    heads=st.integers(1, 5),
    width=st.integers(1, 40),
    threads=st.integers(1, 4),
)
def test_any_self_attention(prompts, tokens, channels, heads, width, threads):
    check_attention(prompts, tokens, channels, heads, width, threads=threads)


def test_self_attention_without_a_residual():
    x, values, layers, _, norm = attention(2, 9, 24, 2, 12)
    expected = reference.self_attention(x, values, layers, None, norm, heads=2)
    assert_relative_l2(
        kernels.self_attention(x, values, layers, None, norm, heads=2), expected, 5 * pass_bound(24, 24, 12, 9, 24, 24)
    )


def test_self_attention_gives_the_same_bits_alone_packed_and_on_any_threads():
    x, values, layers, residual, norm = attention(3, 70, 48, 2, 24)
    expected = kernels.self_attention(x, values, layers, residual, norm, heads=2, threads=1)
    packed = [(kernels.pack(weight), bias) for weight, bias in layers]
    for threads in (1, 2, 3, 4):
        assert_same(kernels.self_attention(x, values, packed, residual, norm, heads=2, threads=threads), expected)
    for i in range(3):
        alone = kernels.self_attention(x[i : i + 1], values[i : i + 1], packed, residual[i : i + 1], norm, heads=2)
        assert_same(alone[0], expected[i])


def test_self_attention_of_sharp_scores():
    """Scores beyond ±1000 choose one token."""
    x, values, layers, residual, norm = attention(1, 12, 16, 1, 16)
    eye = np.eye(16, dtype=np.float32)
    layers = [(eye * 200, None), (eye, None), *layers[2:]]
    expected = reference.self_attention(x, values, layers, residual, norm, heads=1)
    assert_relative_l2(
        kernels.self_attention(x, values, layers, residual, norm, heads=1), expected, 1000 * pass_bound(16, 16, 12, 16)
    )


def test_self_attention_refuses_what_does_not_fit():
    x, values, layers, residual, norm = attention(2, 5, 12, 3, 4)
    for name, arguments in {
        "values": (x, values[:, :4], layers, residual, norm),
        "residual": (x, values, layers, residual[:1], norm),
        "norm": (x, values, layers, residual, (norm[0][:3], norm[1])),
        "layers: k": (x, values, [layers[0], layer(12, 11), *layers[2:]], residual, norm),
        "layers: out": (x, values, [*layers[:3], layer(12, 11)], residual, norm),
        "layers": (x, values, [layer(15, 12), *layers[1:3], layer(12, 15)], residual, norm),
    }.items():
        with pytest.raises(ValueError, match=f"^{name}: ") as error:
            kernels.self_attention(*arguments, heads=3)
        assert "\n" not in str(error.value)
    for name, arguments in {
        "norm": (x, values, layers, residual, norm[:1]),
        "layers: v": (x, values, [*layers[:2], layers[2][0], layers[3]], residual, norm),
        "layers": (x, values, None, residual, norm),
    }.items():
        with pytest.raises(TypeError, match=f"^{name}: "):
            kernels.self_attention(*arguments, heads=3)
    with pytest.raises(ValueError, match=r"^layers: expected those of q, k, v and out, got 3"):
        kernels.self_attention(x, values, layers[:3], residual, norm, heads=3)
    with pytest.raises(ValueError, match=r"^heads: expected a divisor of 12 channels, got 5"):
        kernels.self_attention(x, values, layers, residual, norm, heads=5)
    for other in isa.available():
        if other != isa.current():
            foreign = kernels.pack(layers[1][0], isa=other)
            with pytest.raises(ValueError, match=rf"^layers: expected weights of one ISA, got .*{other}"):
                kernels.self_attention(x, values, [layers[0], (foreign, None), *layers[2:]], residual, norm, heads=3)


def test_self_attention_takes_weights_of_several_precisions():
    """Each product's operand has room, whichever has the largest."""
    x, values, layers, residual, norm = attention(1, 200, 96, 3, 32)
    expected = kernels.self_attention(x, values, layers, residual, norm, heads=3)
    choices = isa.precisions()
    for i in range(len(choices)):
        chosen = [choices[(i + j) % len(choices)] for j in range(4)]
        packed = [(kernels.pack(w, precision=p), bias) for p, (w, bias) in zip(chosen, layers, strict=True)]
        got = kernels.self_attention(x, values, packed, residual, norm, heads=3)
        assert np.linalg.norm(got - expected) < 0.2 * np.linalg.norm(expected), chosen


def mlps(count: int, *widths: int):
    return [
        [(weight + np.float32(i), bias) for weight, bias in (layer(n, k) for k, n in pairwise(widths))]
        for i in range(count)
    ]


@pytest.mark.parametrize("sizes", [(4, 1, (256, 256, 256, 32)), (1, 9, (7, 3)), (3, 2, (33, 65, 1, 17, 4))], ids=str)
def test_token_mlps(sizes):
    count, rows, widths = sizes
    x, layers = normal(count, rows, widths[0]), mlps(count, *widths)
    expected = reference.token_mlps(x, layers)
    got = kernels.token_mlps(x, layers, threads=1)
    for i in range(count):  # each by itself: their weights differ in size
        assert_relative_l2(got[i], expected[i], (1 + i) ** 2 * widths[0] ** 0.5 * pass_bound(*widths[:-1]))
    packed = [[(kernels.pack(weight), bias) for weight, bias in own] for own in layers]
    for threads in (1, 2, 3, 4):
        assert_same(kernels.token_mlps(x, packed, threads=threads), got)


def test_token_mlps_of_differing_depths():
    x = normal(2, 3, 16)
    layers = [mlps(1, 16, 8, 8, 5)[0], mlps(1, 16, 5)[0]]
    got = kernels.token_mlps(x, layers)
    assert_relative_l2(got, reference.token_mlps(x, layers), 4 * pass_bound(16, 8, 8))


def test_token_mlps_refuse_what_does_not_fit():
    x = normal(2, 3, 16)
    with pytest.raises(ValueError, match=r"^mlps: expected one for each of 2 tokens, got 1"):
        kernels.token_mlps(x, mlps(1, 16, 4))
    with pytest.raises(ValueError, match=r"^mlps: expected shape .*16.*15"):
        kernels.token_mlps(x, mlps(2, 15, 4))
    with pytest.raises(ValueError, match=r"^mlps: expected results of 4 channels"):
        kernels.token_mlps(x, [mlps(1, 16, 4)[0], mlps(1, 16, 5)[0]])
    with pytest.raises(ValueError, match=r"^mlps: "):
        kernels.token_mlps(x, [[(normal(4, 16), normal(5))], mlps(1, 16, 4)[0]])
    with pytest.raises(ValueError, match=r"^mlps: .*layers"):
        kernels.token_mlps(x, [[], []])
    for mistaken in ([normal(4, 16), normal(4, 16)], None, [[normal(4, 16)], [normal(4, 16)]]):
        with pytest.raises(TypeError, match=r"^mlps: "):
            kernels.token_mlps(x, mistaken)


@pytest.mark.parametrize("sizes", [(1, 1, 1), (7, 256, 256), (33, 20, 45), (400, 31, 96)], ids=str)
def test_linear_with_a_norm(sizes):
    m, k, n = sizes
    x, (weight, bias), residual = normal(m, k), layer(n, k), normal(m, n)
    norm = normal(n), normal(1, n)[0]
    expected = reference.linear(x, weight, bias, residual=residual, norm=norm)
    got = kernels.linear(x, weight, bias, residual=residual, norm=norm, threads=1)
    assert_relative_l2(got, expected, 4 * pass_bound(k, n))
    for threads in (2, 3, 4):
        assert_same(kernels.linear(x, weight, bias, residual=residual, norm=norm, threads=threads), got)
    with pytest.raises(ValueError, match=r"^norm: "):
        kernels.linear(x, weight, bias, norm=(norm[0], normal(n + 1)))
    with pytest.raises(TypeError, match=r"^norm: expected a weight and a bias, got 1 of them"):
        kernels.linear(x, weight, bias, norm=norm[:1])
    out = normal(2, m, n)[0]
    with pytest.raises(ValueError, match=r"^out: .*overlaps an input"):
        kernels.linear(x, weight, bias, norm=(out[0], norm[1]), out=out)
