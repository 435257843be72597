"""Checks of every request: Host, Origin, size and speed of the body. Adds security headers to every response."""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .limits import Limits, Overloaded, Refused

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
UPLOAD_PATH = "/api/images"
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass
class _Body:
    """How much of a request's body was received.

    Attributes:
        taken: bytes received.
        whole: whether the body is complete.
    """

    taken: int = 0
    whole: bool = False


class Guard:
    """ASGI middleware around the application, that protects it from hostile pages and clients.

    - DNS rebinding: an attacker can point a domain of his own at this machine. So the Host header must be an IP
      address, `localhost` or a name in `hosts`.
    - Cross-site requests: a browser sends the Origin of the page. A request that changes something must come from the
      server's own page.
    - Large or slow requests: the bytes of a body are counted as they arrive, and waiting has a time limit.

    Attributes:
        under_way: number of requests being answered.
        held: bytes in memory of the bodies of these requests.
    """

    def __init__(self, app: ASGIApp, limits: Limits, hosts: Iterable[str] = ()) -> None:
        self.app, self.limits = app, limits
        self.hosts = {"localhost", *(host.lower() for host in hosts)}
        self.under_way = self.held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        answer, body = _with_headers(send), _Body()
        self.under_way += 1
        try:
            self._check(scope)
            await self.app(scope, self._counted(scope, receive, body), answer)
        except Refused as refused:  # raised by the checks of this class: the application handles its own errors
            response = JSONResponse({"error": refused.detail}, refused.status_code, refused.headers)
            await response(scope, receive, answer)
        finally:
            self.under_way -= 1
            self.held -= body.taken

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        if not self._is_ours(host):
            raise Refused(
                421,
                f"this server does not accept the host name {host[:100]!r}: use its IP address or localhost, "
                "or start it with --allow-host NAME",
            )
        if scope["method"] not in SAFE_METHODS and not _same_site(headers, host):
            raise Refused(
                403, "the request came from another site's page, which may not change anything on this server"
            )
        if self.under_way > self.limits.requests:
            raise Overloaded(f"the server is busy: it is answering {self.limits.requests} requests")
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length[:20]) > self._most(scope):
            raise self._too_large(scope)

    def _is_ours(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name in self.hosts
        return True

    def _most(self, scope: Scope) -> int:
        return self.limits.upload_bytes if scope["path"] == UPLOAD_PATH else self.limits.json_bytes

    def _too_large(self, scope: Scope) -> Refused:
        most = self._most(scope) / (1 << 20)
        # The rest of the body is not read, so the connection cannot serve another request.
        return Refused(413, f"the request is larger than {most:g} MiB, the limit", {"Connection": "close"})

    def _counted(self, scope: Scope, receive: Receive, body: _Body) -> Receive:
        """A `receive` that refuses a body that is too large or too slow.

        After the body, `receive` waits for the client to disconnect, without a time limit.
        """
        deadline = time.monotonic() + self.limits.upload_seconds

        async def counted() -> Message:
            if body.whole:
                return await receive()
            patience = min(self.limits.stall_seconds, deadline - time.monotonic())
            try:
                message = await asyncio.wait_for(receive(), patience)
            except asyncio.TimeoutError:
                raise Refused(408, "the rest of the request did not arrive in time", {"Connection": "close"}) from None
            length = len(message.get("body", b""))
            body.taken += length
            self.held += length
            body.whole = not message.get("more_body", False)
            if body.taken > self._most(scope):
                raise self._too_large(scope)
            if self.held > self.limits.held_bytes:
                raise Overloaded("too many bytes are being uploaded at once", seconds=2)
            return message

        return counted


def _with_headers(send: Send) -> Send:
    async def answer(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(raw=message["headers"])
            for name, value in HEADERS.items():
                headers[name] = value
            headers.setdefault("Cache-Control", "no-store")
        await send(message)

    return answer


def _same_site(headers: Headers, host: str) -> bool:
    """Whether a request comes from the server's own page, or not from a page at all."""
    if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        return False
    origin = headers.get("origin")
    return origin is None or urlsplit(origin).netloc.lower() == host.lower()
