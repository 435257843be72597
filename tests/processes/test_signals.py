"""SIGINT, SIGTERM and SIGKILL while files are written: every file is complete, and the next run completes the rest."""

import os
import random
import signal
import sys
import time
from pathlib import Path

import commands
import pytest

from mobilesam.cli.main import main
from mobilesam.onnx import export

if sys.platform == "win32":
    pytest.skip("signals of POSIX", allow_module_level=True)

# Pauses before the first file is replaced. The temporary file is half as long as it should be. SIGINT raises
# KeyboardInterrupt even if the tests run as a shell's background job, which ignores SIGINT.
PAUSED = """
import signal, time
from pathlib import Path
from mobilesam.util import files

signal.signal(signal.SIGINT, signal.default_int_handler)
replaced = files._replaced

def paused(target, partial):
    whole = partial.read_bytes()
    if target.suffix not in (".npz", ".json") or target.parent.name == "out":  # the files of tiles are no results
        partial.write_bytes(whole[:len(whole) // 2])
        Path("half").touch()
        time.sleep({seconds})
        partial.write_bytes(whole)
    return replaced(target, partial)

files._replaced = paused
"""
CODES = {signal.SIGINT: 130, signal.SIGTERM: -signal.SIGTERM, signal.SIGKILL: -signal.SIGKILL}


def run(name: str) -> int:
    words = commands.COMMANDS[name]
    return export.main(words[1:]) if name == "onnx" else main(words)


def whole(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in commands.files(folder).items() if ".partial" not in name}


def wait_for(path: Path, process) -> None:
    limit = time.monotonic() + 120
    while not path.exists():
        if process.poll() is not None or time.monotonic() > limit:
            process.kill()
            pytest.fail(f"{process.communicate()}")
        time.sleep(0.005)


@pytest.fixture(scope="module")
def finished(inputs: Path, tmp_path_factory: pytest.TempPathFactory):
    """The results of a command, by its name. A command runs once."""
    results: dict[str, dict[str, bytes]] = {}

    def of(name: str) -> dict[str, bytes]:
        if name not in results:
            folder = tmp_path_factory.mktemp("finished")
            for path in inputs.iterdir():
                (folder / path.name).symlink_to(path)
            (folder / "out").unlink()
            (folder / "out").mkdir()
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(folder)
                assert run(name) == 0
            results[name] = commands.files(folder / "out")
        return results[name]

    return of


CASES = [(name, signal.SIGKILL) for name in commands.COMMANDS]
CASES += [(name, signal.SIGINT) for name in ("one photo", "photos", "scene")]
CASES += [(name, signal.SIGTERM) for name in ("one photo", "photos")]  # Python does not handle SIGTERM, as SIGKILL


@pytest.mark.parametrize(("name", "number"), CASES, ids=lambda value: getattr(value, "name", value))
def test_a_signal_while_a_file_is_written(folder: Path, finished, name: str, number: signal.Signals) -> None:
    commands.need_packages(name)
    expected = finished(name)
    # SIGINT waits for files that other threads write, so the pause is short. The other signals end it.
    seconds = 1 if (name, number) == ("photos", signal.SIGINT) else 100
    process = commands.start(folder, PAUSED.format(seconds=seconds), *commands.COMMANDS[name])
    wait_for(folder / "half", process)
    process.send_signal(number)
    code, _, err = commands.finish(process)
    assert (code, err) == (CODES[number], "")
    there = whole(folder / "out")
    results = {file: data for file, data in there.items() if "_tiles/" not in file}
    assert results.items() <= expected.items()
    assert len(results) < len(expected)
    partial = len(commands.files(folder / "out")) - len(there)
    assert (partial > 0) == (number != signal.SIGINT)
    if number == signal.SIGKILL:
        assert run(name) == 0
        assert commands.files(folder / "out") == expected


STARTED = """
import signal
from pathlib import Path
import mobilesam.cli.main
signal.signal(signal.SIGINT, signal.default_int_handler)
Path("half").touch()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_signals_at_random_moments(folder: Path, finished, number: signal.Signals) -> None:
    expected, moments = finished("photos"), random.Random(number)
    words = [*commands.COMMANDS["photos"], "--resume"]
    for _ in range(2):
        (folder / "half").unlink(missing_ok=True)
        process = commands.start(folder, STARTED, *words)
        wait_for(folder / "half", process)
        time.sleep(moments.uniform(0, 0.8))
        process.send_signal(number)
        code, _, err = commands.finish(process)
        assert code in (0, CODES[number], -number)
        assert err == ""
        assert whole(folder / "out").items() <= expected.items()
    assert main(words) == 0
    assert commands.files(folder / "out") == expected


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this OS has no named pipes")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_an_output_pipe_without_a_reader_can_be_interrupted(folder: Path, number: signal.Signals) -> None:
    os.mkfifo(folder / "pipe.png")
    prelude = STARTED.replace('"half"', '"started"') + (
        "from mobilesam.util import files\ncopy = files._copy\n"
        "def announced(*paths):\n    Path('half').touch()\n    copy(*paths)\nfiles._copy = announced\n"
    )
    box, weights = ["--box", "9,9,50,40"], ["--weights", commands.WEIGHTS]
    process = commands.start(folder, prelude, "segment", "photos/a.png", *box, "--output", "pipe.png", *weights)
    wait_for(folder / "half", process)
    time.sleep(0.2)  # the process opens the pipe
    process.send_signal(number)
    code, _, err = commands.finish(process)
    assert (code, err) == (CODES[number], "")
    assert (folder / "pipe.png").is_fifo()
