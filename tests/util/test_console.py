"""What commands print: in the encodings of consoles, and at their width."""

import io
import os
import sys

import pytest

from mobilesam.util import console


class Terminal(io.TextIOWrapper):
    """A text stream in memory that claims to be a terminal, file descriptor 99."""

    def __init__(self, encoding: str) -> None:
        super().__init__(io.BytesIO(), encoding, write_through=True, newline="\n")

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return 99

    def written(self) -> str:
        return self.buffer.getvalue().decode(self.encoding)

    def screen(self) -> list[str]:
        """The lines on the screen, without blanks at the end. A carriage return goes to the start of the line."""
        lines: list[list[str]] = []
        for written in self.written().split("\n"):
            line: list[str] = []
            for part in written.split("\r"):
                line[: len(part)] = part
            lines.append(line)
        return ["".join(line).rstrip() for line in lines]


ENCODINGS = pytest.mark.parametrize("encoding", ["cp1252", "cp437", "utf-8"])


def at_terminal(monkeypatch: pytest.MonkeyPatch, encoding: str) -> Terminal:
    """Let stderr be a terminal of 40 columns, and stdout another stream."""
    terminal = Terminal(encoding)
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(sys, "stdout", Terminal(encoding))
    monkeypatch.setattr(os, "get_terminal_size", lambda fd: os.terminal_size({99: (40, 20)}[fd]))
    console.print_any_text()
    return terminal


@ENCODINGS
def test_progress_fits_into_the_terminal_without_escape_sequences(monkeypatch, encoding):
    terminal = at_terminal(monkeypatch, encoding)
    monkeypatch.setattr(console, "INTERVAL", 0)
    with console.Progress(2, "images") as progress:
        progress.update(1, "café, 日本語の写真.jpg, 1 of 2")
        assert terminal.screen()[0].startswith("[############            ] 1/2 images,")
        longest = max(map(len, terminal.written().split("\r")))
        assert longest == 39  # the cursor stays in the line
        progress.update(2)
    assert terminal.screen() == [""]
    assert "\033" not in terminal.written()


@ENCODINGS
def test_a_shorter_line_leaves_nothing_of_a_longer_one(monkeypatch, encoding):
    terminal = at_terminal(monkeypatch, encoding)
    console.show("日" * 50)
    console.show("é")
    assert terminal.screen() == ["é"]
    console.say_failed("日.png", "damaged")
    assert terminal.screen()[0].endswith(".png: damaged")


def test_a_terminal_that_does_not_tell_its_width(monkeypatch):
    def unknown(fd):
        raise OSError("no terminal")

    terminal = Terminal("utf-8")
    monkeypatch.setattr(sys, "stderr", terminal)
    for size in (unknown, lambda fd: os.terminal_size((0, 0))):
        monkeypatch.setattr(os, "get_terminal_size", size)
        console.show("x" * 200)
        assert terminal.screen() == ["x" * 79]


@pytest.mark.parametrize("encoding", ["cp1252", "cp437"])
def test_characters_that_the_console_lacks_are_escapes(monkeypatch, encoding):
    shown = Terminal(encoding)
    monkeypatch.setattr(sys, "stdout", shown)
    console.print_any_text()
    print("café, 日.png")
    assert shown.screen()[0] == "café, \\u65e5.png"


def test_closed_streams_accept_any_text(monkeypatch):
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, None)  # as under pythonw on Windows
    console.print_any_text()
    print("日")
    console.say_error("日")
    assert console.finish_output(0) == 0
    for stream in (sys.stdout, sys.stderr):
        stream.close()


def test_a_run_that_takes_no_time_has_a_rate():
    """The clock of `Progress` must not stand still, because commands divide by its seconds."""
    progress = console.Progress(0, "images")
    assert progress.seconds > 0
