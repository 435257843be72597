"""A `mobilesam serve` of its own process, and pictures to send to it."""

import io
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from golden import PHOTOS
from PIL import Image

CHELSEA = PHOTOS["chelsea"].read_bytes()  # 451x300
JSON = {"Content-Type": "application/json"}


def picture(width: int, height: int, form: str = "JPEG") -> bytes:
    """The photo rocket in another size, as a file."""
    file = io.BytesIO()
    with Image.open(PHOTOS["rocket"]) as photo:
        photo.convert("RGB").resize((width, height)).save(file, form)
    return file.getvalue()


@contextmanager
def server(*options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Its address and process; at the end it must stop by itself when interrupted, and without a word."""
    command = [sys.executable, "-m", "mobilesam", "serve", "--port", "0", *options]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        said = process.stdout.readline()
        address = re.search(r"http://\S+", said)
        assert address, said + process.stderr.read()
        yield address[0].rstrip("/"), process
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        _, complaints = process.communicate(timeout=60)
        assert process.returncode == 0, complaints
        assert complaints == ""
    finally:
        process.kill()
        process.communicate()
