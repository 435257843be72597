"""Running work outside the event loop: a few threads for each kind of work, with a bounded queue."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from starlette.requests import Request

from .limits import Overloaded

T = TypeVar("T")


class ClientGone(Exception):
    """The client has closed the connection and gets no response."""


class Stopped(Exception):
    """Raised in a worker thread to end a task, because its client has gone."""


class Task:
    """Work in a worker thread, which the event loop can stop. Any thread may call every method.

    Attributes:
        stopped: whether `stop` was called.
    """

    def __init__(self) -> None:
        self.stopped = False
        self._lock = threading.Lock()
        self._kill: Callable[[], None] | None = None

    def check(self) -> None:
        """Raise Stopped if the task was stopped. Work calls this method between its steps."""
        if self.stopped:
            raise Stopped

    def stop(self) -> None:
        """Let the next `check` raise Stopped, and call the function that a block of `stops` has set."""
        with self._lock:
            self.stopped = True
            if self._kill is not None:
                self._kill()

    @contextmanager
    def stops(self, kill: Callable[[], None]) -> Iterator[None]:
        """While the block runs, `stop` also calls `kill`. Raises Stopped if the task was stopped before."""
        with self._lock:
            self.check()
            self._kill = kill
        try:
            yield
        finally:
            with self._lock:
                self._kill = None


class Lane:
    """Threads and a queue for one kind of work. Every method must be called on the event loop.

    Args:
        name: name of the work, for messages.
        workers: number of threads.
        places: how many tasks may run or wait.
        share: how many tasks for one image may run or wait.
    """

    def __init__(self, name: str, *, workers: int, places: int, share: int) -> None:
        self.name, self.places, self.share = name, places, share
        self._executor = ThreadPoolExecutor(workers, f"mobilesam-{name}")
        self._pending: Counter[str] = Counter()

    def submit(self, owner: str, work: Callable[[], T]) -> Future[T]:
        """Queue work for an image. Raises Overloaded if the queue is full.

        Args:
            owner: id of the image.
            work: the function to run.
        """
        if self._pending.total() >= self.places:
            raise Overloaded(f"the server is busy: {self.places} requests to {self.name} wait already")
        if self._pending[owner] >= self.share:
            raise Overloaded(f"{self.share} requests to {self.name} on this image wait already")
        self._pending[owner] += 1
        loop = asyncio.get_running_loop()

        def done(_: Future[T]) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(self._leave, owner)

        future = self._executor.submit(work)
        future.add_done_callback(done)
        return future

    def _leave(self, owner: str) -> None:
        self._pending[owner] -= 1
        if not self._pending[owner]:
            del self._pending[owner]

    async def run(self, request: Request, owner: str, work: Callable[[Task], T]) -> T:
        """Queue work, wait for it, and return its result.

        If the client disconnects first, work that has not started is dropped. Work that has started is told to stop.

        Raises:
            ClientGone: the client has disconnected.
            Overloaded: the queue is full.
        """
        task = Task()
        future = self.submit(owner, lambda: work(task))
        result = asyncio.wrap_future(future)
        gone = asyncio.ensure_future(disconnected(request))
        either: set[asyncio.Future[Any]] = {result, gone}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            if result.done():
                return result.result()
            raise ClientGone
        finally:
            gone.cancel()
            if not result.done():
                task.stop()
                result.cancel()  # this also cancels `future`, unless the work has started

    def close(self) -> None:
        """Wait for all tasks, then stop the threads."""
        self._executor.shutdown(wait=True)


async def disconnected(request: Request) -> None:
    """Return when the client disconnects. The whole request must have been read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
