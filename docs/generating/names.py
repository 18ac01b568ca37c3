"""``.. public-names:: MODULE…``: an entry with its docstring for every public name of modules.

Names are told apart by what they are. The classes of the package that they lead to, without being
public names themselves, have a section of their own: a report is a list of blocks, for one.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
import sys
import typing
from collections.abc import Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import SphinxDirective

PACKAGE = "pitome_fx"
SECTIONS = ("Functions", "Classes", "Data", "Errors and warnings")
LED_TO = "What these return and hold"


def public(module: ModuleType) -> dict[str, Any]:
    """The names in ``__all__``, or where there is none the functions that the module defines."""
    listed = getattr(module, "__all__", None) or [
        name
        for name, value in vars(module).items()
        if inspect.isfunction(value)
        and value.__module__ == module.__name__
        and not name.startswith("_")
    ]
    return {name: getattr(module, name) for name in listed}


def section_of(value: Any) -> str:
    """Where a name that is no module belongs."""
    if inspect.isclass(value):
        return "Errors and warnings" if issubclass(value, Exception) else "Classes"
    return "Functions" if inspect.isfunction(value) else "Data"


def led_to(values: Iterable[Any]) -> list[type]:
    """Dataclasses of the package that values return or hold, and so on; but for the values."""
    given = list(values)
    seen = list(given)
    for value in seen:
        for kind in _own_dataclasses(_types_in(value)):
            if kind not in seen:
                seen.append(kind)
    return seen[len(given) :]


def _types_in(value: Any) -> list[Any]:
    """What a function returns, a dataclass or a mapping holds."""
    if isinstance(value, Mapping):
        return [type(held) for held in value.values()]
    if inspect.isfunction(value):
        return [typing.get_type_hints(value).get("return")]
    if inspect.isclass(value) and dataclasses.is_dataclass(value):
        hints = typing.get_type_hints(value)
        return [hints[field.name] for field in dataclasses.fields(value)]
    return []


def _own_dataclasses(types: Iterable[Any]) -> Iterator[type]:
    for kind in types:
        yield from _own_dataclasses(typing.get_args(kind))
        own = getattr(kind, "__module__", "").partition(".")[0] == PACKAGE
        if own and inspect.isclass(kind) and dataclasses.is_dataclass(kind):
            yield kind


def entry(path: str, value: Any) -> list[str]:
    """The directive that documents a name, with what autodoc does not find by itself."""
    if inspect.isfunction(value):
        return [f".. autofunction:: {path}", ""]
    if not inspect.isclass(value):
        module, _, name = path.rpartition(".")
        doc = [f"   {line}" for line in docstring_of_data(name, value)]
        return [f".. py:data:: {name}", f"   :module: {module}", "", *doc, ""]
    if issubclass(value, Exception):
        return [f".. autoexception:: {path}", "   :show-inheritance:", ""]
    # A named tuple says of each field no more than its number.
    fields = ", ".join(getattr(value, "_fields", ()))
    without = [f"   :exclude-members: {fields}"] if fields else []
    return [f".. autoclass:: {path}", "   :members:", *without, ""]


def docstring_of_data(name: str, value: Any) -> list[str]:
    """The string below an assignment, in whichever module of the package makes it."""
    for place, module in list(sys.modules.items()):
        if place.partition(".")[0] == PACKAGE and vars(module).get(name) is value:
            documented = ModuleAnalyzer.for_module(place).find_attr_docs()
            if ("", name) in documented:
                return documented["", name]
    raise ValueError(f"{name}: no docstring stands below where {PACKAGE} assigns it")


def sections(module: ModuleType, further: Iterable[ModuleType]) -> Iterator[str]:
    """The lines of all sections: of a module, of modules among its names, of further ones."""
    names = public(module)
    modules = [value for value in names.values() if inspect.ismodule(value)]
    own = {name: value for name, value in names.items() if value not in modules}
    for section in SECTIONS:
        here = {name: value for name, value in own.items() if section_of(value) == section}
        yield from _section(section, {f"{module.__name__}.{name}": v for name, v in here.items()})
    more = led_to(own.values())
    more.sort(key=lambda kind: kind.__name__)
    yield from _section(LED_TO, {f"{kind.__module__}.{kind.__qualname__}": kind for kind in more})
    for inner in (*modules, *further):
        yield from (inner.__name__, "-" * len(inner.__name__), "")
        yield from (f".. automodule:: {inner.__name__}", "")
        for name, value in public(inner).items():
            yield from entry(f"{inner.__name__}.{name}", value)


def _section(title: str, entries: Mapping[str, Any]) -> Iterator[str]:
    if entries:
        yield from (title, "-" * len(title), "")
        for path, value in entries.items():
            yield from entry(path, value)


class PublicNames(SphinxDirective):
    """Sections of entries, which autodoc fills."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """The nodes of all sections."""
        first, *further = map(importlib.import_module, self.arguments[0].split())
        lines = sections(first, further)
        return self.parse_text_to_nodes("\n".join(lines), allow_section_headings=True)


def _on_signature(*event: Any) -> tuple[str, str] | None:
    """Sphinx reads a signature as Python, which the default of a field with a factory is not."""
    signature, returned = event[-2:]
    return signature and (signature.replace("<factory>", "..."), returned)


def _on_docstring(*event: Any) -> None:
    """Pages and public names that a docstring speaks of become links."""
    lines: list[str] = event[-1]
    names = public(importlib.import_module(PACKAGE))

    def linked(found: re.Match[str]) -> str:
        known = found[1] in names
        return f":py:obj:`{found[1]} <{PACKAGE}.{found[1]}>`" if known else found[0]

    for i, line in enumerate(lines):
        line = re.sub(r"docs/([\w-]+)\.md", r":doc:`/\1`", line)
        lines[i] = re.sub(r"``(\w+)``", linked, line)


def setup(app: Sphinx) -> dict[str, Any]:
    """What Sphinx calls."""
    app.add_directive("public-names", PublicNames)
    app.connect("autodoc-process-signature", _on_signature)
    app.connect("autodoc-process-docstring", _on_docstring)
    return {"parallel_read_safe": True}
