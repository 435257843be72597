"""Loads a model, encodes photos and clicks from many Python threads at once, for a build with ThreadSanitizer.

ThreadSanitizer reports data races of the kernels, which run without the GIL. The results are compared with those of
one thread. Usage: many_threads.py
"""

import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from golden import PHOTOS
from kernel_cases import CASES

import mobilesam
from mobilesam import kernels
from mobilesam.kernels.core import memory

THREADS = 4
POINTS = [(60, 60), (200, 120), (320, 213), (99, 250)]


def at_once(work: Callable[[int], None]) -> None:
    """Call work(0), work(1), …, each in its own thread. All threads start together. Raises the first error."""
    together = threading.Barrier(THREADS)

    def begin(number: int) -> None:
        together.wait()
        work(number)

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(begin, range(THREADS)))


def allocate() -> None:
    """Large arrays come from the buffer pool, and the arrays of `lasting` share blocks."""

    def work(number: int) -> None:
        rng = np.random.default_rng(number)
        x, weight = rng.standard_normal((600, 128), np.float32), rng.standard_normal((256, 128), np.float32)
        expected = kernels.linear(x, weight).copy()
        for i in range(20):
            array = memory.empty((70_000 + 5_000 * (i % 7),))
            array[...] = number
            lasting = memory.lasting((1000 + i,))
            lasting[...] = number
            np.testing.assert_array_equal(kernels.linear(x, kernels.pack(weight)), expected)
            assert (array == number).all()
            assert (lasting == number).all()

    at_once(work)


def compute() -> None:
    """All threads call every kernel. Kernels run without the GIL, each with the scratch memory of its own thread."""
    inputs = {name: case.arrays() for name, case in CASES.items()}
    expected = {name: case(inputs[name]) for name, case in CASES.items()}

    def work(number: int) -> None:
        for name, case in CASES.items():
            np.testing.assert_array_equal(case(inputs[name]), expected[name])

    at_once(work)


def load() -> None:
    """Each thread loads a model of its own and clicks at once, while the background threads still load."""
    masks = [np.empty(0)] * THREADS

    def work(number: int) -> None:
        canvas = np.full((40, 60, 3), 90, np.uint8)
        canvas[10:30, 20:40] = 200
        masks[number] = mobilesam.load(threads=2).encode(canvas).segment([(30, 20)]).low_res

    at_once(work)
    for each in masks:
        np.testing.assert_array_equal(each, masks[0])


def share_a_model() -> None:
    """All threads encode with one model, and then click on all of its embeddings. The model keeps one image's maps."""
    model = mobilesam.load(images=1)
    names = sorted(PHOTOS)[:2]
    embeddings = [model.encode(PHOTOS[name]) for name in names]
    expected = [[embedding.segment([point]).low_res for point in POINTS] for embedding in embeddings]

    def work(number: int) -> None:
        encoded = model.encode(PHOTOS[names[number % 2]])
        np.testing.assert_array_equal(encoded.features, embeddings[number % 2].features)
        for i in range(2 * len(POINTS)):
            place, which = (number + i) % len(POINTS), i % 2
            shared = embeddings[which].segment([POINTS[place]])
            np.testing.assert_array_equal(shared.low_res, expected[which][place])
            shared.masks.sum()
            count = 1 + (number + i) % 3  # plans for one, two and three points
            embeddings[which].segment(POINTS[:count], mask_input=shared.low_res[0], multimask=False)
            list(embeddings[which].segment_many(points=[[point] for point in POINTS[:count]]))

    at_once(work)


def change_isa() -> None:
    """One thread changes the current ISA while others call kernels with packed weights."""
    x, weight = np.ones((300, 64), np.float32), kernels.pack(np.ones((64, 64), np.float32))

    def work(number: int) -> None:
        for _ in range(20):
            if number == 0:
                for name in kernels.isa.available():
                    with kernels.isa.use(name):
                        pass
            assert (kernels.linear(x, weight) == 64).all()
            kernels.layer_norm(x, x[0], x[0])

    at_once(work)


def main() -> None:
    start = perf_counter()
    for step in (allocate, compute, load, share_a_model, change_isa):
        step()
        print(f"{step.__name__}, after {perf_counter() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
