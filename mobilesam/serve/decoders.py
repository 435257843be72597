"""A pool of child processes that decode uploads, with limits on time and memory."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from mobilesam.util.system import without_interrupts

from .decoding import ANSWER, JPEG, REQUEST, RGB, Opening
from .lanes import Task
from .limits import Limits, Overloaded, Refused

logger = logging.getLogger("mobilesam.serve")

_ENDED = "the image cannot be decoded: the process that decodes it ended"
# Each thread of a decoder takes address space, which is limited.
_FEW_THREADS = {"OPENBLAS_NUM_THREADS": "1", "TIFFFILE_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "2"}
_PROGRAM = "from mobilesam.serve.decoding import main; main()"


class Answer(NamedTuple):
    """The answer of a child process: the fields of the JSON object, and the bytes of the picture."""

    fields: dict[str, Any]
    body: bytes


class Decoders:
    """A pool of child processes. All methods block, so they run in worker threads.

    Args:
        limits: The number of child processes (`decoders`), and the limits of each decoding.
        opening: How photos are opened.
    """

    def __init__(self, limits: Limits, opening: Opening) -> None:
        self._limits = limits
        self._options = json.dumps(
            {
                "pixels": limits.pixels,
                "bytes": limits.decode_bytes,
                "seconds": limits.decode_seconds,
                "opening": opening,
            }
        )
        self._places = threading.Semaphore(limits.decoders)
        self._idle: list[_Child] = []

    def start(self) -> None:
        """Start a process, so that the first upload does not wait for its start."""
        self._idle.append(_Child(self._options))

    def picture(self, data: bytes, task: Task) -> Image.Image:
        """Decode an image file to an upright RGB picture.

        Args:
            data: The bytes of the file.
            task: The task that this call belongs to. Stopping the task ends the child process.

        Raises:
            Refused: 415 if the format is not accepted, 413 if the image has too many pixels or needs too much memory,
                422 if the pixels cannot be decoded, or not in `Limits.decode_seconds`.
            Stopped: The task was stopped.
        """
        match self._ask(RGB, data, task):
            case {"size": [int(width), int(height)]}, body if len(body) == 3 * width * height > 0:
                return Image.frombytes("RGB", (width, height), body)
        raise Refused(422, _ENDED)

    def display_jpeg(self, data: bytes, task: Task) -> bytes:
        """Decode an image file, and return it as a JPEG file for display. Arguments and errors: see `picture`."""
        return self._ask(JPEG, data, task).body

    def close(self) -> None:
        """End the child processes. The pool must not be used by another thread."""
        while self._idle:
            self._idle.pop().end()

    def _child(self) -> _Child:
        """An idle process that is still alive, or a new process."""
        with suppress(IndexError):
            while True:
                child = self._idle.pop()
                if child.is_alive():
                    return child
                child.end()
        try:
            return _Child(self._options)
        except OSError as error:  # no memory, processes or file descriptors
            logger.warning("no process to decode an upload: %s", error)
            raise Overloaded("the server cannot start a process to decode the image", seconds=5) from None

    def _ask(self, form: bytes, data: bytes, task: Task) -> Answer:
        with self._places:
            task.check()
            child, answer, late = self._child(), None, threading.Event()

            def too_late() -> None:
                late.set()
                child.kill()

            timer = threading.Timer(self._limits.decode_seconds, too_late)
            timer.start()
            try:
                with task.stops(child.kill):
                    answer = child.ask(form, data, 4 * self._limits.pixels)
            finally:
                timer.cancel()
                timer.join()
                # A process that ran out of memory may not return its memory, so it is replaced.
                if late.is_set() or task.stopped or answer is None or answer.fields.get("status") == 413:
                    code = child.end()
                else:
                    self._idle.append(child)
            if answer is None:
                task.check()
                if late.is_set():
                    problem = f"the image cannot be decoded in {self._limits.decode_seconds:g} s, the limit"
                else:
                    problem = _ENDED
                    logger.warning("a process that decodes uploads ended with exit code %d", code)
                raise Refused(422, problem)
            if "error" in answer.fields:
                raise Refused(answer.fields["status"], answer.fields["error"])
            return answer


class _Child:
    """A child process that decodes. The process ends when its standard input is closed."""

    def __init__(self, options: str) -> None:
        # The child finds the package where this process found it. Its working folder must not hide the package.
        environment = {"PYTHONPATH": os.pathsep.join(path or str(Path.cwd()) for path in sys.path), **_FEW_THREADS}
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=os.sep,
            env={**os.environ, **environment},
            **without_interrupts(),  # Ctrl-C in a terminal ends the server, which then closes the input
        )

    def ask(self, form: bytes, data: bytes, most_bytes: int) -> Answer | None:
        """Send a request and return the answer. Returns None if the process has ended, or sends no valid answer."""
        requests, answers = self._process.stdin, self._process.stdout
        assert requests is not None and answers is not None
        try:
            requests.write(REQUEST.pack(form, len(data)))
            requests.write(data)
            requests.flush()
            head = answers.read(ANSWER.size)
            if len(head) < ANSWER.size:
                return None
            text_bytes, body_bytes = ANSWER.unpack(head)
            if text_bytes > 1 << 20 or body_bytes > most_bytes:
                return None
            fields, body = json.loads(answers.read(text_bytes)), answers.read(body_bytes)
        except (OSError, ValueError):
            return None
        return Answer(fields, body) if len(body) == body_bytes else None

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        self._process.kill()

    def end(self) -> int:
        """End the process, and return its exit code."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(OSError):  # bytes that the process has not read
                pipe.close()
        return self._process.wait()
