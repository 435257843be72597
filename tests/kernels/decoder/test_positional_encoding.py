"""Tests of `encode_positions`: sines and cosines of a point's position, plus the embedding of the point's kind."""

import numpy as np
import pytest
from grids import any_case
from hypothesis import given
from hypothesis import strategies as st
from isas import every_isa  # noqa: F401
from tolerances import U, assert_same, assert_within, normal

from mobilesam import kernels
from mobilesam.kernels import reference

pytestmark = pytest.mark.usefixtures("every_isa")


def alone(xy, size, gaussian):
    """Encode one point. The embedding of its kind is zero."""
    return kernels.encode_positions(
        xy, size, gaussian, np.zeros(1, np.intp), np.zeros((1, 2 * gaussian.shape[1]), np.float32)
    )


def check(xy, size, gaussian, *embedded, **options) -> None:
    """Compare with the reference.

    The bound allows three roundings of the phase, an error of 2e-7 of sine and cosine, and one rounding of the sum.
    """
    got = kernels.encode_positions(xy, size, gaussian, *embedded, **options)
    expected = reference.encode_positions(xy, size, gaussian, *embedded)
    terms = (abs(2 * (np.asarray(xy, np.float64) + 0.5) / size - 1) + 1) @ abs(np.asarray(gaussian, np.float64))
    bound = 2e-7 + 2 * np.pi * 3 * U * np.tile(terms, 2) + 2 * U * abs(expected)
    assert_within(got, expected, bound)


@any_case(40)
@given(
    count=st.integers(1, 200),
    frequencies=st.integers(1, 40),
    size=st.sampled_from((1, 7, 64, 1024)),
    spread=st.sampled_from((0.1, 1.0, 30.0)),
    threads=st.integers(1, 4),
)
def test_any_positions(count, frequencies, size, spread, threads):
    xy = np.float32(size) * np.random.default_rng(count).random((count, 2), np.float32)
    gaussian = np.float32(spread) * normal(2, frequencies)
    check(xy, size, gaussian, np.arange(count) % 5 - 1, normal(4, 2 * frequencies), threads=threads)


def test_positions_at_quarter_turns_and_far_beyond():
    """The phases include multiples of a quarter turn, where sine or cosine is 0, and thousands of turns."""
    turns = np.float32([0, 0.25, 0.5, 0.75, 1, -0.25, 0.125, -0.125, 0.375, 1e-6, -1e-30, 4095.25, -9999.5])
    xy, gaussian = np.float32([[1.5, 0.5]]), np.stack([turns, np.zeros_like(turns)])  # normalized x and y are 1 and 0
    y = alone(xy, 2, gaussian)
    exact = 2 * np.pi * np.asarray(turns, np.float64)
    assert_within(y[0], np.concatenate([np.sin(exact), np.cos(exact)]), 2e-7)


def test_positions_beyond_all_measure_stay_sines_and_cosines():
    """A caller of `SamPredictor` may pass points far outside the image."""
    powers = np.float32(2.0) ** np.arange(18, 127, dtype=np.float32)
    y = alone(np.float32([[1.5, 0.5]]), 2, np.stack([powers, 0 * powers]))
    assert np.abs(y).max() <= 1 + 4 * U
    assert_within(np.square(y).reshape(2, -1).sum(axis=0), np.ones(len(powers)), 8 * U)


def test_kinds_may_be_a_view():
    xy, gaussian, embeddings, kinds = normal(3, 2), normal(2, 10), normal(4, 20), np.array([2, 9, -1, 9, 0])
    expected = kernels.encode_positions(xy, 64, gaussian, np.array([2, -1, 0]), embeddings)
    assert_same(kernels.encode_positions(xy, 64, gaussian, kinds[::2], embeddings), expected)
    assert_same(kernels.encode_positions(xy, 64, gaussian, kinds[4::-2][::-1], embeddings), expected)
    records = np.zeros(3, [("kind", np.intp), ("other", np.int32)])  # the field `kind` has a stride of 12 bytes
    records["kind"] = 2, -1, 0
    assert_same(kernels.encode_positions(xy, 64, gaussian, records["kind"], embeddings), expected)


def test_positions_have_the_same_bits_alone_and_on_any_threads():
    xy, gaussian, embeddings = 50 * abs(normal(150, 2)), normal(2, 128), normal(5, 256)
    kinds = np.arange(150) % 5 - 1
    expected = kernels.encode_positions(xy, 1024, gaussian, kinds, embeddings, threads=1)
    for threads in (2, 3, 4):
        assert_same(kernels.encode_positions(xy, 1024, gaussian, kinds, embeddings, threads=threads), expected)
    for i in (0, 1, 149):
        alone = kernels.encode_positions(xy[i : i + 1], 1024, gaussian, kinds[i : i + 1], embeddings)
        assert_same(alone[0], expected[i])


def test_a_point_that_lies_nowhere_is_its_embedding():
    embeddings = normal(3, 20)
    y = kernels.encode_positions(np.float32([[np.inf, 0]]), 64, normal(2, 10), np.array([-1]), embeddings)
    assert_same(y[0], embeddings[2])


def test_positions_that_do_not_fit_are_refused():
    xy, gaussian, kinds, embeddings = normal(3, 2), normal(2, 10), np.zeros(3, np.intp), normal(4, 20)
    for message, arguments in {
        "xy: expected shape .N, 2., got .2, 3.": (normal(2, 3), 64, gaussian, kinds, embeddings),
        "size: expected a whole number of at least 1, got 0": (xy, 0, gaussian, kinds, embeddings),
        "gaussian: expected shape .2, F.": (xy, 64, normal(3, 10), kinds, embeddings),
        r"kinds: expected intp of shape .3,., got int64 of shape .2,.": (xy, 64, gaussian, kinds[:2], embeddings),
        "kinds: expected -1 to 3, got 4": (xy, 64, gaussian, kinds + 4, embeddings),
        "kinds: expected -1 to 3, got -2": (xy, 64, gaussian, kinds - 2, embeddings),
        r"kinds: expected intp of shape .3,., got int32": (xy, 64, gaussian, kinds.astype(np.int32), embeddings),
        r"kinds: expected intp of shape .3,., got list": (xy, 64, gaussian, [0, 0, 0], embeddings),
        "embeddings: expected shape .K, 20.": (xy, 64, gaussian, kinds, normal(4, 21)),
    }.items():
        with pytest.raises(ValueError, match=f"^{message}"):
            kernels.encode_positions(*arguments)
