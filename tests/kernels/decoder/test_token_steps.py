"""Tests of a plan's steps on tokens: linear layers, attention, norms, sums and selection of tokens."""

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from grids import any_case
from hypothesis import given
from hypothesis import strategies as st
from isas import every_isa  # noqa: F401
from plans import Exact, Recording, arrays
from tolerances import (
    assert_narrow_sum,
    assert_relative_l2,
    assert_same,
    assert_within,
    integers,
    layer_norm_bound,
    normal,
    pass_bound,
    whole_numbers,
)

from mobilesam import kernels
from mobilesam.kernels import Plan, isa, reference

pytestmark = pytest.mark.usefixtures("every_isa")

Steps = Callable[..., Sequence[Any]]  # a function of a Plan (or Exact) and arrays, which returns results


def recorded(steps: Steps, x: Sequence[np.ndarray], *, threads: int | None = None) -> list[np.ndarray]:
    """Record the steps in a plan and run the plan on the arrays x."""
    made = Recording(threads=threads)
    return made.run(*steps(made.plan, *(made.give(array) for array in x)))


def layer(n: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    return normal(n, k) / np.float32(k**0.5), normal(n)


def attend_self(
    channels: int, heads: int, width: int, pack: Callable[[np.ndarray], Any] = lambda weight: weight
) -> Steps:
    """Return a function that records a self-attention: projections, attention, output projection, norm and a sum."""
    e, c = heads * width, channels
    q, k, v, out = ((pack(weight), bias) for weight, bias in (layer(e, c), layer(e, c), layer(e, c), layer(c, e)))

    def steps(plan, x, source, residual):
        queries = plan.linear(x, *q, scale=width**-0.5)
        mixed = plan.attention(queries, plan.linear(x, *k), plan.linear(source, *v), heads=heads)
        y = plan.layer_norm(plan.linear(mixed, *out, residual=residual), normal(c), normal(1, c)[0])
        return y, plan.add(y, x)

    return steps


def check_self_attention(prompts: int, tokens: int, channels: int, heads: int, width: int, **options) -> None:
    """Compare a self-attention with Exact.

    The bound covers the sums of projections, scores, softmax, weighted sum of values, output projection and LayerNorm.
    The factor √channels is the order of the scores.
    """
    steps, x = attend_self(channels, heads, width), arrays(prompts, tokens, [channels] * 3)
    bound = channels**0.5 * pass_bound(channels, channels, width, tokens, heads * width, channels)
    for got, expected in zip(recorded(steps, x, **options), steps(Exact, *x), strict=True):
        assert_relative_l2(got, expected, bound)


@pytest.mark.parametrize(
    "sizes",
    [(1, 7, 256, 8, 32), (4, 26, 256, 8, 32), (3, 1, 5, 1, 1), (2, 65, 33, 3, 17), (1, 129, 48, 2, 40)],
    ids=str,
)
def test_self_attention(sizes):
    check_self_attention(*sizes)


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
    check_self_attention(prompts, tokens, channels, heads, width, threads=threads)


def test_the_same_bits_alone_packed_and_on_any_threads():
    x, plain = arrays(3, 70, [48] * 3), attend_self(48, 2, 24)
    expected = recorded(plain, x, threads=1)
    for threads in (1, 2, 3, 4):
        for got, wanted in zip(recorded(attend_self(48, 2, 24, kernels.pack), x, threads=threads), expected):
            assert_same(got, wanted)
    for i in range(3):
        for got, wanted in zip(recorded(plain, [array[i : i + 1] for array in x]), expected, strict=True):
            assert_same(got[0], wanted[i])


# --- attention ---


def attend(heads: int) -> Steps:
    return lambda plan, q, k, v: [plan.attention(q, k, v, heads=heads)]


def queries_and_keys(prompts: int, m: int, n: int, heads: int, width: int) -> list[np.ndarray]:
    """Return queries of m tokens, scaled by 1/√width, and keys and values of n tokens."""
    (q,), (k, v) = arrays(prompts, m, [heads * width]), arrays(prompts, n, [heads * width] * 2)
    return [q * np.float32(width**-0.5), k, v]


@any_case(50)
@given(
    prompts=st.integers(1, 3),
    sizes=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    heads=st.integers(1, 5),
    width=st.integers(1, 37),
    threads=st.integers(1, 4),
)
def test_any_attention(prompts, sizes, heads, width, threads):
    """The error bound covers the sums of scores, softmax and the weighted sum of values."""
    m, n = sizes
    x = queries_and_keys(prompts, m, n, heads, width)
    (got,), (expected,) = recorded(attend(heads), x, threads=threads), attend(heads)(Exact, *x)
    assert_relative_l2(got, expected, pass_bound(width, n, n))


@pytest.mark.parametrize(
    "sizes", [(1, 4096), (4096, 1), (127, 129), (128, 26), (129, 7), (7, 4096), (4096, 26)], ids=str
)
def test_attention_between_a_prompt_and_an_image(sizes):
    """A unit of work has 64 queries. The numbers of queries are near multiples of 64."""
    x = queries_and_keys(1, *sizes, 8, 16)
    (got,), (expected,) = recorded(attend(8), x), attend(8)(Exact, *x)
    assert_relative_l2(got, expected, pass_bound(16, sizes[1], sizes[1]))


def test_attention_picks_the_one_matching_key():
    """Scores of matching keys are in the thousands, so the softmax weights of all other keys underflow to 0."""
    k, v = 100 * np.eye(13, 16, dtype=np.float32)[None], normal(1, 13, 16)
    (y,) = recorded(attend(1), [k, k, v])
    assert_same(y, v)


def test_sharp_scores():
    """Attention scores exceed ±1000, so the softmax selects one token."""
    eye = np.eye(16, dtype=np.float32)

    def steps(plan, x, source):
        q, k, v = plan.linear(x, eye * 50), plan.linear(x, eye), plan.linear(source, *layer(16, 16))
        mixed = plan.attention(q, k, v, heads=1)
        return [plan.layer_norm(plan.linear(mixed, *layer(16, 16)), normal(16), normal(1, 16)[0])]

    x = arrays(1, 12, [16] * 2)
    assert_relative_l2(recorded(steps, x)[0], steps(Exact, *x)[0], 1000 * pass_bound(16, 16, 12, 16))


def test_attention_among_some_tokens_without_weights():
    def steps(plan, x):
        some = plan.take(x, [4, 1, 2])
        return [plan.attention(plan.linear(some, np.eye(24, dtype=np.float32), scale=8**-0.5), some, some, heads=3)]

    x = arrays(2, 6, [24])
    (got,), (expected,) = recorded(steps, x), steps(Exact, *x)
    assert got.shape == (2, 3, 24)
    assert_relative_l2(got, expected, 24**0.5 * pass_bound(8, 3))


# --- linear layers ---


@any_case(40)
@given(
    batch=st.lists(st.integers(1, 4), max_size=2),
    m=st.integers(1, 40),
    n=st.integers(1, 90),
    k=st.integers(1, 70),
    with_bias=st.booleans(),
    with_residual=st.booleans(),
    activation=st.sampled_from([None, "relu"]),
    scale=st.sampled_from([1.0, 0.25, -3.0]),
    threads=st.integers(1, 4),
)
def test_any_linear_is_exact(batch, m, n, k, with_bias, with_residual, activation, scale, threads):
    """Sums of small integers are exact in any order and precision. For int8, each row contains a 127."""
    bias, residual = integers(n) if with_bias else None, integers(*batch, m, n) if with_residual else None
    for precision in isa.precisions():
        make = integers if precision == "fp32" else partial(whole_numbers, precision)
        x, weight = make(*batch, m, k), make(n, k)
        made = Recording(threads=threads)
        y = made.plan.linear(
            made.give(x), kernels.pack(weight, precision=precision), bias, activation=activation, scale=scale,
            residual=None if residual is None else made.give(residual),
        )  # fmt: skip
        expected = scale * reference.linear(x, weight, bias, activation=activation, residual=residual)
        assert np.array_equal(made.run(y)[0], expected)


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
    rows = sorted({0, tokens // 2, tokens - 1}, reverse=True)

    def steps(plan, x, residual):
        y = plan.linear(x, *layer(n, k), activation=activation, residual=residual, scale=scale)
        normed = plan.layer_norm(plan.take(y, rows), normal(n), normal(1, n)[0], eps=1e-2)
        return plan.add(normed, plan.take(residual, rows)), y

    x = arrays(prompts, tokens, (k, n))
    (moved, y), (wanted, expected) = recorded(steps, x, threads=threads), steps(Exact, *x)
    gelus = int(activation == "gelu")
    assert_relative_l2(y, expected, 4 * pass_bound(k, gelus=gelus))
    # The norm divides values of about 4 by a standard deviation of at least √eps = 0.1.
    assert_relative_l2(moved, wanted, 4 * pass_bound(k, n, gelus=gelus) / 0.1)


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 65, 67, 37), (1, 200, 96, 96), (3, 7, 33, 129)], ids=str)
def test_weights_in_any_precision(shape):
    prompts, tokens, n, k = shape
    (x, residual), (weight, bias) = arrays(prompts, tokens, (k, n)), layer(n, k)
    for precision in isa.precisions():
        made = Recording()
        packed, more = kernels.pack(weight, precision=precision), made.give(residual)
        (got,) = made.run(made.plan.linear(made.give(x), packed, bias, activation="gelu", residual=more))
        if precision == "fp32":
            expected = reference.linear(x, weight, bias, activation="gelu", residual=residual)
            assert_relative_l2(got, expected, pass_bound(k + 2, gelus=1))
        else:
            assert_narrow_sum(got, precision, x, weight, bias, residual=residual, activation="gelu")


def test_weights_of_several_precisions():
    """One plan has products with weights in several precisions. The packed A of each must fit in scratch memory."""
    x, choices = arrays(1, 200, [96] * 3), isa.precisions()
    expected = recorded(attend_self(96, 3, 32), x)[0]
    for i in range(len(choices)):
        chosen = iter(choices[(i + j) % len(choices)] for j in range(4))
        steps = attend_self(96, 3, 32, lambda weight: kernels.pack(weight, precision=next(chosen)))  # noqa: B023
        got = recorded(steps, x)[0]
        assert np.linalg.norm(got - expected) < 0.2 * np.linalg.norm(expected), choices[i:]


def mlps(count: int, *widths: int) -> Steps:
    """Return a function that records `count` independent MLPs, each on one token."""

    def steps(plan, x):
        xs = [plan.take(x, [i]) for i in range(count)]
        for at, (k, n) in enumerate(pairwise(widths)):
            xs = [plan.linear(x, *layer(n, k), activation="relu" if at < len(widths) - 2 else None) for x in xs]
        return xs

    return steps


@pytest.mark.parametrize("sizes", [(4, 1, (256, 256, 256, 32)), (1, 9, (7, 3)), (3, 2, (33, 65, 1, 17, 4))], ids=str)
def test_mlps_side_by_side(sizes):
    count, prompts, widths = sizes
    steps, x = mlps(count, *widths), arrays(prompts, count + 2, widths[:1])
    got = recorded(steps, x, threads=1)
    for y, wanted in zip(got, steps(Exact, *x), strict=True):
        assert y.shape == (prompts, 1, widths[-1])
        assert_relative_l2(y, wanted, widths[0] ** 0.5 * pass_bound(*widths[:-1]))
    for threads in (2, 3, 4):
        for y, same in zip(recorded(steps, x, threads=threads), got, strict=True):
            assert_same(y, same)


# --- norms, sums and selected tokens ---


@any_case(40)
@given(
    shape=st.lists(st.integers(1, 9), max_size=2),
    channels=st.integers(1, 300),
    eps=st.sampled_from([1e-5, 1e-2, 1.0]),
    threads=st.integers(1, 4),
)
def test_any_norm_and_sum(shape, channels, eps, threads):
    x, weight, bias = normal(*shape, channels), normal(channels), normal(1, channels)[0]
    made = Recording(threads=threads)
    given_x = made.give(x)
    normed = made.plan.layer_norm(given_x, weight, bias, eps=eps)
    y, moved = made.run(normed, made.plan.add(normed, given_x))
    assert_within(y, reference.layer_norm(x, weight, bias, eps=eps), layer_norm_bound(x, weight, bias, eps=eps))
    assert_same(moved, y + x)


@pytest.mark.parametrize(("prompts", "tokens", "threads"), [(1, 3, 1), (4, 5, 2), (3, 30, 3)])
def test_rows_are_taken_in_any_order(prompts, tokens, threads):
    """Tokens are copied exactly, and a token may be selected twice."""
    (x,) = arrays(prompts, tokens, [5])
    made = Recording(threads=threads)
    some = made.plan.take(made.give(x), [2, 0])
    more = made.plan.take(some, np.array([1, 1, 0]))
    first, second = made.run(some, more)
    assert_same(first, x[:, [2, 0]])
    assert_same(second, x[:, [0, 0, 2]])


def test_steps_in_place():
    """A linear layer that overwrites its residual and a norm that overwrites its input do not change the result."""
    x, residual = arrays(2, 30, [16, 24])
    weight, bias, norm = normal(24, 16), normal(24), (normal(1, 24)[0], normal(24, 1)[:, 0].copy())
    results = []
    for in_place in (False, True):
        made = Recording()
        given_x, given_residual = made.give(x, residual)
        doubled = made.plan.add(given_residual, given_residual)
        y = made.plan.linear(given_x, weight, bias, residual=doubled, in_place=in_place)
        assert (y == doubled) == in_place
        z = made.plan.layer_norm(y, *norm, in_place=in_place)
        assert (z == y) == in_place
        results += made.run(z)
    assert_same(*results)


# --- unchanged inputs, and errors ---


def test_inputs_and_weights_are_left_as_they_are():
    x, weight = arrays(2, 9, [32] * 3), normal(32, 32)
    before = [array.copy() for array in (*x, weight)]
    for array in (*x, weight):
        array.flags.writeable = False
    recorded(attend_self(32, 2, 16), x)
    recorded(lambda plan, x: [plan.linear(x, weight)], x[:1])
    for array, same in zip((*x, weight), before, strict=True):
        assert_same(array, same)


def test_steps_keep_their_isa():
    """A plan runs on the ISA that was current when the plan was created."""
    made = Recording()
    steps, x = attend_self(64, 2, 32), arrays(1, 9, [64] * 3)
    expected = recorded(steps, x)
    given_x = made.give(*x)
    for other in isa.available():
        if other != isa.current():
            with isa.use(other):
                assert_same(made.run(steps(made.plan, *given_x)[0])[0], expected[0])
            return
    pytest.skip("this CPU has one ISA")


X, NARROW = normal(2, 5, 4), normal(2, 5, 3)
REFUSED: dict[str, Callable[[Plan, Any, Any], object]] = {
    r"linear: x: expected Array, got ndarray": lambda plan, x, _: plan.linear(X, normal(3, 4)),
    r"linear: x: expected Array, got NoneType": lambda plan, x, _: plan.linear(None, normal(3, 4)),
    r"linear: weight: expected shape \(N, 4\), got \(3, 5\)": lambda plan, x, _: plan.linear(x, normal(3, 5)),
    r"linear: weight: expected .*float64": lambda plan, x, _: plan.linear(x, np.zeros((3, 4))),
    r"linear: bias: expected shape \(3,\), got \(4,\)": lambda plan, x, _: plan.linear(x, normal(3, 4), normal(4)),
    r"linear: activation: expected None, 'gelu' or 'relu', got 'tanh'": lambda plan, x, _: plan.linear(
        x, normal(3, 4), activation="tanh"
    ),
    r"linear: residual: expected shape \(2, 5, 3\), got \(2, 5, 4\)": lambda plan, x, _: plan.linear(
        x, normal(3, 4), residual=x
    ),
    r"linear: residual: expected Array, got ndarray": lambda plan, x, _: plan.linear(x, normal(4, 4), residual=X),
    r"linear: scale: expected a finite number, got nan": lambda plan, x, _: plan.linear(x, normal(3, 4), scale=np.nan),
    r"linear: in_place: expected a residual and at most 256 channels of x, got Array.* and 257": lambda plan, x, _: (
        plan.linear(plan.array(2, 5, 257), normal(4, 257), residual=plan.array(2, 5, 4), in_place=True)
    ),
    r"linear: in_place: expected a residual and at most 256 channels of x, got None and 4": lambda plan, x, _: (
        plan.linear(x, normal(3, 4), in_place=True)
    ),
    r"attention: heads: expected a divisor of 4 channels, got 3": lambda plan, x, _: plan.attention(x, x, x, heads=3),
    r"attention: k: expected shape \(2, N, 4\), got \(2, 5, 3\)": lambda plan, x, y: plan.attention(x, y, x, heads=2),
    r"attention: v: expected Array, got NoneType": lambda plan, x, _: plan.attention(x, x, None, heads=2),
    r"attention: q: expected shape \(P, M, E\), got \(5, 4\)": lambda plan, x, _: plan.attention(
        *[plan.array(5, 4)] * 3, heads=2
    ),
    r"layer_norm: weight: expected shape \(4,\), got \(3,\)": lambda plan, x, _: plan.layer_norm(
        x, normal(3), normal(4)
    ),
    r"layer_norm: bias: expected shape \(4,\), got \(3,\)": lambda plan, x, _: plan.layer_norm(x, normal(4), normal(3)),
    r"layer_norm: eps: expected a finite number, got None": lambda plan, x, _: plan.layer_norm(
        x, normal(4), normal(4), eps=None
    ),
    r"add: other: expected shape \(2, 5, 4\) or \(4,\), got \(2, 5, 3\)": lambda plan, x, y: plan.add(x, y),
    r"take: numbers: expected one or more from 0 to 4, got \[0, 5\]": lambda plan, x, _: plan.take(x, [0, 5]),
    r"take: numbers: expected one or more": lambda plan, x, _: plan.take(x, []),
    r"take: numbers: expected a whole number of at least 0, got -1": lambda plan, x, _: plan.take(x, [-1]),
    r"take: numbers: expected a whole number of at least 0, got 0\.5": lambda plan, x, _: plan.take(x, [0.5]),
}


@pytest.mark.parametrize("message", REFUSED)
def test_steps_that_do_not_fit_are_refused(message):
    """The error message names the number of the step, the argument and its value. The plan is unchanged."""
    made = Recording()
    x, narrow = made.give(X, NARROW)
    doubled = made.plan.add(x, x)
    with pytest.raises((TypeError, ValueError), match=f"^step 1, {message}"):
        REFUSED[message](made.plan, x, narrow)
    assert_same(made.run(doubled)[0], 2 * X)


@pytest.mark.parametrize("heads", [0, -1, 1.5, "7", None, (3, 7)])
def test_bad_heads_are_refused(heads):
    made = Recording()
    x = made.give(X)
    with pytest.raises((TypeError, ValueError), match=r"^step 0, attention: heads: ") as error:
        made.plan.attention(x, x, x, heads=heads)
    assert repr(heads) in str(error.value)


def test_weights_packed_for_another_isa_are_refused():
    for other in isa.available():
        if other != isa.current():
            made = Recording()
            with pytest.raises(ValueError, match=rf"^step 0, linear: weight: expected .*{isa.current()}, got {other}"):
                made.plan.linear(made.give(X), kernels.pack(normal(4, 4), isa=other))
