"""The encoder's shortcut for a canvas with zero padding gives the same bits as encoding the whole canvas."""

import grids
import numpy as np
import pytest
from isas import narrow_parameters

import mobilesam
from mobilesam import kernels
from mobilesam.network.image_encoder import ImageEncoder

SIDE = 1024
# Numbers of filled rows (or columns) of the canvas. Photos of 16:9, 3:2 and 4:3 fill 576, 683 and 768 rows.
# The encoder's shortcut does not apply to 900 filled rows.
FILLED = (1, 4, 100, 575, 576, 577, 683, 768, 900)


PAIRS = [pytest.param((name, "fp32"), id=name) for name in kernels.isa.available()] + narrow_parameters("bf16", "int8")


@pytest.fixture(scope="module", params=grids.first(PAIRS))
def encoder(request: pytest.FixtureRequest) -> ImageEncoder:
    name, precision = request.param
    with kernels.isa.use(name):
        return mobilesam.load(precision=precision).image_encoder


@pytest.mark.parametrize("axis", grids.first([0, 1]))
def test_stages_0_and_1_give_the_whole_canvas_to_the_bit(encoder: ImageEncoder, axis: int):
    """The canvas is noise. All rows and columns differ, so copying a wrong row or column is detected."""
    canvas, partial = np.random.default_rng(axis).normal(size=(SIDE, SIDE, 3)).astype(np.float32), 0
    for filled in sorted(FILLED, reverse=True):
        (canvas if axis == 0 else canvas.swapaxes(0, 1))[filled:] = 0
        saved = encoder.partial_canvas[axis](canvas, filled)
        if saved is None:
            continue
        partial += 1
        whole = encoder.patch_embed(canvas, encoder.threads)
        for layer in encoder.layers[:2]:
            whole = layer(whole, encoder.threads)
        np.testing.assert_array_equal(saved, whole, err_msg=f"filled {filled}")
    assert partial == len(FILLED) - 1


def test_an_embedding_does_not_depend_on_the_shortcut(encoder: ImageEncoder):
    canvas = np.zeros((SIDE, SIDE, 3), np.float32)
    canvas[:576] = np.random.default_rng(2).normal(size=(576, SIDE, 3))
    np.testing.assert_array_equal(encoder(canvas, (576, SIDE)), encoder(canvas))
    np.testing.assert_array_equal(
        encoder(canvas.swapaxes(0, 1).copy(), (SIDE, 576)), encoder(canvas.swapaxes(0, 1).copy())
    )
