"""Checks of every request: Host, Origin, size and speed of the body. Adds security headers to every response."""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .limits import Limits, Overloaded, Refused

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
LINGER_SECONDS = 5.0  # longest wait for the next bytes of a body that is discarded
UPLOAD_PATH = "/api/images"
DEFAULT_PORTS = {"http": 80, "https": 443}
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
      server's own page. The page's host is the Host header, the X-Forwarded-Host of a proxy, or a name in `hosts`.
    - Large or slow requests: the bytes of a body are counted as they arrive, and waiting has a time limit.

    Attributes:
        under_way: number of requests being answered.
        held: bytes in memory of the bodies of these requests.
    """

    def __init__(self, app: ASGIApp, limits: Limits, hosts: Iterable[str] = (), root_path: str = "") -> None:
        self.app, self.limits, self.root_path = app, limits, root_path
        self.named = {host.lower() for host in hosts}
        self.names = {urlsplit(f"//{host}").hostname for host in self.named}
        self.under_way = self.held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scope = {**scope, "root_path": self.root_path or scope.get("root_path", "")}
        body = _Body()
        answer = self._answer(receive, send, body)
        self.under_way += 1
        try:
            self._check(scope)
            if self.root_path and scope["path"] == self.root_path:
                # The links of the page are relative, so the page needs the slash.
                await RedirectResponse(f"{self.root_path}/")(scope, receive, answer)
                return
            await self.app(scope, self._counted(scope, receive, body), answer)
        except Refused as refused:  # raised by the checks of this class: the application handles its own errors
            response = JSONResponse({"error": refused.detail}, refused.status_code, refused.headers)
            await response(scope, receive, answer)
        finally:
            self.under_way -= 1
            self.held -= body.taken

    def _answer(self, receive: Receive, send: Send, body: _Body) -> Send:
        """A `send` that adds the headers. Before the end of the response, `send` discards what is left of the body.

        If a server closes a connection that has unread bytes, the client may lose the response.
        """

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=message["headers"])
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            elif not body.whole and not message.get("more_body", False):
                await send({**message, "more_body": True})
                await self._discard(receive)
                body.whole = True
                message = {"type": "http.response.body"}
            await send(message)

        return answer

    async def _discard(self, receive: Receive) -> None:
        """Receive the rest of a body, for a limited time and up to a limited size."""
        end, left = time.monotonic() + self.limits.upload_seconds, self.limits.upload_bytes
        while left > 0:
            patience = min(self.limits.stall_seconds, LINGER_SECONDS, end - time.monotonic())
            try:
                message = await asyncio.wait_for(receive(), patience)
            except asyncio.TimeoutError:
                return
            if not message.get("more_body", False):
                return
            left -= len(message.get("body", b""))

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        hosts = [headers.get("host", "")]
        if "x-forwarded-host" in headers:
            hosts.append(headers["x-forwarded-host"].partition(",")[0].strip())
        for host in hosts:
            if not self._is_ours(host):
                raise Refused(
                    421,
                    f"this server does not accept the host name {host[:100]!r}: use its IP address or localhost, "
                    "or start it with --allow-host NAME",
                )
        if scope["method"] not in SAFE_METHODS and not self._same_site(headers, hosts):
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
            return name == "localhost" or name in self.names
        return True

    def _same_site(self, headers: Headers, hosts: Iterable[str]) -> bool:
        """Whether a request to these hosts comes from the server's own page, or not from a page at all."""
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return False
        origin = headers.get("origin")
        if origin is None:
            return True
        scheme, _, address = origin.lower().partition("://")
        page = _host_and_port(address, scheme)
        ours = [_host_and_port(host.lower(), scheme) for host in (*hosts, *self.named)]
        return page is not None and page in ours

    def _most(self, scope: Scope) -> int:
        path = scope["path"].removeprefix(self.root_path)  # some proxies remove the root path themselves
        return self.limits.upload_bytes if path == UPLOAD_PATH else self.limits.json_bytes

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


def _host_and_port(address: str, scheme: str) -> tuple[str, int] | None:
    """The host name and the port of an address HOST or HOST:PORT, or None if the address is malformed."""
    try:
        parts = urlsplit(f"//{address}")
        port = parts.port
    except ValueError:
        return None
    if scheme not in DEFAULT_PORTS or not parts.hostname or parts.netloc != address or "@" in address:
        return None
    return parts.hostname, DEFAULT_PORTS[scheme] if port is None else port
