"""Values that threads make for one another: beside other work, or once for all who ask."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, Generic, ParamSpec, TypeVar, overload

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


class lazy(Generic[T]):
    """A property that is computed when first asked for, and then kept in the instance's ``__dict__``.

    `functools.cached_property` of Python 3.10 and 3.11 holds a lock, for which a child forked meanwhile would wait
    without end; this property holds none. Threads that ask at the same moment may each compute the value.
    """

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self._compute, self._name, self.__doc__ = compute, compute.__name__, compute.__doc__

    @overload
    def __get__(self, instance: None, owner: type) -> lazy[T]: ...
    @overload
    def __get__(self, instance: object, owner: type) -> T: ...
    def __get__(self, instance: object | None, owner: type) -> lazy[T] | T:
        if instance is None:
            return self
        value = instance.__dict__[self._name] = self._compute(instance)
        return value


class ForkSafeLock:
    """A lock that is free in a child forked while another thread held it."""

    def __init__(self) -> None:
        self.renew()
        _locks.add(self)

    def renew(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


_locks: weakref.WeakSet[ForkSafeLock] = weakref.WeakSet()


def _renew_locks() -> None:
    for lock in list(_locks):
        lock.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_locks)


class Once(Generic[T]):
    """A value that the first thread to ask makes, while others wait. A child forked meanwhile makes its own."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make, self._lock = make, ForkSafeLock()
        self._made: list[T] = []

    def __call__(self) -> T:
        if not self._made:
            with self._lock:
                if not self._made:
                    self._made.append(self._make())
        return self._made[0]
