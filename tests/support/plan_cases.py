"""Plans that together contain every kind of step, with sizes next to those at which kernels split their work."""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
from plans import Recording, record_upscaling, upscale_arrays
from scenes import record_updates, scene
from tolerances import normal

from mobilesam.kernels import pack_rows

# A function that records steps, and returns a list of (result, index of the part of the result that is written).
Record = Callable[[Recording], list]


def of_tokens(c: int, e: int, tokens: int, made: Recording) -> list:
    x, residual, v, other = made.give(*(normal(2, tokens, width) for width in (c, e, e, e)))
    q = made.plan.linear(x, normal(e, c), normal(e), activation="gelu", residual=residual)
    mixed = made.plan.add(made.plan.attention(q, q, v, heads=1), other)
    y = made.plan.layer_norm(mixed, normal(e), normal(1, e)[0])
    return [(made.plan.take(y, [tokens - 1, 0]), ...)]


def of_an_image(c: int, d: int, tokens: int, made: Recording) -> list:
    n, e = 5 * c, 8 * d
    x, row, k = made.give(normal(1, n, c), normal(c), normal(1, tokens, e))
    keys, values = map(made.give_maps, (normal(n, e), normal(1, n, e)[0]))
    q = made.plan.linear(made.plan.add(x, row), normal(e, c), normal(e))
    maps = made.plan.project(x, pack_rows(normal(e + 1, c)), keys.rows(0, 1), shift=normal(c), scale=normal(1, c)[0])
    attended = made.plan.attention(q, k, k, heads=8), made.plan.attend_image(k, keys, values, normal(e))
    return [*((y, ...) for y in attended), (maps, ...)]


def of_updates(n: int, tokens: int, query_count: int, made: Recording) -> list:
    case = scene(n, tokens, query_count)
    updated, attended = record_updates(made, case.constants, *map(made.give_maps, case.maps()), [case.tokens] * 2)
    filled = np.s_[:, :, : updated.rank + 1, : n % 256 or 256]
    return [(updated.data, filled), *((answer, ...) for answer in attended)]


def of_masks(height: int, width: int, c1: int, c2: int, masks: int, made: Recording) -> list:
    y = record_upscaling(made, upscale_arrays(height, width, c1, c2, masks))
    made.given[y] = np.zeros(y.shape, np.float32)
    return [(y, ...)]


SIZES = {
    of_tokens: [
        (1, 33, 1), (2, 1, 65), (3, 5, 2), (7, 16, 3), (8, 17, 4), (9, 3, 5), (15, 2, 16), (16, 8, 17), (17, 1, 9),
        (31, 7, 1), (33, 9, 129),
    ],
    of_an_image: [(1, 1, 1), (2, 3, 2), (7, 2, 17), (16, 5, 5), (33, 4, 1), (52, 1, 33)],
    of_updates: [(1, 1, 1), (255, 3, 2), (256, 2, 5), (300, 5, 1)],
    of_masks: [(1, 1, 1, 1, 1), (9, 11, 19, 13, 3), (3, 86, 16, 8, 4), (1, 65, 33, 9, 2)],
}  # fmt: skip


def cases() -> Iterator[tuple[str, Record]]:
    """Yield the name of each case and the function that records it."""
    for record, every in SIZES.items():
        for sizes in every:
            yield f"{record.__name__} {sizes}", partial(record, *sizes)


def results_of(record: Record, change: Callable[[np.ndarray], np.ndarray] = lambda value: value) -> list[np.ndarray]:
    """Run a case and return its results. ``change`` is applied to each input array, for example to copy the array."""
    made = Recording(threads=2)
    wanted = record(made)
    made.given = {array: change(value) for array, value in made.given.items()}
    results = made.run(*(array for array, _ in wanted))
    return [np.ascontiguousarray(y[part]) for y, (_, part) in zip(results, wanted, strict=True)]
