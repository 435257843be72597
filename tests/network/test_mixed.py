"""The constants of updates by many tokens: two forms as squares of the same sums, whatever the weights are like."""

import dataclasses

import numpy as np
import pytest

import mobilesam
from mobilesam import kernels
from mobilesam.network.mixed import _as_squares

E, CHANNELS = 24, 40


def basis(rng: np.random.Generator, rank: int, repeated: float = 1.0) -> np.ndarray:
    """(E, CHANNELS) of a rank; the second half of the rows are the first's but for ``repeated``."""
    rows = rng.standard_normal((E, rank)) @ rng.standard_normal((rank, CHANNELS))
    rows[E // 2 :] = rows[: E // 2] * (1 - repeated) + rows[E // 2 :] * repeated
    return rows


@pytest.mark.parametrize("repeated", [1.0, 1e-3, 1e-5, 0.0])
@pytest.mark.parametrize("sizes", [(1, 1), (1, 1e6), (1e-9, 1e3), (1, 0), (0, 0)], ids=str)
@pytest.mark.parametrize("ranks", [(E, E), (3, E), (5, 2)], ids=str)
def test_two_forms_as_squares_of_the_same_sums(ranks, sizes, repeated):
    """No weight is negative, so that no sum cancels; a form errs by float64's roundings of its own terms.

    Where it is zero, by those of the other, which then has its size.
    """
    rng = np.random.default_rng(1)
    bases = [basis(rng, rank, repeated) * size for rank, size in zip(ranks, sizes, strict=True)]
    rows, weights = _as_squares(*bases)
    grams = [one @ one.T for one in bases]
    most = max(np.trace(gram) for gram in grams)
    assert np.all(weights >= 0)
    for gram, own in zip(grams, weights, strict=True):
        bound = E * CHANNELS * 2.0**-52 * (np.trace(gram) or most)
        np.testing.assert_allclose(rows.T * own @ rows, gram, rtol=0, atol=bound)


def test_forms_that_do_not_fit_are_refused():
    model = mobilesam.load(threads=1)
    decoder = model.mask_decoder
    image = model.encode(np.zeros((64, 64, 3), np.uint8))._image_tokens.projected
    first, tokens = decoder.mixed.first, np.zeros((16, 128), np.float32)
    wrong = {
        "update.rows": {"rows": decoder.mixed.second.rows},
        "update.forms": {"forms": decoder.mixed.second.rows},
        "update.form_weights": {"form_weights": first.form_weights[:-1]},
    }
    if "avx2" in kernels.isa.available() and kernels.isa.current() != "avx2":
        wrong["update.forms: packed for ISA avx2"] = {"forms": kernels.pack_rows(first.forms.rows, isa="avx2")}
    for message, change in wrong.items():
        update = dataclasses.replace(first, **change)
        with pytest.raises(ValueError, match=f"^{message}"):
            kernels.update_image_mixed(image.maps, image.pe_maps, update, tokens, tokens, tokens)
