"""Winograd's 3×3 convolution: rounding bounds for many sizes, packed weights, errors."""

import numpy as np
import pytest
from isas import every_isa  # noqa: F401
from tolerances import U, assert_same, assert_within, normal

from mobilesam import kernels
from mobilesam.kernels import reference

pytestmark = pytest.mark.usefixtures("every_isa")

A = np.array([[1, 1, 1, 0], [0, 1, -1, -1]])
B = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])


def in_tiles(x: np.ndarray) -> np.ndarray:
    """Return the 4×4 input pixels of each 2×2 output tile, (tile rows, tile columns, 4, 4, C), for an image (H, W, C).

    Pixels outside the image are zeros.
    """
    height, width, _ = x.shape
    padded = np.pad(x, ((1, 1 + height % 2), (1, 1 + width % 2), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (4, 4), axis=(0, 1))
    return windows[::2, ::2].transpose(0, 1, 3, 4, 2)


def bound(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Error bound of `winograd_conv3x3`.

    The absolute values of an output's terms add up to |A'| ((|G||g||G'|) ⊙ (|B'||d||B|)) |A|, summed over the channels,
    for the filter g, the input tile d, and the transform matrices A, B and G. Each term is rounded twice in the
    transform with B, once when its filter is stored, C times in the sum over channels, and four times in the transform
    with A.
    """
    filters = np.einsum("ip,opqc,jq->ijoc", abs(G), abs(weight), abs(G), optimize=True)
    pixels = np.einsum("pi,rspqc,qj->rsijc", abs(B).T, abs(in_tiles(x)), abs(B).T, optimize=True)
    products = np.einsum("rsijc,ijoc->rsijo", pixels, filters, optimize=True)
    y = np.einsum("ai,rsijo,bj->raosb", abs(A), products, abs(A), optimize=True)
    rows, _, channels, columns, _ = y.shape
    y = y.transpose(0, 1, 3, 4, 2).reshape(2 * rows, 2 * columns, channels)[: x.shape[0], : x.shape[1]]
    rounded = (weight.shape[-1] + 7) * U
    return rounded / (1 - rounded) * y


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (3, 5), (4, 63), (5, 64), (3, 65), (2, 131)])
@pytest.mark.parametrize(("channels", "outputs"), [(16, 32), (48, 96), (272, 32)])
def test_equals_the_convolution(size: tuple[int, int], channels: int, outputs: int):
    x, weight = normal(*size, channels), normal(outputs, 3, 3, channels)
    expected = reference.conv2d(x, weight, pad=1)
    assert_within(kernels.winograd_conv3x3(x, weight), expected, bound(x, weight))


def test_the_bound_is_small():
    """The error bound is small compared with the result. A large bound would hide errors."""
    x, weight = normal(6, 7, 64), normal(32, 3, 3, 64)
    assert bound(x, weight).max() < 2e-4 * abs(reference.conv2d(x, weight, pad=1)).max()


def test_the_networks_own_size():
    x, weight = normal(64, 64, 256), normal(256, 3, 3, 256)
    expected = kernels.conv2d(x, weight, pad=1)
    difference = np.linalg.norm(kernels.winograd_conv3x3(x, weight) - expected) / np.linalg.norm(expected)
    assert difference < 16 * U  # an output is a sum over 256 channels, whose rounding error is of order √256·U


def test_wrong_shapes_are_refused():
    x, packed = normal(5, 6, 32), kernels.pack_winograd(normal(32, 3, 3, 32))
    for arguments, name in (
        ((normal(5, 6, 24), normal(32, 3, 3, 24)), "x"),
        ((x, normal(33, 3, 3, 32)), "weight"),
        ((x, normal(32, 3, 5, 32)), "weight"),
        ((normal(5, 6, 48), packed), "weight"),
    ):
        with pytest.raises(ValueError, match=rf"^{name}: [^\n]*$"):
            kernels.winograd_conv3x3(*arguments)


def test_packed_weights_are_a_snapshot():
    x, weight = normal(5, 6, 32), normal(32, 3, 3, 32)
    expected, packed = kernels.winograd_conv3x3(x, weight), kernels.pack_winograd(weight)
    weight[...] = np.nan
    assert_same(kernels.winograd_conv3x3(x, packed), expected)
