"""Running the application with uvicorn."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable

import uvicorn
from h11 import LocalProtocolError
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from mobilesam.util.system import claim_port

BACKLOG = 128
KEEP_ALIVE_SECONDS = 5


class PatientProtocol(H11Protocol):
    """The HTTP/1.1 protocol of uvicorn, extended to disconnect slow clients.

    Attributes:
        header_seconds: longest wait for the headers of a request.
        unread_seconds: longest time in which a client reads nothing of the response.
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

    def send_400_response(self, msg: str) -> None:
        """Refuse a request that is not HTTP. During the response to an earlier request, close the connection."""
        try:
            super().send_400_response(msg)
        except LocalProtocolError:
            self.transport.close()

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
    """Open a TCP socket that listens for clients.

    Args:
        host: the address to listen on.
        port: the port. None takes the default port, or any free port if the default port is in use.
        default: the default port.

    Raises:
        OSError: the server cannot listen on this address. The message names the address and the reason.
    """
    try:
        return _listen(host, default if port is None else port)
    except OSError as error:
        if port is None and error.errno in (errno.EADDRINUSE, errno.EACCES):  # Windows reserves some ports
            return _listen(host, 0)
        reason = error.strerror or str(error)
        raise OSError(f"cannot listen on {host}, port {default if port is None else port}: {reason}") from None


def _listen(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        claim_port(listener)
        listener.bind(address)
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


class AnnouncedServer(uvicorn.Server):
    """A server that calls `announce` as soon as it can answer requests and react to interrupts."""

    def __init__(self, config: uvicorn.Config, announce: Callable[[], None]) -> None:
        super().__init__(config)
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._announce()


def create(app: ASGIApp, announce: Callable[[], None] = lambda: None) -> uvicorn.Server:
    """The server for an application. `run(sockets=[listener])` serves until an interrupt.

    After an interrupt the server finishes the requests that are under way. A second interrupt ends it at once.

    Args:
        app: the application.
        announce: called once, when the server is ready.
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
    """The URL at which a browser on this machine finds the server."""
    host, port = listener.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1"
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
