"""Kernels' calls left to a queue, which makes them together, as often as they are wanted."""

import copy
import gc
import pickle
from threading import Thread

import numpy as np
import pytest
from isas import every_isa  # noqa: F401
from scenes import CHANNELS, INNER, SCALE, scene
from tolerances import assert_same, normal

from mobilesam import kernels
from mobilesam.kernels import OnceAttention, OnceUpdate, Queue, Slot, TokenSteps
from mobilesam.kernels.decoder.steps import Linear, Stack, Take
from mobilesam.network.parameters import F32

pytestmark = pytest.mark.usefixtures("every_isa")


def decoded(tokens: F32, steps: TokenSteps, case, *, queue: Queue | None = None, out=None):
    """Tokens (1, T, 32) to what they see of an image, twice updated by them, and to masks of that, call by call."""
    maps, c = case.maps(), case.constants
    keys, rows = steps(tokens, queue=queue)
    looked = kernels.attend_image(maps[0], c.before_at, keys, c.before_bias, queue=queue)
    images, first = kernels.update_image(*maps, c.first, keys, looked, keys, channels=CHANNELS, queue=queue)
    (image,), second = kernels.update_image(*maps, c.second, keys, first, keys, images, channels=CHANNELS, queue=queue)
    weight, ones, zeros = np.eye(32, 16, dtype=np.float32), np.ones(16, np.float32), np.zeros(16, np.float32)
    masks = kernels.upscale_masks(
        (maps[0], c.last_at, (33, 9)), ones, zeros, weight, zeros[:8], rows[0],
        update=image, rows=image.rows, shift=c.last_shift, out=out, queue=queue,
    )  # fmt: skip
    return first, second, masks


@pytest.fixture
def steps() -> TokenSteps:
    own = np.ascontiguousarray(normal(32, 32) * SCALE), np.ascontiguousarray(normal(8, 32))
    phases = [
        [Linear("keys", "x", own[0]), Linear("few", "x", own[1]), Linear("more", "x", -own[1])],
        [Take("a", "few", (1,)), Take("b", "more", (0, 2))],
        [Stack("rows", ("a", "b"))],
    ]
    return TokenSteps({"x": 32}, phases, ["keys", "rows"])


def test_a_queue_gives_the_bits_of_its_calls_made_one_by_one(steps):
    case, tokens, queue = scene(297, 5, 4), normal(1, 5, 32).copy(), Queue()
    queued = decoded(tokens, steps, case, queue=queue)
    gc.collect()  # the queue alone keeps what its calls point to
    for threads in (1, 2, 3):
        tokens[:] = normal(threads, 1, 5, 32)[-1]  # a run reads what is there then
        queue.run(threads=threads)
        for got, expected in zip(queued, decoded(tokens, steps, case), strict=True):
            assert_same(got, expected)


def test_a_queue_is_run_by_one_thread_at_a_time(steps):
    """The others are told so, and leave the answers as they are."""
    case, tokens, queue = scene(297, 5, 4), normal(1, 5, 32).copy(), Queue()
    queued, refused = decoded(tokens, steps, case, queue=queue), []

    def run() -> None:
        for _ in range(50):
            try:
                queue.run(threads=1)
            except RuntimeError as error:
                refused.append(str(error))

    threads = [Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {*refused} <= {"the queue is being run by another thread"}
    for got, expected in zip(queued, decoded(tokens, steps, case), strict=True):
        assert_same(got, expected)


def test_each_run_fills_what_its_slot_holds(steps):
    case, tokens, queue, slot = scene(297, 5, 4), normal(1, 5, 32).copy(), Queue(), Slot((3, 132, 36))
    *_, first = decoded(tokens, steps, case, queue=queue, out=slot)
    assert first is slot.array
    *_, expected = decoded(tokens, steps, case)
    queue.run()
    assert slot.take() is first
    assert_same(first, expected)
    tokens += 1
    queue.run()
    assert_same(first, expected)
    assert_same(slot.take(), decoded(tokens, steps, case)[-1])


def test_prompts_together_are_queued_as_one_by_one():
    case, queue = scene(300, 5, 4), Queue()
    maps, c = case.maps(), case.constants
    asked = normal(3, 5, INNER).copy()
    looked = kernels.attend_image(maps[0], c.before_at, asked, c.before_bias, queue=queue)
    images, seen = kernels.update_image(*maps, c.first, asked, looked, asked, channels=CHANNELS, queue=queue)
    queue.run(threads=2)
    for i in range(3):
        alone = kernels.attend_image(maps[0], c.before_at, asked[i : i + 1], c.before_bias)
        assert_same(looked[i], alone[0])
        (image,), expected = kernels.update_image(
            *maps, c.first, asked[i : i + 1], alone, asked[i : i + 1], channels=CHANNELS
        )
        assert_same(seen[i], expected[0])
        assert_same(images[i].data[:, 0, :256], image.data[:, 0, :256])


def test_updates_of_an_image_that_serves_one_prompt_are_queued():
    queue, tokens = Queue(), normal(1, 5, INNER)[-1].copy()
    x, pe = kernels.turn_image(normal(300, 64)), kernels.turn_image(normal(2, 300, 64)[-1])
    attention = OnceAttention(
        normal(INNER, 64) / 8, np.pad(normal(64, INNER) / 8, [(0, 1), (0, 0)]), normal(1, INNER)[0]
    )
    weight, bias = np.ones(64, np.float32), np.zeros(64, np.float32)
    update = OnceUpdate(np.pad(normal(INNER, 65) / 8, [(0, 0), (0, 31)]), normal(INNER, 64) / 8, bias, weight, bias)
    arguments = x, pe, attention, tokens, update, tokens, tokens
    image, seen = kernels.update_image_once(*arguments, queue=queue)
    for i in range(2):
        tokens[:] = normal(i + 1, 5, INNER)[-1]
        queue.run()
        expected, answer = kernels.update_image_once(*arguments)
        assert_same(image.data, expected.data)
        assert_same(seen, answer)


def test_a_mixed_update_is_queued_too():
    case = scene(300, 5, 4)
    maps, (keys, values, queries) = case.maps(), case.tokens[0]
    queue = Queue()
    image, attended = kernels.update_image_mixed(
        *maps, case.mixed.first, keys, values, queries, channels=CHANNELS, queue=queue
    )
    turned = kernels.turn_image(case.x, case.pe, queue=queue)
    image, again = kernels.update_image_mixed(
        *maps, case.mixed.second, keys, attended, queries, image, channels=CHANNELS, queue=queue
    )
    queue.run()
    queue.run()  # what the second update continues is made anew
    image, expected = kernels.update_image_mixed(*maps, case.mixed.first, keys, values, queries, channels=CHANNELS)
    assert_same(attended, expected)
    _, expected = kernels.update_image_mixed(
        *maps, case.mixed.second, keys, expected, queries, image, channels=CHANNELS
    )
    assert_same(again, expected)
    assert_same(turned.data, kernels.turn_image(case.x, case.pe).data)


def test_what_does_not_fit_is_refused_before_the_queue_runs(steps):
    case, tokens, queue = scene(297, 5, 4), normal(1, 5, 32).copy(), Queue()
    with pytest.raises(ValueError, match=r"^x: expected shape"):
        steps(tokens[..., :5], queue=queue)
    queue.run()  # nothing
    with pytest.raises(ValueError, match=r"^out: expected a Slot of shape .3, 132, 36., got .3, 36, 132."):
        decoded(tokens, steps, case, queue=queue, out=Slot((3, 36, 132)))
    with pytest.raises(ValueError, match=r"^out: expected an array, or None, got a Slot, which only a queue fills"):
        decoded(tokens, steps, case, out=Slot((3, 132, 36)))
    with pytest.raises(ValueError, match=r"^x: expected a C-contiguous array, which is read later, got strides"):
        steps(normal(2, 5, 32)[:, :, ::1][:, ::2], queue=queue)
    with pytest.raises(TypeError, match=r"^queue: expected a Queue or None, got list"):
        steps(tokens, queue=[])
    for copied in (copy.copy, copy.deepcopy, pickle.dumps):
        for kind in (queue, Slot((3, 132, 36))):
            with pytest.raises(TypeError, match="cannot be copied"):
                copied(kind)
    with pytest.raises(ValueError, match=r"^threads: "):
        queue.run(threads=0)
    with pytest.raises(ValueError):
        queue.add("anything", object(), np.zeros(8, np.uint8), ())
