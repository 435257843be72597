"""Values that are computed in the background, on first access or once per process, and a lock that survives a fork."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, Generic, ParamSpec, TypeVar, overload

T = TypeVar("T")
P = ParamSpec("P")


class Deferred(Generic[T]):
    """A value that another thread computes.

    Calling this object waits for the value and returns it, or raises the error of the computation. The object can be
    copied after the first call that has returned a value.
    """

    def __init__(
        self, executor: Executor | None, compute: Callable[P, T], *arguments: P.args, **options: P.kwargs
    ) -> None:
        """Submit `compute(*arguments, **options)` to `executor`.

        The value is computed now if `executor` is None, or if the system has no further thread for the executor.
        """
        self._value: T | Future[T]
        try:
            if executor is not None:
                self._value = executor.submit(compute, *arguments, **options)
                return
        except RuntimeError:  # raised by threading.Thread.start; `compute` has not been called here
            pass
        self._value = compute(*arguments, **options)

    def __call__(self) -> T:
        value = self._value  # read once, because another thread may replace the future by its value
        if isinstance(value, Future):
            value = self._value = value.result()
        return value


def in_background(compute: Callable[[], T]) -> Future[T]:
    """Compute a value in a daemon thread. The process does not wait for this thread when it ends or is interrupted.

    The value is computed now if the system has no further thread.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(compute())
        except BaseException as error:
            future.set_exception(error)

    try:
        threading.Thread(target=run, daemon=True).start()
    except RuntimeError:
        run()
    return future


class lazy(Generic[T]):
    """A property that is computed on first access and cached in the instance's `__dict__`.

    `functools.cached_property` of Python 3.10 and 3.11 holds a lock during the computation. A child process that
    is forked meanwhile would wait forever for this lock. `lazy` holds no lock, so concurrent threads may each compute
    the value.
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
    """A lock that is free in a forked child process, even if another thread held it during the fork."""

    def __init__(self) -> None:
        self.renew()
        _locks.add(self)

    def renew(self) -> None:
        """Replace the lock by a free lock."""
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
    """A value that the first caller computes while other threads wait.

    A child process that is forked during the computation computes its own value.
    """

    def __init__(self, compute: Callable[[], T]) -> None:
        self._compute, self._lock = compute, ForkSafeLock()
        self._values: list[T] = []  # empty until the value is computed, because the value may be None

    def __call__(self) -> T:
        if not self._values:
            with self._lock:
                if not self._values:
                    self._values.append(self._compute())
        return self._values[0]
