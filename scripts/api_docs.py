"""A griffe extension for the API pages, named in mkdocs.yml.

It shows lazy attributes as properties. It removes from compiled modules what inspection adds: the signature that Cython
puts at the start of a docstring, and the docstring of a constant's type. It warns of every public function, class or
property that a page in docs/api shows and that has no docstring. `mkdocs build --strict` then fails.
"""

import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe

PAGES = Path(__file__).parents[1] / "docs" / "api"
SHOWN = re.compile(r"^::: (\S+)$", re.MULTILINE)  # how a page names the module or object that it shows

logger = logging.getLogger("mkdocs.mobilesam")  # strict mode counts the warnings of loggers below "mkdocs"


class ApiDocs(griffe.Extension):
    """Prepares the docstrings of the package for the API pages, and checks them."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        if not isinstance(obj.filepath, Path) or obj.filepath.suffix != ".so":
            return
        obj.labels.discard("method descriptor")
        if obj.is_attribute and "property" not in obj.labels:
            obj.docstring = None  # inspection finds the docstring of the value's type
        if obj.docstring:
            obj.docstring.value = re.sub(rf"\A[\w.]*\b{obj.name}\(.*\n*", "", obj.docstring.value)

    def on_class_members(self, *, cls: griffe.Class, **_: Any) -> None:
        """Show functions under `util.deferred.lazy` as the properties that they are."""
        for name, member in list(cls.members.items()):
            if isinstance(member, griffe.Function) and any(str(d.value) == "lazy" for d in member.decorators):
                property_ = griffe.Attribute(
                    name, lineno=member.lineno, endlineno=member.endlineno, annotation=member.returns
                )
                property_.docstring = member.docstring
                property_.labels.add("property")
                cls.set_member(name, property_)

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        if pkg.path == "mobilesam":
            for path in without_docstring(pkg):
                logger.warning("%s: a page in docs/api shows it, but it has no docstring", path)


def without_docstring(package: griffe.Module) -> Iterator[str]:
    """The paths of the public objects on the API pages that have no docstring."""
    for page in sorted(PAGES.glob("*.md")):
        for shown in SHOWN.findall(page.read_text(encoding="utf-8")):
            inner = shown.removeprefix("mobilesam").lstrip(".")
            module = package[inner] if inner else package
            yield from _without_docstring(module.final_target if isinstance(module, griffe.Alias) else module)


def _without_docstring(parent: griffe.Object) -> Iterator[str]:
    for name, member in parent.members.items():
        if name.startswith("_") or not member.is_public:
            continue
        try:
            target = member.final_target if isinstance(member, griffe.Alias) else member
        except griffe.AliasResolutionError:  # imported from another package
            continue
        is_property = target.is_attribute and "property" in target.labels
        if (target.is_function or target.is_class or is_property) and not target.has_docstring:
            yield f"{parent.path}.{name}"
        if target.is_class:
            yield from _without_docstring(target)
