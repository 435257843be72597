"""Work off the event loop: a few threads for each kind of it, with a bounded queue in front."""

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
    """Nobody is left to answer."""


class Lane:
    """Threads for one kind of work. Every method is called on the event loop.

    workers threads; places, how many pieces may be under way or wait; share, how many of these for one image.
    """

    def __init__(self, name: str, *, workers: int, places: int, share: int) -> None:
        self.name, self.places, self.share = name, places, share
        self._executor = ThreadPoolExecutor(workers, f"mobilesam-{name}")
        self._pending: Counter[str] = Counter()

    def submit(self, owner: str, work: Callable[[], T]) -> Future[T]:
        """Queue the work for the image `owner`. Raises Overloaded where there is no place."""
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
        """The result of the work. Work that still waits when its client goes is dropped: raises ClientGone."""
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
                result.cancel()  # and with it the future, unless it runs already

    def close(self) -> None:
        """Wait for what runs and what waits."""
        self._executor.shutdown(wait=True)


async def disconnected(request: Request) -> None:
    """Return when the client goes; its request has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
