"""New processes while another thread uses the library for the first time compute the same bits, without a hang."""

import os
from pathlib import Path

import commands
import pytest

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

# A fork during an import is not tested: Python's lock of the module stays locked in the child.
RANDOM_MOMENTS = """
import hashlib, os, random, signal, threading, time
import mobilesam
from PIL import Image
from mobilesam.cli import segment
from mobilesam.api import loading, model
from mobilesam.network import image_encoder, mask_decoder, prompt_encoder

Image.preinit()  # imports Pillow's plugins

def answer():
    model = mobilesam.load("lite.safetensors", threads=2)
    result = model.encode("photos/a.png").segment(box=(9, 9, 50, 40))
    return hashlib.sha256(result.low_res.tobytes() + result.scores.tobytes()).digest()

moments, answers = random.Random(0), []
for _ in range(20):
    thread = threading.Thread(target=lambda: answers.append(answer()))
    thread.start()
    time.sleep(moments.uniform(0, 0.25))
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        signal.alarm(120)  # ends a child that hangs
        os.write(writer, answer())
        os._exit(0)
    os.close(writer)
    thread.join()
    answers.append(os.read(reader, 32))
    os.close(reader)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
print(len(answers), len(set(answers)))
"""


@needs_fork
def test_at_random_moments(folder: Path) -> None:
    code, out, err = commands.finish(commands.python(folder, RANDOM_MOMENTS), 600)
    assert code == 0, err
    assert out == "40 1\n"


MULTIPROCESSING = """
import hashlib, multiprocessing, sys, threading
import mobilesam

def answer(_=None):
    result = mobilesam.load("lite.safetensors", threads=2).encode("photos/a.png").segment(box=(9, 9, 50, 40))
    return hashlib.sha256(result.low_res.tobytes() + result.scores.tobytes()).hexdigest()

if __name__ == "__main__":
    answers, context = [], multiprocessing.get_context(sys.argv[1])
    if sys.argv[1] == "forkserver":
        context.set_forkserver_preload(["mobilesam", "mobilesam.api.model"])
    from PIL import Image
    import mobilesam.api.loading, mobilesam.api.model, mobilesam.network.mask_decoder, mobilesam.network.prompt_encoder
    Image.preinit()  # a fork during an import could hang the child
    first = threading.Thread(target=lambda: answers.append(answer()))
    first.start()
    with context.Pool(2) as pool:
        answers += pool.map_async(answer, range(4), 1).get(100)
    first.join()
    print(len(answers), len(set(answers)))
"""


@pytest.mark.parametrize(
    "method", [pytest.param("fork", marks=needs_fork), pytest.param("forkserver", marks=needs_fork), "spawn"]
)
def test_multiprocessing(folder: Path, method: str) -> None:
    (folder / "program.py").write_text(MULTIPROCESSING)
    # The processes of forkserver and spawn import the main module by its path.
    program = "import subprocess, sys; sys.exit(subprocess.call([sys.executable, 'program.py', sys.argv[1]]))"
    code, out, err = commands.finish(commands.python(folder, program, method))
    assert code == 0, err
    assert out == "5 1\n"
