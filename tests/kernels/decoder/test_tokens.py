"""Steps over prompts' tokens: linear layers, attention among them, norms and rows taken, as one call."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest
from grids import any_case
from hypothesis import given
from hypothesis import strategies as st
from isas import every_isa  # noqa: F401
from tolerances import assert_relative_l2, assert_same, normal, pass_bound

from mobilesam import kernels
from mobilesam.kernels import TokenSteps, isa, reference
from mobilesam.kernels.decoder.steps import Attention, Linear, Norm, Stack, Take

pytestmark = pytest.mark.usefixtures("every_isa")


def layer(n: int, k: int):
    return normal(n, k) / np.float32(k**0.5), normal(n)


def self_attention(channels: int, heads: int, width: int, *, residual: str | None = "residual"):
    """Inputs, phases and outputs of a self-attention with ``heads`` of ``width`` channels, projected, and a norm."""
    e, c = heads * width, channels
    inputs = {"x": c, "from": c, "residual": c}
    phases = [
        [Linear("q", "x", *layer(e, c)), Linear("k", "x", *layer(e, c)), Linear("v", "from", *layer(e, c))],
        [Attention("mixed", "q", "k", "v", heads)],
        [Linear("out", "mixed", *layer(c, e), residual=residual)],
        [Norm("y", "out", normal(c), normal(1, c)[0], moved="moved", by="x")],
    ]
    return inputs, phases, ("y", "moved")


def arrays(inputs: dict[str, int], prompts: int, tokens: int) -> list[np.ndarray]:
    return [
        normal(i, prompts, tokens, width)[-1] if i else normal(prompts, tokens, width)
        for i, width in enumerate(inputs.values())
    ]


def answers(description, x, **options):
    """What the kernel and the reference make of x."""
    inputs, phases, outputs = description
    return TokenSteps(*description)(*x, **options), reference.token_steps(
        dict(zip(inputs, x, strict=True)), phases, outputs
    )


def check_attention(prompts: int, tokens: int, channels: int, heads: int, width: int, **options) -> None:
    """Projections, scores, softmax, mixing, projection and norm; an exponential errs by its score, some √channels."""
    description = self_attention(channels, heads, width)
    got, expected = answers(description, arrays(description[0], prompts, tokens), **options)
    bound = channels**0.5 * pass_bound(channels, channels, width, tokens, heads * width, channels)
    for y, wanted in zip(got, expected, strict=True):
        assert_relative_l2(y, wanted, bound)


@pytest.mark.parametrize(
    "sizes",
    [(1, 7, 256, 8, 32), (4, 26, 256, 8, 32), (3, 1, 5, 1, 1), (2, 65, 33, 3, 17), (1, 129, 48, 2, 40)],
    ids=str,
)
def test_self_attention(sizes):
    check_attention(*sizes)


@any_case(25)
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


def test_the_same_bits_alone_packed_and_on_any_threads():
    inputs, phases, outputs = self_attention(48, 2, 24)
    x = arrays(inputs, 3, 70)
    expected = TokenSteps(inputs, phases, outputs)(*x, threads=1)
    packed = [
        [
            Linear(s.y, s.x, kernels.pack(s.weight), s.bias, residual=s.residual) if isinstance(s, Linear) else s
            for s in phase
        ]
        for phase in phases
    ]
    steps = TokenSteps(inputs, packed, outputs)
    for threads in (1, 2, 3, 4):
        for got, wanted in zip(steps(*x, threads=threads), expected, strict=True):
            assert_same(got, wanted)
    for i in range(3):
        for got, wanted in zip(steps(*(array[i : i + 1] for array in x)), expected, strict=True):
            assert_same(got[0], wanted[i])


def test_sharp_scores():
    """Scores beyond ±1000 choose one token."""
    inputs, phases, outputs = self_attention(16, 1, 16, residual=None)
    eye = np.eye(16, dtype=np.float32)
    phases[0][:2] = [Linear("q", "x", eye * 200), Linear("k", "x", eye)]
    got, expected = answers((inputs, phases, outputs), arrays(inputs, 1, 12))
    assert_relative_l2(got[0], expected[0], 1000 * pass_bound(16, 16, 12, 16))


def test_weights_of_several_precisions():
    """Each product's operand has room, whichever has the largest."""
    inputs, phases, outputs = self_attention(96, 3, 32)
    x = arrays(inputs, 1, 200)
    expected, choices = TokenSteps(inputs, phases, outputs)(*x)[0], isa.precisions()
    for i in range(len(choices)):
        chosen = iter(choices[(i + j) % len(choices)] for j in range(4))
        packed = [
            [
                Linear(s.y, s.x, kernels.pack(s.weight, precision=next(chosen)), s.bias, residual=s.residual)
                if isinstance(s, Linear)
                else s
                for s in phase
            ]
            for phase in phases
        ]
        got = TokenSteps(inputs, packed, outputs)(*x)[0]
        assert np.linalg.norm(got - expected) < 0.2 * np.linalg.norm(expected), choices[i:]


def mlps(count: int, *widths: int):
    """MLPs of one row each, side by side."""
    phases = [[Take(f"{i}.0", "x", (i,)) for i in range(count)]]
    for at, (k, n) in enumerate(pairwise(widths)):
        activation = "relu" if at < len(widths) - 2 else None
        phases.append([Linear(f"{i}.{at + 1}", f"{i}.{at}", *layer(n, k), activation) for i in range(count)])
    return {"x": widths[0]}, phases, tuple(f"{i}.{len(widths) - 1}" for i in range(count))


@pytest.mark.parametrize("sizes", [(4, 1, (256, 256, 256, 32)), (1, 9, (7, 3)), (3, 2, (33, 65, 1, 17, 4))], ids=str)
def test_mlps_side_by_side(sizes):
    count, prompts, widths = sizes
    description = mlps(count, *widths)
    x = arrays(description[0], prompts, count + 2)
    got, expected = answers(description, x, threads=1)
    for y, wanted in zip(got, expected, strict=True):
        assert y.shape == (prompts, 1, widths[-1])
        assert_relative_l2(y, wanted, widths[0] ** 0.5 * pass_bound(*widths[:-1]))
    for threads in (2, 3, 4):
        for y, same in zip(TokenSteps(*description)(*x, threads=threads), got, strict=True):
            assert_same(y, same)


@any_case(25)
@given(
    prompts=st.integers(1, 4),
    tokens=st.integers(1, 400),
    k=st.integers(1, 70),
    n=st.integers(1, 90),
    scale=st.sampled_from((1.0, 0.25, -3.0)),
    activation=st.sampled_from((None, "relu", "gelu")),
    threads=st.integers(1, 4),
)
def test_any_linear_then_norm_of_some_rows(prompts, tokens, k, n, scale, activation, threads):
    rows = tuple(sorted({0, tokens // 2, tokens - 1}, reverse=True))
    description = (
        {"x": k, "residual": n},
        [
            [Linear("y", "x", *layer(n, k), activation, "residual", scale)],
            [Take("some", "y", rows), Take("more", "residual", rows)],
            [Norm("normed", "some", normal(n), normal(1, n)[0], 1e-2, "moved", "more")],
        ],
        ("moved", "y"),
    )
    (moved, y), (wanted, expected) = answers(description, arrays(description[0], prompts, tokens), threads=threads)
    gelus = int(activation == "gelu")
    assert_relative_l2(y, expected, 4 * pass_bound(k, gelus=gelus))
    # values of some 4 are divided by a deviation of at least the root of eps
    assert_relative_l2(moved, wanted, 4 * pass_bound(k, n, gelus=gelus) / 0.1)


def test_copies_and_other_threads_answer_alike():
    description = self_attention(32, 2, 16)
    x, steps = arrays(description[0], 2, 9), TokenSteps(*description)
    expected = steps(*x)
    for other in (copy.copy(steps), copy.deepcopy(steps), pickle.loads(pickle.dumps(steps))):
        assert_same(other(*x)[0], expected[0])


def test_threads_may_share_steps():
    """Each with prompts and tokens of its own."""
    description = self_attention(32, 2, 16)
    steps = TokenSteps(*description)
    given = [arrays(description[0], 1 + i % 3, 3 + 5 * i) for i in range(12)]
    expected = [steps(*x, threads=1)[0] for x in given]
    with ThreadPoolExecutor(4) as pool:
        for i, (y, _) in enumerate(pool.map(lambda i: steps(*given[i % 12]), range(400))):
            assert_same(y, expected[i % 12])


def test_steps_keep_their_isa():
    """Also what a copy is packed for."""
    description = self_attention(64, 2, 32)
    x, steps = arrays(description[0], 1, 9), TokenSteps(*description)
    expected = steps(*x)
    for other in isa.available():
        with isa.use(other):
            assert_same(steps(*x)[0], expected[0])
            assert_same(copy.copy(steps)(*x)[0], expected[0])


def test_attention_among_some_tokens_without_weights():
    description = {"x": 24}, [[Take("some", "x", (4, 1, 2))], [Attention("y", "some", "some", "some", 3)]], ["y"]
    got, expected = answers(description, arrays(description[0], 2, 6))
    assert got[0].shape == (2, 3, 24)
    assert_relative_l2(got[0], expected[0], 24**0.5 * pass_bound(8, 3))


def test_descriptions_cannot_be_changed():
    steps = TokenSteps(*self_attention(32, 2, 16))
    with pytest.raises(TypeError):
        steps.inputs["x"] = 1
    assert isinstance(steps.phases, tuple) and isinstance(steps.phases[0], tuple)


def test_inputs_are_left_as_they_are():
    description = self_attention(32, 2, 16)
    x = arrays(description[0], 2, 9)
    before = [array.copy() for array in x]
    TokenSteps(*description)(*x)
    for array, same in zip(x, before, strict=True):
        assert_same(array, same)


def test_arrays_that_do_not_fit_are_refused():
    steps = TokenSteps(*self_attention(12, 3, 4))
    x, source, residual = arrays({"x": 12, "from": 12, "residual": 12}, 2, 5)
    with pytest.raises(TypeError, match=r"^expected arrays for x, from, residual, got 2"):
        steps(x, source)
    with pytest.raises(ValueError, match=r"^from: expected shape \(2, 5, 12\), got \(2, 4, 12\)"):
        steps(x, source[:, :4], residual)
    with pytest.raises(ValueError, match=r"^x: expected shape \(P, T, 12\), got \(2, 5, 11\)"):
        steps(x[:, :, :11], source, residual)
    with pytest.raises(TypeError, match=r"^residual: expected float32, got float64"):
        steps(x, source, np.float64(residual))
    taking = TokenSteps({"x": 4}, [[Take("y", "x", (0, 3))]], ["y"])
    with pytest.raises(ValueError, match=r"^x: expected 4 tokens of each prompt or more, got 3"):
        taking(normal(2, 3, 4))


@pytest.mark.parametrize(("prompts", "tokens", "threads"), [(1, 3, 1), (4, 5, 2), (3, 30, 3)])
def test_rows_taken_and_stacked(prompts, tokens, threads):
    """An exact copy, in the order of the names; one array may be there twice, and others come in between."""
    x = normal(prompts, tokens, 5)
    phases = [
        [Take("a", "x", (2, 0)), Take("b", "x", (1,))],
        [Stack("first", ("b", "a"))],
        [Stack("y", ("a", "first", "b", "b"))],
    ]
    (y,) = TokenSteps({"x": 5}, phases, ["y"])(x, threads=threads)
    assert_same(y, np.ascontiguousarray(x[:, [2, 0, 1, 2, 0, 1, 1]]))
    assert_same(np.float32(reference.token_steps({"x": x}, phases, ["y"])[0]), y)


REFUSED = {
    "y: x: expected one of the arrays made before .x., got 'z'": [Linear("y", "z", normal(3, 4))],
    "y: weight: expected shape .N, 4., got .3, 5.": [Linear("y", "x", normal(3, 5))],
    "y: bias: expected shape .3,.": [Linear("y", "x", normal(3, 4), normal(4))],
    "y: activation: expected None, 'gelu' or 'relu', got 'tanh'": [Linear("y", "x", normal(3, 4), None, "tanh")],
    "y: residual: expected an array of 3 channels, got 'x' of 4": [Linear("y", "x", normal(3, 4), residual="x")],
    "y: heads: expected a divisor of 4 channels, got 3": [Attention("y", "x", "x", "x", 3)],
    "y: k: expected one of the arrays made before": [Attention("y", "x", "k", "x", 2)],
    "y: weight: expected shape .4,.": [Norm("y", "x", normal(3), normal(4))],
    "y: expected both moved and by, or neither": [Norm("y", "x", normal(4), normal(4), by="x")],
    "y: expected some rows of an array that has them all": [Take("y", "x", ())],
    "y: rows: expected a whole number of at least 0, got -1": [Take("y", "x", (-1,))],
    "y: xs: expected one or more arrays": [Stack("y", ())],
    "y: xs: expected tuple or list, got str": [Stack("y", "ab")],
    "y: xs: expected arrays of rows that were taken, got 'x'": [Stack("y", ("x",))],
    "y: scale: expected a finite number, got nan": [Linear("y", "x", normal(3, 4), scale=float("nan"))],
    "y: eps: expected a finite number, got None": [Norm("y", "x", normal(4), normal(4), None)],
    "y: x: expected one of the arrays made before .x., got .'x'.": [Linear("y", ["x"], normal(3, 4))],
    "y: rows: expected numbers below 2³¹, got 2361": [Take("y", "x", (2**71,))],
    "x: expected a name that no other array has": [Linear("x", "x", normal(4, 4))],
    "z: x: expected one of the arrays made before": [Take("y", "x", (0,)), Take("z", "y", (0,))],  # of one phase
}


@pytest.mark.parametrize("message", REFUSED)
def test_steps_that_do_not_fit_are_refused(message):
    with pytest.raises((TypeError, ValueError), match=f"^{message}"):
        TokenSteps({"x": 4}, [REFUSED[message]], ["y"])


def test_descriptions_that_do_not_fit_are_refused():
    step = Linear("y", "x", normal(4, 4))
    for description in (({}, [[step]], ["y"]), ({"x": 4}, [], ["x"]), ({"x": 4}, [[step]], [])):
        with pytest.raises(ValueError, match=r"^expected one or more inputs, phases and outputs"):
            TokenSteps(*description)
    with pytest.raises(ValueError, match=r"^outputs: expected one of .*'z'"):
        TokenSteps({"x": 4}, [[step]], ["z"])
    for outputs in (["x"], ["y", "y"]):
        with pytest.raises(ValueError, match=r"^outputs: expected other arrays than the inputs, each once"):
            TokenSteps({"x": 4}, [[step]], outputs)
    with pytest.raises(ValueError, match=r"^inputs: x: expected a whole number of at least 1, got 0"):
        TokenSteps({"x": 0}, [[step]], ["y"])
    with pytest.raises(TypeError, match=r"^outputs: expected several names, got 'y'"):
        TokenSteps({"x": 4}, [[step]], "y")
    with pytest.raises(TypeError, match=r"^phases: expected Linear, Attention, Norm, Take or Stack, got str"):
        TokenSteps({"x": 4}, [["y"]], ["y"])
    rows = [Take("few", "x", (0,))], [Linear("y", "few", normal(4, 4), residual="x")]
    with pytest.raises(ValueError, match=r"^y: residual: expected as many rows as the step's others, got 'x'"):
        TokenSteps({"x": 4}, rows, ["y"])
    with pytest.raises(ValueError, match=r"^y: expected some rows of an array that has them all"):
        TokenSteps({"x": 4}, [[Take("few", "x", (0,))], [Take("y", "few", (0,))]], ["y"])
    rows = [Take("few", "x", (0,)), Linear("wide", "x", normal(3, 4))], [Take("one", "wide", (0,))]
    with pytest.raises(ValueError, match=r"^y: xs: expected an array of 4 channels, got 'one' of 3"):
        TokenSteps({"x": 4}, [*rows, [Stack("y", ("few", "one"))]], ["y"])
    for other in isa.available():
        if other != isa.current():
            foreign = [step], [Linear("z", "y", kernels.pack(normal(4, 4), isa=other))]
            with pytest.raises(ValueError, match=rf"^z: weight: expected one packed for {isa.current()}, as .*{other}"):
                TokenSteps({"x": 4}, foreign, ["z"])
