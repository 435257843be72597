"""Masks of whole photos agree with MobileSAM in PyTorch, on every ISA of the host and with any number of threads."""

import grids
import numpy as np
import pytest
from golden import PHOTOS, PROMPTS, Golden, iou, undecided

import mobilesam
from mobilesam import kernels


@pytest.fixture(scope="module", params=PHOTOS)
def photo(request, model):
    """The golden outputs of a photo (from MobileSAM in PyTorch), and the photo's embedding."""
    return Golden(request.param), model.encode(PHOTOS[request.param])


def test_embedding(photo):
    golden, embedding = photo
    golden.check_embedding(embedding.features)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_prompt_and_its_refinement(photo, prompt):
    golden, embedding = photo
    golden.check_prompt(embedding, prompt)


def masks(isa_name: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Compute the masks of every prompt on one ISA and check them against the golden outputs.

    Returns:
        For each prompt, the masks, and the pixels whose logit is so close to 0 that rounding decides its sign.
    """
    golden = Golden("rocket")
    with kernels.isa.use(isa_name):
        embedding = mobilesam.load().encode(PHOTOS["rocket"])
        golden.check_embedding(embedding.features)
        results = [golden.check_prompt(embedding, prompt) for prompt in PROMPTS]
        return [(result.masks, undecided(embedding, result)) for result in results]


@pytest.fixture(scope="module")
def masks_of_first_isa():
    return masks(kernels.isa.available()[0])


@pytest.mark.parametrize("name", kernels.isa.available()[1:])
def test_every_isa_gives_the_same_masks(name, masks_of_first_isa):
    for (one, undecided_one), (other, undecided_other) in zip(masks_of_first_isa, masks(name), strict=True):
        assert iou(one, other, except_at=undecided_one | undecided_other).min() >= 0.9999


@pytest.mark.parametrize("name", grids.first(kernels.isa.available()))
def test_any_number_of_threads_gives_the_same_bits(name):
    results = []
    for threads in (1, 2, 3, 4):
        with kernels.isa.use(name):
            embedding = mobilesam.load(threads=threads).encode(PHOTOS["coffee"])
            results.append((embedding.features, embedding.segment([(300, 200)])))
    (features, first), *others = results
    for other_features, other in others:
        np.testing.assert_array_equal(other_features, features)
        np.testing.assert_array_equal(other.low_res, first.low_res)
        np.testing.assert_array_equal(other.scores, first.scores)
        np.testing.assert_array_equal(other.masks, first.masks)
