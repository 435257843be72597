"""Running the application with uvicorn."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

BACKLOG = 128
KEEP_ALIVE_SECONDS = 5


class PatientProtocol(H11Protocol):
    """HTTP/1.1 that hangs up on a client whose request's first lines do not come, or that does not read its answer.

    uvicorn alone would wait for ever.
    """

    header_seconds = 10.0
    unread_seconds = 20.0
    _waiting: asyncio.TimerHandle | None = None
    _writing: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._waiting = self.loop.call_later(self.header_seconds, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for timer in (self._waiting, self._writing):
            if timer is not None:
                timer.cancel()

    def handle_events(self) -> None:
        super().handle_events()
        answering = self.cycle is not None and not self.cycle.response_complete
        if self._waiting is not None and answering:
            self._waiting.cancel()
            self._waiting = None
        elif self._waiting is None and not answering:
            self._waiting = self.loop.call_later(self.header_seconds, self._give_up)

    def _give_up(self) -> None:
        self._waiting = None
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch_writing(self.transport.get_write_buffer_size())

    def _watch_writing(self, unread: int) -> None:
        self._writing = self.loop.call_later(self.unread_seconds, self._give_up_writing, unread)

    def _give_up_writing(self, before: int) -> None:
        unread = self.transport.get_write_buffer_size()
        if unread < before:
            self._watch_writing(unread)
        else:
            self.transport.abort()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._writing is not None:
            self._writing.cancel()


def listen(host: str, port: int | None, default: int) -> socket.socket:
    """A listening socket. Without a `port` the default one, or where that is taken any free one.

    Raises OSError, in words, where the address cannot be listened on.
    """
    try:
        return _listen(host, default if port is None else port)
    except OSError as error:
        if port is None and error.errno == errno.EADDRINUSE:
            return _listen(host, 0)
        reason = error.strerror or str(error)
        raise OSError(f"cannot listen on {host}, port {default if port is None else port}: {reason}") from None


def _listen(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


class AnnouncedServer(uvicorn.Server):
    """Says that it is there when a request, or an interrupt, would be answered."""

    def __init__(self, config: uvicorn.Config, announce: Callable[[], None]) -> None:
        super().__init__(config)
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._announce()


def create(app: ASGIApp, announce: Callable[[], None] = lambda: None) -> uvicorn.Server:
    """Its `run(sockets=[listener])` serves until interrupted, then finishes what runs; a second interrupt ends it.

    announce is called once it serves.
    """
    config = uvicorn.Config(
        app,
        http=PatientProtocol,
        ws="none",
        loop="asyncio",
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
    )
    return AnnouncedServer(config, announce)


def address(listener: socket.socket) -> str:
    """Where a browser finds it."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1"
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
