"""Kernels' calls left to a queue, which makes them together, as often as they are wanted."""

import gc

import numpy as np
import pytest
from isas import every_isa  # noqa: F401
from test_kernels_decoder import CHANNELS, SCALE, scene
from tolerances import assert_same, normal

from mobilesam import kernels
from mobilesam.kernels import Queue, Slot, TokenSteps
from mobilesam.kernels.steps import Linear, Stack, Take
from mobilesam.low_rank import F32

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


def test_each_run_fills_what_its_slot_holds(steps):
    case, tokens, queue, slot = scene(297, 5, 4), normal(1, 5, 32).copy(), Queue(), Slot((3, 132, 36))
    *_, filled = decoded(tokens, steps, case, queue=queue, out=slot)
    assert filled is slot
    (*_, expected), earlier = decoded(tokens, steps, case), slot.renew()
    queue.run()
    assert_same(earlier, expected)
    tokens += 1
    later = slot.renew()
    queue.run()
    assert_same(earlier, expected)
    assert_same(later, decoded(tokens, steps, case)[-1])


def test_a_mixed_update_and_one_for_a_single_prompt_are_queued_too():
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
    with pytest.raises(TypeError, match=r"^out: expected a float32 NumPy array, got Slot"):
        decoded(tokens, steps, case, out=Slot((3, 132, 36)))
    with pytest.raises(ValueError, match=r"^threads: "):
        queue.run(threads=0)
    with pytest.raises(ValueError):
        queue.add("anything", object(), np.zeros(8, np.uint8), ())
