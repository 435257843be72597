"""What a thread makes while others go on, waited for where it is used."""

from __future__ import annotations

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
        if isinstance(self._made, Future):
            self._made = self._made.result()
        return self._made
