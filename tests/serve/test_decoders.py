"""The processes that decode uploads: their limits, their end, and what clients are told."""

import json
import os
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import processes
import pytest
from serving import CHELSEA, picture

pytest.importorskip("fastapi", reason="the extra serve is not installed")

from mobilesam.serve import decoders
from mobilesam.serve.decoders import Decoders
from mobilesam.serve.decoding import Opening
from mobilesam.serve.lanes import Stopped, Task
from mobilesam.serve.limits import MIB, Limits, Refused

# A decoder with faults. The bytes of the upload choose the fault.
FAULTY = """
import os, sys, time
from mobilesam.serve import decoding

decode = decoding.decode

def faulty(data, *rest):
    if data == b"hang":
        time.sleep(1000)
    if data == b"busy":
        sum(range(1 << 60))  # holds the GIL
    if data == b"crash":
        os.abort()
    if data == b"print":
        print("a library's message")
        os.write(1, b"another message")
    if data == b"garbage":
        os.write(answers, bytes(64))
    return decode(PHOTO if data == b"print" else data, *rest)

PHOTO = open(os.environ["PHOTO"], "rb").read()
answers = 3 if sys.platform == "linux" else 1
decoding.decode = faulty
decoding.main()
"""


@pytest.fixture
def faulty(monkeypatch, tmp_path):
    """Let new processes run the decoder with faults."""
    (tmp_path / "photo").write_bytes(CHELSEA)
    monkeypatch.setenv("PHOTO", str(tmp_path / "photo"))
    monkeypatch.setattr(decoders, "_PROGRAM", FAULTY)


@pytest.fixture
def pool(request):
    """A pool of one process. The parameters are Limits."""
    pool = Decoders(Limits(decoders=1, **getattr(request, "param", {})), Opening())
    yield pool
    pool.close()


def limits(**given):
    return pytest.mark.parametrize("pool", [given], indirect=True)


def works(pool):
    return pool.picture(CHELSEA, Task()).size == (451, 300)


def test_one_process_decodes_one_photo_after_the_other(pool):
    for size in ((7, 5), (451, 300), (1, 1)):
        assert pool.picture(picture(*size), Task()).size == size
    assert len(pool._idle) == 1
    assert pool.display_jpeg(CHELSEA, Task())[:2] == b"\xff\xd8"


@limits(decode_seconds=10)
def test_a_decoder_that_takes_too_long_is_replaced(pool, faulty):
    with pytest.raises(Refused, match="cannot be decoded in 10 s") as refused:
        pool.picture(b"hang", Task())
    assert refused.value.status_code == 422
    assert works(pool)


def test_a_decoder_that_crashes_is_replaced(pool, faulty):
    with pytest.raises(Refused, match="the process that decodes it ended") as refused:
        pool.picture(b"crash", Task())
    assert refused.value.status_code == 422
    assert works(pool)


def test_an_idle_decoder_that_was_killed_is_replaced(pool):
    assert works(pool)
    pool._idle[0]._process.kill()
    pool._idle[0]._process.wait()
    assert works(pool)


def test_what_a_library_prints_is_no_part_of_the_answer(pool, faulty):
    assert pool.picture(b"print", Task()).size == (451, 300)


@pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux limits a process's memory, and shows open files in /proc"
)
def test_a_false_answer_is_refused(pool, faulty):
    with pytest.raises(Refused):
        pool.picture(b"garbage", Task())
    assert works(pool)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits a process's memory")
@limits(decode_bytes=600 * MIB)
def test_memory_is_limited(pool):
    with pytest.raises(Refused, match="needs more than 600 MiB of memory") as refused:
        pool.picture(picture(7900, 7900, "PNG"), Task())
    assert refused.value.status_code == 413
    assert works(pool)


def test_stopping_a_task_ends_its_decoder(pool, faulty):
    task = Task()
    with ThreadPoolExecutor(1) as thread:
        decoding = thread.submit(pool.picture, b"hang", task)
        while not task._kill:
            time.sleep(0.01)
        task.stop()
        with pytest.raises(Stopped):
            decoding.result(timeout=20)
    assert not pool._idle
    assert works(pool)


def test_a_task_that_was_stopped_before_starts_no_decoder(pool):
    task = Task()
    task.stop()
    with pytest.raises(Stopped):
        pool.picture(CHELSEA, task)


def test_no_more_processes_than_the_limit(pool, faulty):
    tasks = [Task() for _ in range(3)]
    with ThreadPoolExecutor(3) as threads:
        hanging = [threads.submit(pool.picture, b"hang", task) for task in tasks]
        while not any(task._kill for task in tasks):
            time.sleep(0.01)
        time.sleep(0.2)
        assert sum(task._kill is not None for task in tasks) == 1
        for task in tasks:
            task.stop()
        for decoding in hanging:
            with pytest.raises(Stopped):
                decoding.result(timeout=20)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc to find the process")
def test_a_decoder_ends_with_the_server():
    code = """
import os
from mobilesam.serve.decoders import Decoders
from mobilesam.serve.decoding import Opening
from mobilesam.serve.lanes import Task
from mobilesam.serve.limits import Limits
from serving import CHELSEA
pool = Decoders(Limits(), Opening())
pool.picture(CHELSEA, Task())
print(pool._idle[0]._process.pid, flush=True)
os.kill(os.getpid(), 9)
"""
    done = processes.run(code)
    assert done.returncode == -signal.SIGKILL
    stat = Path(f"/proc/{int(done.stdout)}/stat")
    for _ in range(200):
        if not stat.exists() or ") Z " in stat.read_text():
            return
        time.sleep(0.05)
    os.kill(int(done.stdout), signal.SIGKILL)
    pytest.fail("the decoder is still there")


@pytest.mark.parametrize("data", [b"hang", b"busy"])
def test_a_decoder_that_takes_too_long_ends_without_the_server(faulty, monkeypatch, data):
    monkeypatch.setattr(
        decoders, "_PROGRAM", FAULTY.replace("decoding.main()", "decoding.GRACE_SECONDS = 0\ndecoding.main()")
    )
    options = {"pixels": 1000, "bytes": 2048 * MIB, "seconds": 1, "opening": Opening()}
    child = decoders._Child(json.dumps(options))
    assert child.ask(decoders.RGB, data, 1000) is None  # no other process ends the child
    assert child._process.wait(20) != 0
    child.end()


def test_ctrl_c_does_not_end_a_decoder(pool):
    """A terminal sends the signal to the server's process group, which its decoders are not in."""
    assert works(pool)
    if hasattr(os, "getpgid"):
        assert os.getpgid(pool._idle[0]._process.pid) != os.getpgid(0)


def test_a_client_that_leaves_frees_the_decoder(model, faulty):
    """The only decoder hangs. When the client leaves, the next upload is decoded."""
    uvicorn = pytest.importorskip("uvicorn")
    import http.client

    from mobilesam.serve import server
    from mobilesam.serve.app import create_app

    app = create_app(model, Limits(decoders=1, decode_seconds=300))
    with server.listen("127.0.0.1", 0, 0) as listener:
        running: uvicorn.Server = server.create(app)
        thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            address = listener.getsockname()
            leaving = http.client.HTTPConnection(*address, timeout=60)
            leaving.request("POST", "/api/images", b"hang")
            time.sleep(1)
            leaving.close()
            staying = http.client.HTTPConnection(*address, timeout=60)
            staying.request("POST", "/api/images", CHELSEA)
            assert staying.getresponse().status == 201
        finally:
            running.should_exit = True
            thread.join()
