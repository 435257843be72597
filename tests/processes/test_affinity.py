"""A process that may use one CPU: one thread by default, the same bits, and no long wait for threads that spin."""

import os
from pathlib import Path

import commands
import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs sched_setaffinity")

ONE_CPU = "import os\nos.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
ANSWER = """
import hashlib, sys
import mobilesam

def answer(threads):
    model = mobilesam.load("lite.safetensors", threads=threads)
    result = model.encode("photos/a.png").segment(box=(9, 9, 50, 40))
    return model.threads, hashlib.sha256(result.low_res.tobytes() + result.scores.tobytes()).hexdigest()

"""
WHEN = {
    "never": ANSWER,
    "before the import": ONE_CPU + ANSWER,
    "after the import": ANSWER + ONE_CPU,
    "after a first use": ANSWER + "answer(4)\n" + ONE_CPU,
}


def test_bits_and_threads(folder: Path) -> None:
    said = {}
    for when, program in WHEN.items():
        code, out, err = commands.finish(commands.python(folder, program + "print(*answer(None), *answer(4))"))
        assert code == 0, err
        said[when] = out.split()
    assert len({digest for words in said.values() for digest in words[1::2]}) == 1
    assert {said[when][0] for when in WHEN if when != "never"} == {"1"}


def test_the_server_starts_and_answers(folder: Path) -> None:
    for module in ("fastapi", "uvicorn", "httpx", "contourpy"):
        pytest.importorskip(module)
    program = """
import httpx
from pathlib import Path
from mobilesam.bench.page import run_server

with run_server("--weights", "lite.safetensors") as (address, _):
    answer = httpx.post(f"{address}/api/images", content=Path("photos/a.png").read_bytes(), timeout=60)
    print(answer.status_code, answer.json()["width"])
"""
    code, out, err = commands.finish(commands.python(folder, ONE_CPU + program))
    assert code == 0, err
    assert out == "201 64\n"
