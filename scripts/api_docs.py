"""The API pages: a hook for MkDocs and an extension for griffe, both named in mkdocs.yml.

The hook makes an editable install readable for griffe.

The extension shows lazy attributes as properties. In compiled modules it removes two additions of the inspection: the
signature that Cython puts at the start of a docstring, and the docstring of a constant's type. It warns of every public
function, class or property that a page in docs/api shows and that has no docstring. `mkdocs build --strict` then fails.
"""

import atexit
import logging
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import griffe

PAGES = Path(__file__).parents[1] / "docs" / "api"
SHOWN = re.compile(r"^::: (\S+)$", re.MULTILINE)  # how a page names the module or object that it shows

logger = logging.getLogger("mkdocs.mobilesam")  # strict mode counts the warnings of loggers below "mkdocs"


def on_startup(**_: Any) -> None:
    """Link the files of an editable install into one folder, because `mobilesam.kernels` lies outside `mobilesam`."""
    package, *parts = (folder_of(f"mobilesam{name}") for name in ("", ".kernels", ".weights"))
    if all(part.parent == package for part in parts):
        return
    folder = Path(tempfile.mkdtemp(prefix="mobilesam-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for source in (package, *parts):
        target = folder / "mobilesam" / ("" if source == package else source.name)
        shutil.copytree(source, target, copy_function=os.symlink, ignore=shutil.ignore_patterns("__pycache__"))
    sys.path.insert(0, str(folder))


def folder_of(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{package} is not installed: the API pages need it (pip install -e '.[docs]')")
    return Path(spec.origin).parent


class ApiDocs(griffe.Extension):
    """Prepares the docstrings of the package for the API pages, and checks them."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        if not isinstance(obj.filepath, Path) or obj.filepath.suffix != ".so":
            return
        obj.labels.discard("method descriptor")
        if obj.is_attribute and "property" not in obj.labels:
            obj.docstring = None  # for a constant, inspection finds the docstring of its type
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
        except griffe.AliasResolutionError:  # the member is imported from another package
            continue
        is_property = target.is_attribute and "property" in target.labels
        if (target.is_function or target.is_class or is_property) and not target.has_docstring:
            yield f"{parent.path}.{name}"
        if target.is_class:
            yield from _without_docstring(target)
