"""Timing the page of `mobilesam serve` in a headless Chromium: from a mouse move to the preview of the mask.

The browser's own clock measures the time: from the time stamp of the mouse event to the first task after the frame in
which the mask was drawn. The delay of the screen is not included.
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

Viewport = tuple[int, int]

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update")
VIEWPORT = {"width": 1280, "height": 800}
SIZES: tuple[Viewport, ...] = ((1024, 683), (4000, 3000))
PATIENCE = 120_000  # milliseconds that a step in the browser may take: generous, because the machine may be busy
PAUSE = 0.05  # seconds: longest wait between mouse moves. The waits differ, so moves do not align with frames
# The position of the photo's pixel (0, 0) on the screen, and the size of a photo pixel in CSS pixels.
WHERE = "() => { const box = photo.getBoundingClientRect(); return [box.x, box.y, box.width / photo.offsetWidth]; }"


@contextmanager
def browser() -> Iterator[Browser]:
    """The system's Chromium, headless and with a fresh profile.

    Yields:
        The browser.

    Raises:
        ImportError: playwright is not installed. The message says how to install it.
        FileNotFoundError: Chromium is not installed. The message says how to install it.
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
    """Run `mobilesam serve` in a process, on a free port.

    Args:
        options: further options of the command.

    Yields:
        The server's address, and its process.

    Raises:
        RuntimeError: the server does not start, does not end when it is interrupted, or writes to stderr. On Windows,
            where no process can interrupt another one, the server is killed.
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
            if sys.platform == "win32":
                process.terminate()
            elif process.poll() is None:
                process.send_signal(signal.SIGINT)
            _, complaints = process.communicate(timeout=60)
            if (process.returncode and sys.platform != "win32") or complaints:
                raise RuntimeError(f"mobilesam serve ended with exit code {process.returncode}: {complaints}")
        finally:
            process.kill()


def open_photo(page: Page, photo: Path) -> None:
    """Open a photo on the page, and wait until it is encoded."""
    page.set_input_files("#chooser", photo)
    page.wait_for_selector("#stage.ready[aria-busy=false]")


def on_screen(page: Page, x: float, y: float) -> tuple[float, float]:
    """The position on the screen, in CSS pixels, of the centre of the photo's pixel (x, y)."""
    left, top, scale = page.evaluate(WHERE)
    return left + (x + 0.5) * scale, top + (y + 0.5) * scale


def preview(page: Page, x: float, y: float) -> float:
    """Move the mouse to the photo's pixel (x, y), and return the milliseconds until the mask's preview is drawn."""
    page.evaluate(
        "() => { window.drawn = null; const told = ({ detail }) => (window.drawn = { detail });"
        " document.getElementById('stage').addEventListener('preview-drawn', told, { once: true }); }"
    )
    page.mouse.move(*on_screen(page, x, y))
    milliseconds: float = page.wait_for_function("() => window.drawn").evaluate("({ detail }) => detail")
    return milliseconds


def times(page: Page, size: Viewport, moves: int) -> list[float]:
    """Time mouse moves to points all over the photo, after three moves that are not counted.

    Args:
        page: the page, with the photo open.
        size: (width, height) of the photo.
        moves: number of moves.

    Returns:
        Milliseconds from each move to its preview.
    """
    taken = []
    for i in range(-3, moves):
        show(f"{size[0]}x{size[1]}: move {max(i + 1, 0)} of {moves}")
        u, v = (i * 0.7548776662) % 1, (i * 0.5698402910) % 1  # the R2 sequence spreads the points evenly
        taken.append(preview(page, int(size[0] * (0.05 + 0.9 * u)), int(size[1] * (0.05 + 0.9 * v))))
        time.sleep(PAUSE * (i * 0.6180339887 % 1))
    show("")
    return taken[3:]


def line(size: Viewport, taken: Sequence[float]) -> str:
    """One row of the table: size, number of moves, minimum, median and 95th percentile in milliseconds."""
    percentile95 = statistics.quantiles(taken, n=20, method="inclusive")[-1]
    figures = "".join(f"{value:>9.1f}" for value in (min(taken), statistics.median(taken), percentile95))
    return f"{size[0]}x{size[1]:<8}{len(taken):>7}{figures}"


def main(argv: Sequence[str] | None = None, *, image: Path | None = None) -> int:
    """The command of scripts/benchmark_page.py. Returns the exit code.

    Args:
        argv: arguments of the command line. None for the arguments of this process.
        image: default of --image. None makes --image required.
    """
    parser = argparse.ArgumentParser(
        description="Time the page of mobilesam serve in a headless Chromium: milliseconds from a mouse move to the "
        "preview of the mask."
    )
    add = parser.add_argument
    add("--moves", type=positive, default=60, metavar="N", help="mouse moves for each size (default: %(default)s)")
    default = " and ".join("{}x{}".format(*size) for size in SIZES)
    add(
        "--size", type=_size, action="append", metavar="WxH", help=f"size of the photo; repeatable (default: {default})"
    )
    add(
        "--image", type=Path, default=image, required=image is None, metavar="FILE", help="photo (default: %(default)s)"
    )
    add("--threads", type=positive, metavar="N", help="threads of the server (default: the usable CPUs)")
    arguments = parser.parse_args(argv)
    try:
        _run(arguments.image, arguments.size or SIZES, arguments.moves, arguments.threads)
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        print(f"benchmark_page: error: {describe(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _size(text: str) -> Viewport:
    if not re.fullmatch(r"[1-9]\d{0,4}x[1-9]\d{0,4}", text):
        raise argparse.ArgumentTypeError(f"expected a size such as 1024x683, got {text!r}")
    width, height = map(int, text.split("x"))
    return width, height


def _run(image: Path, sizes: Sequence[Viewport], moves: int, threads: int | None) -> None:
    from .. import kernels
    from ..images.photo import open_rgb
    from ..util.system import cpu_name

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
