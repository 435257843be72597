"""What a thread makes while others go on, waited for where it is used."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Generic, ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")


class Later(Generic[T]):
    """Called, it waits for what is made and returns it, or raises what making it raised. Then it can be copied."""

    def __init__(self, thread: Executor | None, make: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> None:
        """thread: None to make it here and now."""
        self._made: T | Future[T] = (
            make(*arguments, **options) if thread is None else thread.submit(make, *arguments, **options)
        )

    def __call__(self) -> T:
        made = self._made  # read once: another thread may be storing what was made
        if isinstance(made, Future):
            made = self._made = made.result()
        return made


def by_the_way(make: Callable[[], T]) -> Future[T]:
    """What a thread of its own makes. A process that ends, or is interrupted, does not wait for it."""
    made: Future[T] = Future()

    def run() -> None:
        try:
            made.set_result(make())
        except BaseException as error:
            made.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return made
