"""The running server: slow, faulty and many clients, shutdown, and errors of `mobilesam serve`."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from serving import CHELSEA, picture

from mobilesam.bench.page import run_server
from mobilesam.cli.main import main
from mobilesam.masks import rle

pytest.importorskip("fastapi", reason="the extra serve is not installed")
httpx = pytest.importorskip("httpx", reason="httpx is not installed")

from mobilesam.serve import server as serving  # noqa: E402
from mobilesam.serve.app import create_app  # noqa: E402
from mobilesam.serve.lanes import ClientGone, Lane, Stopped  # noqa: E402
from mobilesam.serve.limits import Limits, Overloaded  # noqa: E402

LOAD_SECONDS = float(os.environ.get("MOBILESAM_LOAD_SECONDS", "10"))
CLIENTS, ROUNDS = 8, 3
ROUND_BYTES = CLIENTS * 4 * (4 * 64 * 64 * 256)  # for each client, four float32 arrays of an embedding's size


@pytest.fixture
def impatient(model, monkeypatch):
    """The address of a server in this process that closes a connection if no data arrive for a second."""
    monkeypatch.setattr(serving.PatientProtocol, "header_seconds", 1.0)
    monkeypatch.setattr(serving.PatientProtocol, "unread_seconds", 1.0)
    with serving.listen("127.0.0.1", 0, 0) as listener:
        running = serving.create(create_app(model, Limits(stall_seconds=1.0)))
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield listener.getsockname()
        finally:
            running.should_exit = True
            thread.join()


def closes(connection: socket.socket) -> bytes:
    """Return all bytes that are received until the server closes the connection."""
    connection.settimeout(20)
    return b"".join(iter(lambda: connection.recv(65536), b""))


def test_a_stalled_client_is_disconnected_and_blocks_nobody(impatient):
    upload = b"POST /api/images HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\nhalf of it"
    beginnings = {b"": b"", b"GET / HT": b"", b"GET / HTTP/1.1\r\nHost: local": b"", upload: b"HTTP/1.1 408"}
    stalled = [socket.create_connection(impatient) for _ in beginnings for _ in range(10)]
    for connection, beginning in zip(stalled, [*beginnings] * 10):
        connection.sendall(beginning)
    assert httpx.get("http://{}:{}/".format(*impatient)).status_code == 200
    for connection, beginning in zip(stalled, [*beginnings] * 10):
        with connection:
            assert closes(connection).startswith(beginnings[beginning])
    with socket.create_connection(impatient) as idle:  # the connection stays idle after one request
        idle.sendall(b"GET /icon.svg HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert closes(idle).endswith(b"</svg>\n")


def test_a_client_that_does_not_read_is_disconnected(impatient):
    address = "http://{}:{}".format(*impatient)
    held = httpx.post(f"{address}/api/images", content=CHELSEA).json()["id"]
    request = f"GET /api/images/{held}/picture HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(impatient)
        deaf.settimeout(30)
        with pytest.raises(ConnectionError):  # responses fill the buffers until the server closes the connection
            while True:
                deaf.sendall(request * 100)
    assert httpx.get(f"{address}/api/images/{held}").status_code == 200


@pytest.mark.parametrize("rubbish", [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET\r\n\r\n", b"\0" * 5000])
def test_bytes_that_are_not_http_are_answered_with_400(impatient, rubbish):
    with socket.create_connection(impatient) as connection:
        connection.sendall(rubbish + b"\r\n\r\n")
        assert closes(connection).startswith(b"HTTP/1.1 400")
    assert httpx.get("http://{}:{}/".format(*impatient)).status_code == 200


class Request:
    """A request that only has the method `receive`, which returns when the client disconnects."""

    def __init__(self):
        self.gone = asyncio.Event()

    async def receive(self):
        await self.gone.wait()
        return {"type": "http.disconnect"}


def test_work_of_a_disconnected_client_is_not_started():
    lane = Lane("test", workers=1, places=2, share=2)
    leave, begun = threading.Event(), []

    async def play():
        running, waiting = Request(), Request()
        first = asyncio.create_task(lane.run(running, "a", lambda _: leave.wait(30) and "done"))
        second = asyncio.create_task(lane.run(waiting, "b", lambda _: begun.append(1)))
        await asyncio.sleep(0.05)
        with pytest.raises(Overloaded, match="2 requests to test wait already"):
            await lane.run(Request(), "c", lambda _: begun.append(2))
        waiting.gone.set()
        with pytest.raises(ClientGone):
            await second
        leave.set()
        assert await first == "done"
        await asyncio.sleep(0.05)
        assert await lane.run(Request(), "c", lambda _: "next") == "next"  # the cancelled request is not in the queue

    asyncio.run(play())
    lane.close()
    assert begun == []


def test_work_of_a_disconnected_client_is_stopped():
    lane = Lane("test", workers=1, places=2, share=2)
    begun, ended = threading.Event(), []

    def work(task):
        begun.set()
        while True:
            time.sleep(0.001)
            try:
                task.check()
            except Stopped:
                ended.append(task)
                raise

    async def play():
        request = Request()
        running = asyncio.create_task(lane.run(request, "a", work))
        await asyncio.to_thread(begun.wait)
        request.gone.set()
        with pytest.raises(ClientGone):
            await running

    asyncio.run(play())
    lane.close()  # waits for the work
    assert len(ended) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="no process can be interrupted alone on Windows")
def test_stopping_finishes_what_runs():
    with run_server() as (address, process):
        held = httpx.post(f"{address}/api/images", content=CHELSEA).json()["id"]
        search = {"points_per_side": 8, "pred_iou_thresh": 0.5}
        with httpx.stream("POST", f"{address}/api/images/{held}/everything", json=search, timeout=60) as answer:
            lines = answer.iter_lines()
            assert "progress" in json.loads(next(lines))
            process.send_signal(signal.SIGINT)
            rest = [json.loads(line) for line in lines]
        assert rest[-1].keys() == {"mask"}
        assert process.wait(30) == 0


@pytest.mark.exhaustive
def test_disconnecting_stops_a_search():
    """Eight long searches are started and abandoned. If the server did not stop them, the ninth would time out."""
    with run_server() as (address, _):
        held = httpx.post(f"{address}/api/images", content=CHELSEA).json()["id"]
        place = f"{address}/api/images/{held}/everything"
        for _ in range(8):
            with httpx.stream("POST", place, json={"points_per_side": 64, "crop_n_layers": 2}, timeout=60) as answer:
                assert answer.status_code == 200, answer.read()
                assert "progress" in json.loads(next(answer.iter_lines()))
            time.sleep(0.5)
        answer = httpx.post(place, json={"points_per_side": 1}, timeout=60)
        assert json.loads(answer.text.splitlines()[0]) == {"progress": [1, 1]}


def resident(process: subprocess.Popen) -> int:
    """Resident memory of the process in bytes."""
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())[1]) * 1024


@pytest.mark.exhaustive
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_many_clients_click_at_once(model):
    """Each client has a photo of a different size and checks that every mask belongs to its own photo."""
    sizes = [(320 + 40 * i, 240 + 24 * i) for i in range(CLIENTS)]
    photos = [picture(*size, "PNG") for size in sizes]
    points = [[[int(w * x), int(h * y)]] for (w, h) in sizes for x, y in [(0.5, 0.5), (0.2, 0.7), (0.8, 0.3)]]
    embeddings = [model.encode(photo) for photo in photos]
    expected = [embeddings[i // 3].segment(point).mask for i, point in enumerate(points)]

    with run_server() as (address, process):

        def click(i: int, seconds: float) -> int:
            answered = 0
            with httpx.Client(base_url=address, timeout=60) as client:
                held = client.post("/api/images", content=photos[i]).json()["id"]
                end = time.monotonic() + seconds
                while answered < 4 or time.monotonic() < end:
                    which = 3 * i + answered % 3
                    answer = client.post(f"/api/images/{held}/masks", json={"points": points[which]})
                    assert answer.status_code == 200, answer.text
                    np.testing.assert_array_equal(rle.decode(answer.json()["masks"][0]["rle"]), expected[which])
                    answered += 1
                assert client.delete(f"/api/images/{held}").status_code == 204
            return answered

        def round_of(seconds: float) -> int:
            with ThreadPoolExecutor(CLIENTS) as pool:
                return sum(pool.map(click, range(CLIENTS), [seconds] * CLIENTS))

        round_of(LOAD_SECONDS / ROUNDS)
        before = resident(process)
        answered = sum(round_of(LOAD_SECONDS / ROUNDS) for _ in range(ROUNDS))
        grown = resident(process) - before
    print(f"{answered} masks, {CLIENTS} clients, {LOAD_SECONDS:g} s; {before >> 20} MiB, then {grown / 2**20:+.0f} MiB")
    assert answered > 3 * CLIENTS
    assert grown < ROUND_BYTES  # memory of deleted images must be freed between the rounds


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux routes all of 127.0.0.0/8 to this machine")
def test_other_machines_cannot_connect_by_default():
    for options, reached in [((), False), (("--host", "0.0.0.0"), True)]:
        with run_server(*options) as (address, _):
            host, port = re.fullmatch(r"http://(.+):(\d+)", address).groups()
            assert host == "127.0.0.1"
            with socket.socket() as connection:
                assert (connection.connect_ex(("127.0.0.2", int(port))) == 0) is reached


def test_a_given_port_is_required_and_the_default_port_is_replaced(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["serve", "--port", str(port)]) == 2
        error = capsys.readouterr().err
        assert error == f"mobilesam: error: cannot listen on 127.0.0.1, port {port}: Address already in use\n"
        with serving.listen("127.0.0.1", None, port) as listener:
            assert listener.getsockname()[1] not in (0, port)


REFUSED = {
    "--port: expected 0 to 65535, got 70000": ["--port", "70000"],
    "--images: expected at least 1, got 0": ["--images", "0"],
    "cannot listen on no.such.host.invalid, port 8642": ["--host", "no.such.host.invalid"],
    "no such checkpoint: no.safetensors": ["--port", "0", "--weights", "no.safetensors"],
}


@pytest.mark.parametrize("message", REFUSED)
def test_a_wrong_command_ends_in_one_line(capsys, message):
    assert main(["serve", *REFUSED[message]]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("mobilesam: error: ")
    assert said.err.count("\n") == 1
    assert message in said.err


def test_without_the_extra_the_error_names_it():
    program = (
        "import sys; sys.modules['uvicorn'] = None; from mobilesam.cli.main import main; sys.exit(main(['serve']))"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert shown.returncode == 2
    assert shown.stderr == "mobilesam: error: serve needs uvicorn: pip install 'mobilesam[serve]'\n"
