"""The Python code and commands in README.md and docs/ run without errors.

The code blocks of a page run from top to bottom. An HTML comment before a block may exclude the block or start a
server for it. CONTRIBUTING.md lists these comments.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from checkpoint_files import write_torch
from golden import DATA, PHOTOS
from PIL import Image

import mobilesam
from mobilesam.bench.page import run_server
from mobilesam.checkpoints.reader import read
from mobilesam.cli import main as cli

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the pages' commands are for sh")
ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
DOCS = ROOT / "docs"
PAGES = [README, *sorted(DOCS.glob("*.md"))]
BLOCK = re.compile(r"(?:^<!-- ([^\n]*) -->\n)?^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LANGUAGES = ("python", "sh", "csv", "text")
NOT_RUN = re.compile(r"not run: \w+")  # the comment before a block that is not run, with the reason
WITH_SERVER = "server"
SERVER = "http://127.0.0.1:8642"


class Block(NamedTuple):
    """A block of code in a page.

    Attributes:
        line: Number of the first line.
        comment: HTML comment before the block, or "".
        language: Language of the block.
        text: Content of the block.
    """

    line: int
    comment: str
    language: str
    text: str


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks_of(text: str) -> Iterator[Block]:
    for match in BLOCK.finditer(text):
        yield Block(text.count("\n", 0, match.start(3)) + 1, match[1] or "", match[2], match[3])


def is_run(block: Block) -> bool:
    return not NOT_RUN.match(block.comment)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


each_page = pytest.mark.parametrize("page", PAGES, ids=name_of)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """The packaged weights, written as a `.pt` file like the official checkpoint."""
    path = tmp_path_factory.mktemp("docs") / "mobile_sam.pt"
    write_torch(path, read(mobilesam.load().checkpoint.path))
    return path


@pytest.fixture
def folder(tmp_path, monkeypatch, checkpoint) -> Path:
    """A new current directory with the files whose names occur in the pages."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "data").symlink_to(DATA)
    (tmp_path / "scripts").symlink_to(ROOT / "scripts")
    for name in ("mobile_sam.pt", "my_cells.pt", "my_decoder.pt"):
        (tmp_path / name).symlink_to(checkpoint)
    (tmp_path / "photos" / "more").mkdir(parents=True)
    with Image.open(PHOTOS["chelsea"]) as photo:
        for name in ("photo.jpg", "photos/other.jpg", "photos/more/third.jpg"):
            photo.save(tmp_path / name)
    (prompts,) = (block.text for block in blocks_of(text_of(DOCS / "command-line.md")) if block.language == "csv")
    (tmp_path / "prompts.csv").write_text(prompts)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_python(block: Block, page: Path, names: dict[str, object]) -> None:
    # Empty lines before the code give tracebacks the line numbers of the page.
    code = "\n" * (block.line - 1) + block.text
    if block.comment == WITH_SERVER:
        assert SERVER in code
        with run_server() as (address, _):
            exec(compile(code.replace(SERVER, address.rstrip("/")), page, "exec"), names)
    else:
        exec(compile(code, page, "exec"), names)


def commands_of(block: Block) -> list[str]:
    """Return the commands of a block, one for each line, without an installation command before `&&`."""
    return [line.rpartition("&& ")[2] for line in block.text.splitlines() if line and not line.startswith("#")]


def check_options(command: str) -> list[str]:
    """Return the words of a command. A command `mobilesam` must have valid options."""
    words = shlex.split(command, comments=True)
    if words[0] == "mobilesam":
        cli.make_parser().parse_args(words[1:])
    return words


def run_command(command: str, folder: Path) -> None:
    words = check_options(command)
    assert words[0] in ("mobilesam", "python"), f"not run by this test: {command}"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    shown = subprocess.run(
        command, cwd=folder, shell=True, capture_output=True, text=True, env=os.environ | {"PATH": path}
    )
    assert (shown.returncode, shown.stderr) == (0, ""), command
    assert shown.stdout
    for option in ("--output", "--overlay", "--cutout"):
        for place in (folder / words[i + 1] for i, word in enumerate(words) if word == option):
            assert place.is_file() or (place.is_dir() and any(place.iterdir())), command


@each_page
def test_every_block_has_a_language_and_a_known_comment(page):
    text = text_of(page)
    found = list(blocks_of(text))
    assert len(found) == len(re.findall(r"^```\w*$", text, re.MULTILINE)) / 2
    for block in found:
        assert block.language in LANGUAGES, f"{name_of(page)}:{block.line}"
        assert block.comment in ("", WITH_SERVER) or not is_run(block), f"{name_of(page)}:{block.line}"


@each_page
def test_a_page_runs_from_top_to_bottom(page, folder):
    names: dict[str, object] = {}
    for block in blocks_of(text_of(page)):
        if block.language == "python" and is_run(block):
            run_python(block, page, names)
        elif block.language == "sh":
            for command in commands_of(block):
                (run_command(command, folder) if is_run(block) else check_options(command))
    if page.name == "python.md":
        written = ("mask.png", "overlay.png", "cat.svg", "cat.png", "chelsea.embedding", "objects.json", "labels.png")
        assert [name for name in written if not (folder / name).is_file()] == []
        with Image.open(folder / "labels.png") as labels:
            assert (labels.mode, labels.size, labels.getextrema()) == ("I;16", (451, 300), (0, 2))


def test_the_decoder_page_has_python():
    assert any(block.language == "python" for block in blocks_of(text_of(DOCS / "decoder.md")))


def test_the_readme_is_short():
    assert len(text_of(README).splitlines()) <= 150


def anchors(page: Path) -> set[str]:
    """Return the anchors that MkDocs makes for the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", BLOCK.sub("", text_of(page)), re.MULTILINE)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", heading).strip().lower()) for heading in headings}


@pytest.mark.parametrize("page", [README, ROOT / "CONTRIBUTING.md"], ids=name_of)
def test_links_outside_the_site_lead_somewhere(page):
    """Links to files outside docs/ exist. MkDocs checks the links between the pages of docs/."""
    links = re.findall(r"\]\((?!http)([^)]+)\)", BLOCK.sub("", text_of(page)))
    assert links
    for link in links:
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.is_file(), link
        assert not anchor or anchor in anchors(target), link


def test_the_figures_of_the_readme_are_those_of_the_performance_page():
    figures = re.findall(r"(?<=\| )[\d.]+ (?:ms|s|MB)(?= )", text_of(README))
    assert len(figures) == 6
    measured = text_of(DOCS / "performance.md")
    assert [figure for figure in figures if figure not in measured] == []


def test_the_picture_is_what_the_first_command_draws(model):
    result = mobilesam.segment(PHOTOS["chelsea"], [(220, 140)], model=model)
    drawn = np.asarray(result.overlay(PHOTOS["chelsea"]))
    with Image.open(DOCS / "overlay.png") as picture:
        shown = np.asarray(picture)
    # Masks of two ISAs may differ in a fraction of 0.0005 of their pixels.
    # Each different mask pixel changes up to 9 pixels of the overlay.
    assert (shown != drawn).any(axis=2).sum() <= 9 * 0.0005 * result.mask.sum()
