"""docs/decoder.md: its Python runs, each block by itself."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "decoder.md"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def python_blocks(text: str) -> list[tuple[int, str]]:
    """Each block's code, and the number of its first line."""
    return [(text.count("\n", 0, block.start(1)) + 1, block[1]) for block in BLOCK.finditer(text)]


BLOCKS = python_blocks(PAGE.read_text(encoding="utf-8"))


def test_the_page_has_python() -> None:
    assert BLOCKS


@pytest.mark.parametrize("line, code", [pytest.param(*block, id=str(block[0])) for block in BLOCKS])
def test_a_block_runs(line: int, code: str) -> None:
    # Empty lines ahead, so that a traceback has the page's line numbers.
    exec(compile("\n" * (line - 1) + code, PAGE, "exec"), {})
