"""The target that sends requests to a server, whose every answer must be documented."""

import json
import logging
import re
import socket
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from serving import picture

from .checkpoint_targets import replaced
from .mutation import mutate
from .target import Case, Maker, Target

IDENTITY = b"x" * 22  # in requests, replaced by the identity of an image that the server keeps
PAUSE = 0.3  # seconds until the server gives up a request that is not complete
PATIENCE = 30.0  # seconds until the server has answered or closed the connection
STATUSES = {200, 201, 204, 304, 307, 400, 403, 404, 405, 408, 413, 415, 416, 421, 422, 431, 499, 503}
MANY_POINTS = re.compile(rb'"points_per_side": *"?[^1-8"]|"points_per_side": *"?\\d\\d|"crop_n_layers": *"?[1-9]')
UPLOAD = picture(64, 2, "PNG")  # a narrow photo, which is encoded quickly
BODIES: dict[str, Any] = {
    "masks": {"points": [[1, 1], [3, 0.5]], "labels": [1, 0], "box": [0, 0, 9, 2], "multimask": True, "max_side": 16},
    "everything": {"points_per_side": 1, "crop_n_layers": 0, "min_mask_region_area": 5, "max_side": 16, "drafts": True},
    "export": {
        "format": "coco",
        "objects": [
            {"name": "a", "colour": "#2f86ff", "prompt": {"points": [[1, 1]]}, "choice": 1},
            {"rle": {"size": [2, 64], "counts": "05k3"}},
        ],
        "crop": True,
        "file_name": "a.png",
    },
}
FORMS = {
    "masks": [("format", ("rle", "polygons", "png")), ("candidates", ("best", "all"))],
    "everything": [("adaptive", (True, False))],
    "export": [("format", ("cutout", "labels", "coco", "geojson", "svg"))],
}


def request(method: str, path: str, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", "Connection: close", *headers]
    lines += [f"Content-Length: {len(body)}"] if body else []
    return "\r\n".join([*lines, "", ""]).encode() + body


def requests(rng: Random) -> bytes:
    """A request whose body, or whose bytes altogether, are damaged."""
    image = f"/api/images/{IDENTITY.decode()}"
    upload = rng.choice((UPLOAD, UPLOAD[:100]))
    form = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n' + upload + b"\r\n--b--\r\n"
    made: Callable[[bytes], bytes]
    kind = rng.choice(("masks", "everything", "export", "bytes", "form", "base64", "get", "get", "chunked"))
    if kind in BODIES:
        value = {**BODIES[kind], **{name: rng.choice(choices) for name, choices in FORMS[kind]}}
        for _ in range(rng.choice((0, 1, 1, 2))):
            value = replaced(value, rng)
        body, made = json.dumps(value).encode(), lambda body: request("POST", f"{image}/{kind}", body, JSON)
    elif kind == "bytes":
        body, made = upload, lambda body: request("POST", "/api/images", body, "Content-Type: image/png")
    elif kind == "form":
        body, made = (
            form,
            lambda body: request("POST", "/api/images", body, "Content-Type: multipart/form-data; boundary=b"),
        )
    elif kind == "base64":
        body = json.dumps({"image": rng.choice(("aGVsbG8=", "data:image/png;base64,aGVsbG8="))}).encode()
        made = lambda body: request("POST", "/api/images", body, JSON)  # noqa: E731
    elif kind == "chunked":
        body = b"5\r\nhello\r\n0\r\n\r\n"
        made = lambda body: request("POST", "/api/images", b"", "Transfer-Encoding: chunked") + body  # noqa: E731
    else:
        path = rng.choice(
            (image, f"{image}/picture", "/", "/main.js", "/openapi.json", "/api/images", "/..%2f..%2fapp.py")
        )
        method = rng.choice(("GET", "HEAD", "DELETE", "OPTIONS", "PUT"))
        if method == "DELETE":
            path = "/api/images/none"  # the kept image stays
        body, made = b"", lambda _: request(method, path)
    if rng.random() < 0.6:
        return made(mutate(body, [], rng) if body and rng.random() < 0.7 else body)
    return mutate(made(body), [], rng)


JSON = "Content-Type: application/json"


class Records(logging.Handler):
    """Keeps the errors that the server logs."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


def start(_: Path) -> Maker:
    import mobilesam
    from mobilesam.serve import server
    from mobilesam.serve.app import create_app
    from mobilesam.serve.limits import Limits

    limits = Limits(
        stall_seconds=PAUSE, upload_seconds=1.0, pixels=100_000, images=64, json_bytes=1 << 20, upload_bytes=1 << 20
    )
    server.PatientProtocol.header_seconds = PAUSE
    listener = server.listen("127.0.0.1", 0, 0)
    ready, log = threading.Event(), Records()
    app = create_app(mobilesam.load(), limits)
    running = server.create(app, ready.set)
    for name in ("uvicorn.error", "asyncio", "mobilesam.serve"):
        logging.getLogger(name).addHandler(log)
    threading.Thread(target=running.run, kwargs={"sockets": [listener]}, daemon=True).start()
    assert ready.wait(30)
    address = listener.getsockname()
    kept: list[bytes] = []

    def identity() -> bytes:
        """The identity of an image that the server still keeps."""
        root = "http://{}:{}/api/images".format(*address)
        if kept:
            try:
                urllib.request.urlopen(f"{root}/{kept[-1].decode()}").close()
                return kept[-1]
            except urllib.error.HTTPError as error:
                error.close()
        with urllib.request.urlopen(root, UPLOAD) as answer:
            kept.append(json.load(answer)["id"].encode())
        assert len(kept[-1]) == len(IDENTITY)
        return kept[-1]

    def run(data: bytes) -> None:
        if MANY_POINTS.search(data):
            return  # a long search is no finding
        log.records.clear()
        check(send(address, data.replace(IDENTITY, identity())))
        for record in log.records:
            if record.exc_info and record.exc_info[1]:
                raise record.exc_info[1]
            raise AssertionError(record.getMessage())

    def make(rng: Random) -> Case:
        data = requests(rng)
        return Case(lambda: run(data), data)

    return make


def send(address: tuple[str, int], data: bytes) -> bytes:
    """Everything that the server answers until it closes the connection."""
    answer = b""
    with socket.create_connection(address, PATIENCE) as connection:
        try:
            connection.sendall(data)
            while part := connection.recv(1 << 16):
                answer += part
        except ConnectionError:  # the server closes the connection of a request that is not HTTP
            pass
        except TimeoutError:
            raise AssertionError(f"no end of the answer after {PATIENCE} s: {answer[:200]!r}") from None
    return answer


def check(answer: bytes) -> None:
    if not answer:  # the server closes a connection without a whole header
        return
    head, _, body = answer.partition(b"\r\n\r\n")
    status = int(head.split(None, 2)[1])
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    body = body[: int(length[1]) if length else len(body)]  # another answer may follow
    assert head.startswith(b"HTTP/1.1 ") and status in STATUSES, head[:200]
    if status >= 400 and b"application/json" in head and body:
        error = json.loads(body)
        assert list(error) == ["error"], body[:200]
        text = error["error"]
        assert text and len(text) < 1500 and len(text.splitlines()) == 1, text[:200]
        assert "Traceback" not in text and 'File "' not in text, text[:200]


TARGETS = (Target("http", 400, start, (), ("fastapi", "uvicorn", "httpx")),)
