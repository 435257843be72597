"""Threads, processes and pickles that share one embedding."""

import copy
import os
import pickle
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from itertools import chain, zip_longest
from multiprocessing import get_context

import numpy as np
import pytest
from golden import PHOTOS
from processes import output, run

import mobilesam
from mobilesam import kernels
from mobilesam.api.decoding import decoder_image
from mobilesam.checkpoints.errors import CheckpointError
from mobilesam.network import low_rank_image

CHELSEA = PHOTOS["chelsea"]


def fresh(embedding: mobilesam.Embedding) -> mobilesam.Embedding:
    """Return a copy of the embedding for which the decoder has not cached any projections of the image."""
    same = embedding.original_size, embedding.input_size, embedding.model
    return mobilesam.Embedding(embedding.features.copy(), *same)


def assert_same(got: mobilesam.Segmentation, expected: mobilesam.Segmentation) -> None:
    np.testing.assert_array_equal(got.low_res, expected.low_res)
    np.testing.assert_array_equal(got.scores, expected.scores)


def test_a_first_click_by_many_threads_at_once_projects_the_image_once(embedding, monkeypatch):
    embedding.segment([(9, 9)])  # makes the model compute its constants
    calls, together, project = [], threading.Barrier(12), low_rank_image.project

    def counted(*arguments, **options):
        calls.append(1)
        return project(*arguments, **options)

    def click(x: int) -> mobilesam.Segmentation:
        together.wait(60)
        return image.segment([(x, 99)])

    monkeypatch.setattr(low_rank_image, "project", counted)
    image = fresh(embedding)
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(click, range(20, 260, 20)))
    assert len(calls) == 1
    for x, answer in zip(range(20, 260, 20), answers, strict=True):
        assert_same(answer, embedding.segment([(x, 99)]))


def test_two_calls_of_segment_many_in_turns_have_the_bits_of_one(embedding):
    prompts = [
        [{"points": [(20 + 40 * i, 140)]} for i in range(9)],
        [{"points": [(30 + 40 * i, 90), (9, 9)]} for i in range(9)],
    ]
    alone = [list(embedding.segment_many(some)) for some in prompts]
    turns = zip_longest(*(embedding.segment_many(some) for some in prompts))
    for got, expected in zip(chain.from_iterable(turns), chain.from_iterable(zip(*alone)), strict=True):
        assert_same(got, expected)


def test_candidates_are_drawn_before_others_are_answered(model, embedding):
    prompts = [model.prompt_encoder.sparse(np.float32([[x, 50]]), np.ones(1, np.int32), None) for x in range(9)]
    candidates = list(model.mask_decoder.candidates(decoder_image(model.network, embedding), prompts, multimask=True))
    with pytest.raises(RuntimeError, match="drawn before the plan decodes"):
        candidates[0].draw()


def test_maps_of_images_are_kept_up_to_a_number_and_made_again():
    model = mobilesam.load(images=1)
    first, second = (model.encode(PHOTOS[name]) for name in ("chelsea", "astronaut"))
    expected = first.segment([(99, 99)])
    second.segment([(99, 99)])
    maps = model.mask_decoder.low_rank.maps
    assert len(maps._images) == 1
    assert_same(first.segment([(99, 99)]), expected)
    del second
    first = None
    assert len(maps._images) == 1  # the segmentation keeps its embedding alive
    expected = None
    assert len(maps._images) == 0
    for images in (0, -1, 1.5, True, "2"):
        with pytest.raises(ValueError, match=r"^images: expected a whole number of at least 1"):
            mobilesam.load(images=images)


FORK_DURING_FIRST_USE = """
import os, signal, sys, threading
import mobilesam
from mobilesam import kernels
from mobilesam.network import low_rank_image

model = mobilesam.load(threads=1)
embedding = model.encode({photo!r})
inside, go_on = threading.Event(), threading.Event()
make = low_rank_image.decoder_constants

def slowly(*arguments, **options):
    inside.set()
    go_on.wait(60)
    return make(*arguments, **options)

low_rank_image.decoder_constants = slowly
first = threading.Thread(target=lambda: embedding.segment([(99, 99)]))
first.start()
assert inside.wait(60)
child = os.fork()
if not child:
    signal.alarm(60)
    low_rank_image.decoder_constants = make
    answer = embedding.segment([(99, 99)])
    os._exit(0 if answer.low_res.shape == (3, 256, 256) else 1)
go_on.set()
first.join()
status = os.waitpid(child, 0)[1]
print("status", status)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_forked_during_a_first_use_answers():
    assert "status 0" in run(FORK_DURING_FIRST_USE.format(photo=str(CHELSEA))).stdout


def test_pickles_and_copies_hold_the_features_and_name_the_model(model, embedding):
    answer = embedding.segment([(99, 99)])
    _ = answer.masks  # computes the masks, which are not pickled; a copy computes them again
    features = embedding.features.nbytes
    assert len(pickle.dumps(embedding)) < features + 10_000
    assert len(pickle.dumps(answer)) < features + answer.low_res.nbytes + 20_000
    for twin in (pickle.loads(pickle.dumps(answer)), copy.deepcopy(answer)):
        assert twin.embedding.model.checkpoint.sha256 == model.checkpoint.sha256
        assert not twin.embedding.features.flags.writeable
        np.testing.assert_array_equal(twin.masks, answer.masks)
        assert_same(twin.embedding.segment([(20, 20)]), embedding.segment([(20, 20)]))
    assert copy.deepcopy(model).checkpoint.sha256 == model.checkpoint.sha256


def test_an_answer_of_another_process_finds_its_model():
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        answer = pool.submit(mobilesam.segment, CHELSEA, [(99, 99)]).result(120)
    assert_same(answer, mobilesam.segment(CHELSEA, [(99, 99)]))
    answer.embedding.segment([(20, 20)])


UNKNOWN = """
import pickle, sys
try:
    pickle.loads(open({path!r}, "rb").read())
except Exception as error:
    print(type(error).__name__, error)
"""


def test_a_model_that_is_nowhere_is_named(embedding, tmp_path, monkeypatch):
    monkeypatch.setitem(embedding.model.checkpoint.__dict__, "sha256", "0123456789abcdef" * 4)
    (tmp_path / "embedding.pickle").write_bytes(pickle.dumps(embedding))
    said = run(UNKNOWN.format(path=str(tmp_path / "embedding.pickle"))).stdout
    assert said.startswith(CheckpointError.__name__)
    assert "0123456789abcdef" in said
    assert "mobilesam.load(" in said


UNPICKLE = """
import pickle, sys
from mobilesam import kernels
from mobilesam.kernels.core import isa
model = pickle.loads(open({path!r}, "rb").read())
weight = model.image_encoder.neck.conv1.weight
print(kernels.isa.current(), isa.name_of(weight.isa))
"""


def test_an_unpickled_model_packs_its_weights_for_the_isa_of_its_process(model, tmp_path):
    (tmp_path / "model.pickle").write_bytes(pickle.dumps(model))
    for name in kernels.isa.available():
        said = output(UNPICKLE.format(path=str(tmp_path / "model.pickle")), MOBILESAM_ISA=name)
        assert said == f"{name} {name}"
