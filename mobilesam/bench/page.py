"""Timing the page of `mobilesam serve` in a headless Chromium: from a move of the mouse to the preview that it draws.

The clock is the browser's own: from the time stamp of the mouse's event to the first task after the frame in which the
mask was drawn on the canvas. What the screen itself adds is not in it.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..util.console import describe, show
from ..util.options import positive

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

Size = tuple[int, int]

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
VIEWPORT = {"width": 1280, "height": 800}
SIZES: tuple[Size, ...] = ((1024, 683), (4000, 3000))
PATIENCE = 120_000  # milliseconds that a step in the browser may take, on a machine that does much else
PAUSE = 0.05  # seconds at most between a preview and the next move; drawn evenly, or moves would keep step with frames
# Where a photo's pixel (0, 0) is on the screen, and how many CSS pixels one of its pixels takes.
WHERE = "() => { const box = photo.getBoundingClientRect(); return [box.x, box.y, box.width / photo.offsetWidth]; }"


@contextmanager
def browser() -> Iterator[Browser]:
    """A headless Chromium, the system's own, with a fresh profile; nothing is downloaded.

    Raises ImportError or FileNotFoundError, with what to install, where there is none.
    """
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        raise ImportError("this needs playwright: pip install 'mobilesam[test]'") from None
    chromium = next(filter(None, map(shutil.which, NAMES)), None)
    if chromium is None:
        raise FileNotFoundError("this needs Chromium: apt-get install chromium (it is looked for in PATH)")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=list(FLAGS), timeout=PATIENCE)
        try:
            yield started
        finally:
            started.close()


@contextmanager
def run_server(*options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A `mobilesam serve` of its own process, on a free port: its address and process.

    Raises RuntimeError where it does not start or does not stop, without a word, when it is interrupted.
    """
    command = [sys.executable, "-m", "mobilesam", "serve", "--port", "0", *options]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            assert process.stdout is not None
            address = re.search(r"http://\S+", process.stdout.readline())
            if address is None:
                raise RuntimeError(f"mobilesam serve did not start: {process.communicate(timeout=60)[1].strip()}")
            yield address[0].rstrip("/"), process
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            _, complaints = process.communicate(timeout=60)
            if process.returncode or complaints:
                raise RuntimeError(f"mobilesam serve ended with exit code {process.returncode}: {complaints}")
        finally:
            process.kill()


def open_photo(page: Page, photo: Path) -> None:
    """Choose the photo on the page, and wait until it is encoded."""
    page.set_input_files("#chooser", photo)
    page.wait_for_selector("#stage.ready[aria-busy=false]")


def on_screen(page: Page, x: float, y: float) -> tuple[float, float]:
    """Where the middle of the photo's pixel (x, y) is."""
    left, top, scale = page.evaluate(WHERE)
    return left + (x + 0.5) * scale, top + (y + 0.5) * scale


def preview(page: Page, x: float, y: float) -> float:
    """Move the mouse to the photo's pixel (x, y), wait for the preview there; milliseconds from one to the other."""
    page.evaluate(
        "() => { window.drawn = null; const told = ({ detail }) => (window.drawn = { detail });"
        " document.getElementById('stage').addEventListener('preview-drawn', told, { once: true }); }"
    )
    page.mouse.move(*on_screen(page, x, y))
    milliseconds: float = page.wait_for_function("() => window.drawn").evaluate("({ detail }) => detail")
    return milliseconds


def times(page: Page, size: Size, moves: int) -> list[float]:
    """Milliseconds from move to preview for `moves` places all over the photo (w, h), after three to warm up."""
    taken = []
    for i in range(-3, moves):
        show(f"{size[0]}x{size[1]}: move {max(i + 1, 0)} of {moves}")
        u, v = (i * 0.7548776662) % 1, (i * 0.5698402910) % 1  # evenly spread: the R2 sequence
        taken.append(preview(page, int(size[0] * (0.05 + 0.9 * u)), int(size[1] * (0.05 + 0.9 * v))))
        time.sleep(PAUSE * (i * 0.6180339887 % 1))
    show("")
    return taken[3:]


def line(size: Size, taken: Sequence[float]) -> str:
    """The row of the table."""
    percentile95 = statistics.quantiles(taken, n=20, method="inclusive")[-1]
    figures = "".join(f"{value:>9.1f}" for value in (min(taken), statistics.median(taken), percentile95))
    return f"{size[0]}x{size[1]:<8}{len(taken):>7}{figures}"


def main(argv: Sequence[str] | None = None, *, image: Path | None = None) -> int:
    """The command of scripts/benchmark_page.py, whose default image is `image`. Returns the exit code."""
    parser = argparse.ArgumentParser(
        description="Time the page of mobilesam serve in a headless Chromium: milliseconds from a move of the mouse to "
        "the preview that it draws."
    )
    add = parser.add_argument
    add("--moves", type=positive, default=60, metavar="N", help="of the mouse, for each size (default: %(default)s)")
    default = " and ".join("{}x{}".format(*size) for size in SIZES)
    add("--size", type=_size, action="append", metavar="WxH", help=f"of the photo; repeatable (default: {default})")
    add("--image", type=Path, default=image, required=image is None, metavar="FILE", help="(default: %(default)s)")
    add("--threads", type=positive, metavar="N", help="of the server (default: the usable CPUs)")
    arguments = parser.parse_args(argv)
    try:
        _run(arguments.image, arguments.size or SIZES, arguments.moves, arguments.threads)
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        print(f"benchmark_page: error: {describe(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _size(text: str) -> Size:
    if not re.fullmatch(r"[1-9]\d{0,4}x[1-9]\d{0,4}", text):
        raise argparse.ArgumentTypeError(f"expected a size such as 1024x683, got {text!r}")
    width, height = map(int, text.split("x"))
    return width, height


def _run(image: Path, sizes: Sequence[Size], moves: int, threads: int | None) -> None:
    from .. import kernels
    from ..images.photo import open_rgb
    from ..util.host import cpu_name

    picture = open_rgb(image)
    threads = threads or kernels.threads.default_threads()
    with tempfile.TemporaryDirectory(prefix="mobilesam-") as folder, browser() as chromium:
        print(f"{cpu_name()}, {threads} threads, {kernels.isa.current()}, Chromium {chromium.version}")
        print(f"{'photo':<13}{'moves':>7}{'min':>9}{'median':>9}{'95 %':>9}  [ms]", flush=True)
        with run_server("--threads", str(threads)) as (address, _):
            for size in sizes:
                photo = Path(folder, "photo.jpg")
                picture.resize(size).save(photo, quality=90)
                page = chromium.new_page(viewport=VIEWPORT)  # type: ignore[arg-type]
                page.set_default_timeout(PATIENCE)
                page.goto(address)
                open_photo(page, photo)
                print(line(size, times(page, size, moves)), flush=True)
                page.close()
