"""Console output of commands: one-line errors and progress lines."""

import io
import os
import sys
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

MOST_NAMES = 10  # file names in one message
MOST_CHARACTERS = 400  # of an error message; a longer message is cut
INTERVAL = 0.1  # seconds between updates of a progress line
BAR = 24  # characters
COLUMNS = 80  # of a terminal that does not tell its width


def describe(error: BaseException) -> str:
    """The error message in one line of at most MOST_CHARACTERS characters."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        return shortened(f"{error.strerror}: {error.filename}")
    return shortened(str(error)) or type(error).__name__


def shortened(message: str) -> str:
    """The message in one line. The middle of a long message is left out."""
    line = " ".join(message.split())
    half = MOST_CHARACTERS // 2 - 5
    return line if len(line) <= MOST_CHARACTERS else f"{line[:half]} [...] {line[-half:]}"


def print_any_text() -> None:
    """Let `print` write characters that the terminal's encoding lacks as escapes, such as \\xe9, instead of failing."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # the caller has closed the stream
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115 (kept open)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def finish_output(code: int) -> int:
    """Flush stdout and stderr at the end of the process. Python prints a traceback if its own flush at exit fails.

    Args:
        code: The exit code so far. If it is not 0, the command has printed an error already.

    Returns:
        The exit code: 2 instead of 0 if stdout cannot be written, because the disk is full or a pipe has no reader.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # for Python's own flush
            if code == 0:
                say_error(f"{error.strerror}: standard output")
                code = 2
    return code


def say_error(message: str) -> None:
    """Print an error to stderr. A stderr that cannot be written is no further error."""
    with suppress(OSError):
        print(f"mobilesam: error: {message}", file=sys.stderr)


def without_home(path: Path) -> str:
    """The path with ~ for the home folder, because issues are public and should not show user names."""
    try:
        home = Path.home()
    except RuntimeError:  # HOME is not set, and the user has no entry in the password database
        return str(path)
    return f"~/{path.relative_to(home)}" if path.is_relative_to(home) else str(path)


def say_failed(file: object, reason: str) -> None:
    """Print to stderr that an input failed, and why. The file is named once, even if the reason contains its name."""
    print(f"mobilesam: failed: {reason if str(file) in reason else f'{file}: {reason}'}", file=sys.stderr)


def say_skipped(names: Sequence[str], reason: str) -> None:
    """Print to stderr that files of a folder are skipped, and why. At most MOST_NAMES files are named."""
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    print(f"mobilesam: skipped: {', '.join(names[:MOST_NAMES])}{more}: {reason}", file=sys.stderr)


def say_counts(written: int, failed: int, there: int, total: int, folder: Path) -> None:
    """Print how many of `total` inputs were written, failed, or were there already, and how many were not reached."""
    counts = {"written": written, "failed": failed, "there already": there}
    counts["not reached: go on with --resume"] = total - written - failed - there
    said = [f"{count} {what}" for what, count in counts.items() if count or what == "written"]
    print(f"{', '.join(said)}: {folder}", flush=True)


def show_warnings_in_one_line() -> None:
    """Print each Python warning to stderr as one line without the line of code that caused it."""

    def one_line(message: Warning | str, *_: object, **__: object) -> None:
        # The text and the end of the line in one call, because several threads warn.
        sys.stderr.write(f"mobilesam: warning: {shortened(str(message))}\n")

    warnings.showwarning = one_line


def show(text: str) -> None:
    """Replace the progress line on stderr by `text`. Does nothing if stderr is not a terminal."""
    if sys.stderr.isatty():
        encoding, width = sys.stderr.encoding or "utf-8", _columns() - 1
        shown = text.encode(encoding, "backslashreplace").decode(encoding)[:width]  # an escape takes several columns
        # Blanks, because old consoles of Windows print the escape sequence that clears a line.
        print(f"\r{'':{width}}\r{shown}", end="", file=sys.stderr, flush=True)


def _columns() -> int:
    """The width of the terminal that shows stderr. stdout may be a file."""
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or COLUMNS
    except OSError:
        return COLUMNS


class Progress:
    """A progress line: the amount done, the rate and the time left. As a context manager it clears the line at the end.

    Attributes:
        total: Amount to do, or None if unknown.
        unit: Name of the counted items, in the plural.
        done: Amount done, including the amount that an earlier run did.
    """

    def __init__(self, total: float | None, unit: str, done: float = 0) -> None:
        self.total = total
        self.unit = unit
        self.done = self._before = done
        self._started = time.perf_counter()  # time.monotonic can stand still for 16 ms on Windows
        self._shown = 0.0

    def __enter__(self) -> "Progress":
        self.update(self.done)
        return self

    def __exit__(self, *error: object) -> None:
        show("")

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._started

    def update(self, done: float, note: str = "") -> None:
        """Set the amount done and update the line. `note` is shown at the end of the line."""
        self.done = done
        now = time.perf_counter()
        if now - self._shown >= INTERVAL:
            self._shown = now
            show(self.line(now - self._started) + (f", {note}" if note else ""))

    def line(self, seconds: float) -> str:
        """Return the text of the progress line, ``seconds`` after the task began."""
        rate = (self.done - self._before) / seconds if seconds > 0 else 0.0
        if self.total is None:
            return f"{_number(self.done)} {self.unit}, {rate:.2f} {self.unit}/s"
        share = self.done / self.total if self.total else 1.0
        bar = "#" * int(BAR * share)
        line = f"[{bar:<{BAR}}] {_number(self.done)}/{_number(self.total)} {self.unit}"
        if rate == 0:
            return line
        return f"{line}, {rate:.2f} {self.unit}/s, {duration((self.total - self.done) / rate)} left"


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.1f}"


def duration(seconds: float) -> str:
    """The duration as m:ss or h:mm:ss, such as 1:05 or 2:03:20."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
