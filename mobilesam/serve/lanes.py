"""Running work outside the event loop: a few threads for each kind of work, with a bounded queue."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from starlette.requests import Request

from .limits import Overloaded

T = TypeVar("T")


class ClientGone(Exception):
    """The client has closed the connection and gets no response."""


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

    async def run(self, request: Request, owner: str, work: Callable[[], T]) -> T:
        """Queue work, wait for it, and return its result.

        If the client disconnects first, work that has not started is dropped.

        Raises:
            ClientGone: the client has disconnected.
            Overloaded: the queue is full.
        """
        future = self.submit(owner, work)
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
                result.cancel()  # this also cancels `future`, unless the work has started

    def close(self) -> None:
        """Wait for all tasks, then stop the threads."""
        self._executor.shutdown(wait=True)


async def disconnected(request: Request) -> None:
    """Return when the client disconnects. The whole request must have been read before."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
