"""Many images through a server, from clients that behave, and from one that does not."""

import http.client
import itertools
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from random import Random
from typing import IO, Any
from urllib.parse import urlsplit

from .memory import describe, growth, resident
from .pictures import file, point

PATIENCE = 120.0  # seconds for an answer
EVERY = 50  # images between two lines of the log


class Run:
    """What the clients share.

    Attributes:
        statuses: Number of answers by status.
        failures: Answers that a client must not get, and errors in a client.
        done: Number of images of which all answers have arrived.
    """

    def __init__(self, address: str, images: int) -> None:
        parts = urlsplit(address)
        assert parts.hostname is not None and parts.port is not None
        self.place = (parts.hostname, parts.port)
        # Each quarter of the run has the same images, because the memory of large images would hide a small growth.
        self.numbers, self.lock = (number % max(1, images // 4) for number in range(images)), threading.Lock()
        self.statuses, self.failures, self.done = Counter[int](), list[str](), 0

    def next(self) -> int | None:
        with self.lock:
            return next(self.numbers, None)

    def ask(self, connection: http.client.HTTPConnection, method: str, path: str, body: Any, accepted: int) -> bytes:
        """Send a request until the server is not overloaded. Returns the body of the answer."""
        headers = {} if body is None or isinstance(body, bytes) else {"Content-Type": "application/json"}
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        while True:
            connection.request(method, path, data, headers)
            answer = connection.getresponse()
            content, status = answer.read(), answer.status
            with self.lock:
                self.statuses[status] += 1
            if status != 503:
                break
            time.sleep(float(answer.headers.get("Retry-After", "1")))
        if status != accepted:
            self.failures.append(f"{method} {path}: {status} {content[:200]!r}")
        return content


def soak_server(images: int, clients: int, limit: float) -> bool:
    """Send images to a server of its own, and log the server's memory.

    Args:
        images: Number of images, at least 4.
        clients: Number of clients that behave. One more does not.
        limit: Growth of the server's memory in MB that is accepted.

    Returns:
        Whether every answer was as expected and the memory grew by at most `limit`.
    """
    with started() as (address, process, log):
        run, over, samples, begun = Run(address, images), threading.Event(), list[float](), time.monotonic()
        threads = [threading.Thread(target=guarded, args=(run, behave, run)) for _ in range(clients)]
        rogue = threading.Thread(target=guarded, args=(run, misbehave, run, over))
        for thread in (*threads, rogue):
            thread.start()
        shown = 0
        while any(thread.is_alive() for thread in threads):
            time.sleep(0.1)
            done = run.done
            samples += [resident(process.pid)] * (done - len(samples))  # one sample for each image
            if done // EVERY > shown or (done == images and samples):
                shown = done // EVERY
                print(f"{done:6} images {time.monotonic() - begun:8.1f} s {samples[-1]:8.1f} MB", flush=True)
        over.set()
        rogue.join()
        alive = process.poll() is None
        samples += [resident(process.pid)] * (images - len(samples)) if alive else []
        log.seek(0)
        errors = [line.strip() for line in log if "WARNING:  Invalid HTTP request received" not in line]
    run.failures += [f"the server's log: {line}" for line in errors[:20]]
    grown = growth(samples)
    print(f"answers by status: {dict(sorted(run.statuses.items()))}")
    print(f"resident memory of the server by quarter of the run, mean in MB: {describe(samples)}")
    print(f"growth from the second quarter to the last: {grown:+.1f} MB, limit {limit:g} MB")
    for failure in run.failures[:20]:
        print(f"failure: {failure}")
    return alive and not run.failures and run.done == images and grown <= limit


@contextmanager
def started() -> Iterator[tuple[str, subprocess.Popen[str], IO[str]]]:
    """Run `mobilesam serve` on a free port. Yields its address, its process, and the file of what it logs."""
    command = [sys.executable, "-m", "mobilesam", "serve", "--port", "0"]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with (
        tempfile.TemporaryFile("w+") as log,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment) as process,
    ):
        try:
            assert process.stdout is not None
            address = re.search(r"http://\S+", process.stdout.readline())
            if address is None:
                raise RuntimeError("mobilesam serve did not start")
            yield address[0], process, log
        finally:
            process.kill()


def guarded(run: Run, work: Callable[..., None], *arguments: Any) -> None:
    """Run a client, and keep an error of it."""
    try:
        work(*arguments)
    except Exception:
        run.failures.append(" | ".join(traceback.format_exc().splitlines()[-4:]))


def behave(run: Run) -> None:
    """Upload, click, search with four points, export, show and delete, image after image."""
    while (number := run.next()) is not None:
        connection = http.client.HTTPConnection(*run.place, timeout=PATIENCE)
        place = {"points": [point(number)]}
        identity = json.loads(run.ask(connection, "POST", "/api/images", file(number), 201))["id"]
        image = f"/api/images/{identity}"
        for form in ("rle", "polygons", "png"):
            run.ask(connection, "POST", f"{image}/masks", {**place, "format": form}, 200)
        run.ask(connection, "POST", f"{image}/everything", {"points_per_side": 2}, 200)
        run.ask(connection, "POST", f"{image}/export", {"format": "coco", "objects": [{"prompt": place}]}, 200)
        run.ask(connection, "GET", f"{image}/picture", None, 200)
        if number % 2:  # the others stay until newer images replace them
            run.ask(connection, "DELETE", image, None, 204)
        connection.close()
        with run.lock:
            run.done += 1


def misbehave(run: Run, over: threading.Event) -> None:
    """Send slow, broken, oversized and abandoned requests until the run is over."""
    rng, head = Random("misbehave"), "POST /api/images HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n"
    for kind in itertools.cycle(("slow", "header", "gone", "garbage", "oversized", "claimed", "deaf")):
        if over.is_set():
            return
        data = file(rng.randrange(1000))
        try:
            with socket.create_connection(run.place, 30) as connection:
                if kind == "slow":
                    connection.sendall(head.format(len(data)).encode())
                    for place in range(20):
                        connection.sendall(data[place : place + 1])
                        over.wait(0.1)
                elif kind == "header":
                    connection.sendall(b"GET / HTTP/1.1\r\nHost: loc")
                    over.wait(2)
                elif kind == "gone":  # leaves while the image is encoded
                    connection.sendall(head.format(len(data)).encode() + data)
                    over.wait(rng.random() / 10)
                elif kind == "garbage":
                    connection.sendall(rng.randbytes(5000) + b"\r\n\r\n")
                    connection.recv(1000)
                elif kind == "oversized":
                    connection.sendall(head.format(200 << 20).encode() + bytes(4 << 20))
                    connection.recv(1000)
                elif kind == "claimed":
                    connection.sendall(head.format("-1").encode())
                    connection.recv(1000)
                else:  # asks for files and reads none of them
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                    connection.sendall(b"GET /main.js HTTP/1.1\r\nHost: localhost\r\n\r\n" * 200)
                    over.wait(2)
        except OSError:  # the server may close the connection at any time
            pass
