"""Write the programming interface's pages, from the docstrings, into a folder: DIRECTORY. Needs pdoc."""

import re
import sys
import types
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy.typing
import pdoc
import pdoc.doc
import pdoc.render
from jinja2 import pass_context

import mobilesam

MODULES = [
    "mobilesam",
    "mobilesam.checkpoints.download",
    "mobilesam.checkpoints.errors",
    "mobilesam.checkpoints.fused",
    "mobilesam.checkpoints.reader",
    "mobilesam.images.canvas",
    "mobilesam.images.photo",
    "mobilesam.images.pictures",
    "mobilesam.masks.draw",
    "mobilesam.masks.polygons",
    "mobilesam.onnx.export",
    "mobilesam.regions",
    "mobilesam.results",
    "mobilesam.rle",
]
ARGUMENT = re.compile(r"(?m)^(?=[a-z_][\w, ]*: |Raises |Returns )")


class ArrayLike:
    """Stands for NumPy's in signatures, which would spell out all that it is."""


class NDArray:
    """As `ArrayLike`."""

    def __class_getitem__(cls, dtype: Any) -> types.GenericAlias:
        return types.GenericAlias(cls, dtype)


def write_pages(folder: Path) -> None:
    """Raises what pdoc warns of, and ValueError where something public has no docstring."""
    for stand_in in (ArrayLike, NDArray):
        stand_in.__module__ = "numpy.typing"
        setattr(numpy.typing, stand_in.__name__, stand_in)
    vars(mobilesam).update({name: getattr(mobilesam, name) for name in mobilesam.__all__})  # pdoc looks no further
    to_markdown = pdoc.render.env.filters["to_markdown"]

    @pass_context
    def with_paragraphs(context: Any, docstring: str) -> str:
        """In Markdown, a line of its own is none: an argument's needs an empty one before it."""
        markdown: str = to_markdown(context, ARGUMENT.sub("\n", docstring))
        return markdown

    pdoc.render.env.filters["to_markdown"] = with_paragraphs
    pdoc.render.configure(docformat="markdown", footer_text=f"mobilesam {mobilesam.__version__}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "'mobilesam' may refer")  # to the source folder too, if run from the root
        pdoc.pdoc(*MODULES, output_directory=folder)
    bare = [name for module in MODULES for name in undocumented(pdoc.doc.Module.from_name(module))]
    if bare:
        raise ValueError(f"no docstring: {', '.join(bare)}")


def undocumented(parent: pdoc.doc.Namespace[Any]) -> Iterator[str]:
    for member in parent.own_members:
        if member.kind in ("class", "function") and not member.name.startswith("_"):
            if not member.docstring:
                yield member.fullname
            if isinstance(member, pdoc.doc.Class):
                yield from undocumented(member)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"api_pages: error: expected a folder to write into, got {sys.argv[1:]}")
    write_pages(Path(sys.argv[1]))
